"use strict";
/* Before the page is painted: the colours that were chosen here last, else those of the system. Plots are told of a change. */
(() => {
  const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => { try { return localStorage.getItem("codesign-theme"); } catch { return null; } };
  const apply = () => {
    const dark = (stored() || (system.matches ? "dark" : "light")) === "dark";
    root.dataset.theme = dark ? "dark" : "light";
    const button = document.getElementById("theme-toggle");
    if (button) { button.textContent = dark ? "Light" : "Dark"; button.setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours"); button.hidden = false; }
    root.dispatchEvent(new Event("themechange"));
  };
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme-toggle").addEventListener("click", () => {
      try { localStorage.setItem("codesign-theme", root.dataset.theme === "dark" ? "light" : "dark"); } catch { /* no storage: the system's */ }
      apply();
    });
  });
})();
