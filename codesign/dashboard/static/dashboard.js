"use strict";
/* What the pages do beyond links and forms: plots, filters that apply at once, parts that refresh, choosing runs to compare. */
(() => {
  const root = document.documentElement;
  const $ = (selector, within = document) => Array.from(within.querySelectorAll(selector));

  // plotly.js adds style elements and attributes of its own, which the content security policy blocks: elements get this page's
  // nonce, attributes go through the object model.
  const nonce = document.currentScript.nonce, create = document.createElement, setAttribute = Element.prototype.setAttribute;
  document.createElement = function (...what) {
    const element = create.apply(this, what);
    if (element instanceof HTMLStyleElement) element.nonce = nonce;
    return element;
  };
  Element.prototype.setAttribute = function (name, value) {
    if (name === "style" && this.style) this.style.cssText = value; else setAttribute.call(this, name, value);
  };

  // ---- plots: the figure's data comes with the page, its colours from the page's style -----------------------------
  function draw() {
    for (const element of $("[data-chart]")) {
      const chart = JSON.parse(document.getElementById(element.dataset.chart).textContent);
      const style = getComputedStyle(root), colour = (name) => style.getPropertyValue(name).trim();
      const axis = (title, log, format) => ({ title: { text: title, standoff: 6 }, type: log ? "log" : "linear", gridcolor: colour("--line"), zeroline: false,
        linecolor: colour("--line"), automargin: true, ...(log ? { dtick: "D2", tickformat: format } : {}) });
      const layout = {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 50, r: 10, t: 10, b: 40 }, hovermode: "closest",
        font: { family: style.fontFamily, size: 12, color: colour("--ink") }, xaxis: axis(chart.x, chart.x_log, "~s"), yaxis: axis(chart.y, chart.y_log, "~g"),
        showlegend: true, legend: { font: { size: 11 }, maxheight: 0.9 }, uirevision: "kept",
        hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      };
      for (const trace of chart.data) {
        for (const part of [trace.line, trace.marker]) if (part && Number.isInteger(part.color)) part.color = colour(`--series-${part.color}`);
      }
      window.Plotly.react(element, chart.data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
    }
  }
  if ($("[data-chart]").length) {
    if (window.Plotly) draw(); else window.addEventListener("load", draw);
    root.addEventListener("themechange", () => { if (window.Plotly) draw(); });
  }

  // ---- a choice in a filter applies at once, text with Enter --------------------------------------------------------
  for (const form of $("form[data-auto]")) {
    const send = () => form.requestSubmit();
    for (const select of $("select", form)) select.addEventListener("change", send);
    form.addEventListener("submit", () => { for (const field of $("input, select", form)) if (!field.value) field.disabled = true; });
    addEventListener("pageshow", () => { for (const field of $("input, select", form)) field.disabled = false; });
  }

  // ---- choosing runs ------------------------------------------------------------------------------------------------
  const told = document.querySelector("[data-chosen]");
  if (told) {
    const button = document.querySelector("[data-needs]"), boxes = $("input[type=checkbox][form=chosen]");
    const count = () => {
      const chosen = boxes.filter((box) => box.checked).length;
      button.disabled = chosen < Number(button.dataset.needs);
      told.textContent = chosen === 0 ? "Choose two runs or more to compare them." : `${chosen} chosen${chosen === 1 ? "; one more to compare" : ""}`;
    };
    for (const box of boxes) box.addEventListener("change", count);
    addEventListener("pageshow", count);
    count();
  }

  // ---- pages that take seconds to make say so -----------------------------------------------------------------------
  for (const link of $("a[data-slow]")) {
    const text = link.textContent;
    link.addEventListener("click", () => { link.textContent = "making it, some seconds…"; });
    addEventListener("pageshow", () => { link.textContent = text; });
  }

  // ---- what is under way is asked for again, unless someone is using it or looks elsewhere --------------------------
  let failures = 0, took = 0; // milliseconds of the last answer: a slow one is asked for less often
  async function refresh() {
    const live = document.getElementById("live");
    const seconds = Number(live && live.dataset.refresh);
    if (!seconds) return;
    await new Promise((wake) => setTimeout(wake, Math.max(1000 * seconds, 10 * took) * (1 + failures)));
    if (!document.hidden && !live.contains(document.activeElement)) {
      const begun = performance.now();
      try {
        const answer = await fetch(location.href, { credentials: "same-origin" });
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
        if (answer.ok && fresh) replace(live, fresh);
        failures = 0;
        took = performance.now() - begun;
      } catch { failures = Math.min(failures + 1, 10); }
    }
    refresh();
  }
  /** New content around the plot, which stays where it is and keeps its zoom. */
  function replace(live, fresh) {
    const plot = live.querySelector("[data-chart]"), place = fresh.querySelector("[data-chart]");
    if (plot && place) place.replaceWith(plot);
    live.replaceChildren(...fresh.childNodes);
    if (fresh.dataset.refresh) live.dataset.refresh = fresh.dataset.refresh; else delete live.dataset.refresh;
    if (window.Plotly) draw();
  }
  refresh();

  const first = document.querySelector("[data-focus]");
  if (first) first.focus();
})();
