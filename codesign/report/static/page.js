"use strict";
/* The page's common part: data unpacked, one chosen design, one filter, themes, plots, tables. Contract: codesign/report/section.py. */
window.codesign = (() => {
  const LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const raw = JSON.parse(document.getElementById("codesign-data").textContent);
  const byId = (id) => document.getElementById(id);

  // ---- data ---------------------------------------------------------------------------------------------------------
  function column(packed, n) {
    if (Array.isArray(packed)) return packed;
    if ("all" in packed) return new Array(n).fill(packed.all);
    if ("q" in packed) return Array.from(unpack(packed), (v) => (Number.isNaN(v) ? null : v));
    if ("repeat" in packed) return column(packed.n, n).map((length) => new Array(length).fill(packed.repeat));
    const out = [];
    for (let i = 0; i < packed.at.length; i += packed.w) {
      let level = LEVELS.indexOf(packed.at[i]);
      if (packed.w === 2) level = LEVELS.length * level + LEVELS.indexOf(packed.at[i + 1]);
      out.push(packed.of[level]);
    }
    return out;
  }
  /** Values of codesign.report.packed.pack: 16 bits each on a logarithmic scale; NaN where there was none. */
  function unpack(packed) {
    const bytes = Uint8Array.from(atob(packed.q), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer), n = bytes.length / 2, out = new Float64Array(n);
    const span = Math.log(packed.high / packed.low);
    for (let i = 0; i < n; i++) {
      const q = view.getUint16(2 * i, true);
      out[i] = q === 65535 ? NaN : packed.low * Math.exp((span * q) / 65534);
    }
    return out;
  }

  const designs = [], known = [], names = new Map();
  const operators = {};
  function readDesigns(packed) {
    if (!packed) return;
    const n = column(packed.name, packed.n_designs + packed.known.length).length;
    const columns = {}, read = (group) => Object.fromEntries(Object.entries(packed[group]).map(([k, c]) => [k, column(c, n)]));
    for (const key of ["name", "precision", "loss", "loss_low", "loss_high", "p_budget", "p_front"]) columns[key] = column(packed[key], n);
    const bits = column(packed.marks.bits, n);
    const arch = read("arch"), values = read("values"), down = read("down"), up = read("up");
    const pick = (group, i) => { const o = {}; for (const k in group) if (group[k][i] !== null) o[k] = group[k][i]; return o; };
    for (let i = 0; i < n; i++) {
      const d = { index: i, name: columns.name[i], precision: columns.precision[i], arch: pick(arch, i), loss: columns.loss[i] ?? NaN,
        values: pick(values, i), low: { loss: columns.loss_low[i] ?? NaN }, high: { loss: columns.loss_high[i] ?? NaN },
        p_budget: columns.p_budget[i], p_front: columns.p_front[i], marks: packed.marks.names.filter((_, k) => Math.floor(bits[i] / 2 ** k) % 2) };
      for (const k in down) if (down[k][i] !== null) { d.low[k] = d.values[k] * down[k][i]; d.high[k] = d.values[k] * up[k][i]; }
      d.values.loss = d.loss;
      d.values.perplexity = Math.exp(d.loss);
      d.low.perplexity = Math.exp(d.low.loss);
      d.high.perplexity = Math.exp(d.high.loss);
      if (i < packed.n_designs) designs.push(d);
      else { Object.assign(d, { known: true }, packed.known[i - packed.n_designs]); known.push(d); }
      names.set(d.name, d);
    }
    for (const [phase, o] of Object.entries(packed.operators)) {
      const count = o.count.map((c) => column(c, n));
      const at = count.map((list) => { let k = 0; return list.map((times) => (times ? k++ : -1)); });  // place among the designs that have it
      const work = (key) => o[key].map((c) => (c === 0 ? null : unpack(c)));
      operators[phase] = { names: o.names, count, at, seconds: work("seconds"), bytes: work("bytes_moved"), flop: work("flop"),
        bound: o.bound.map((c, k) => column(c, at[k].length)) };
    }
  }
  /** The operators of a design in a phase: [{name, seconds, bytes, flop, bound, count, share}]. */
  function breakdown(design, phase) {
    const o = operators[phase];
    if (!o) return [];
    const rows = [];
    o.names.forEach((name, k) => {
      const i = o.at[k][design.index];
      if (i < 0) return;
      const work = (key) => (o[key][k] ? o[key][k][i] || 0 : 0);
      rows.push({ name, seconds: work("seconds"), bytes: work("bytes"), flop: work("flop"), bound: o.bound[k][i], count: o.count[k][design.index] });
    });
    const total = rows.reduce((sum, r) => sum + r.seconds, 0);
    for (const r of rows) r.share = total ? r.seconds / total : 0;
    return rows;
  }
  /** A design's config.json as text, or null where its family is read but not written. */
  function config(design) {
    for (const group of raw.designs.configs) {
      const at = group.rows.indexOf(design.index);
      if (at < 0) continue;
      const out = {};
      group.keys.forEach((key, k) => { out[key] = column(group.values[k], group.rows.length)[at]; });
      return JSON.stringify(out, null, 2) + "\n";
    }
    return null;
  }

  // ---- numbers ------------------------------------------------------------------------------------------------------
  function scaled(value, steps) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    const [scale, unit] = steps.find((s) => Math.abs(value) >= s[0]) || steps[steps.length - 1];
    const v = value / scale;
    const magnitude = v ? Math.floor(Math.log10(Math.abs(v))) : 0;
    const text = v.toFixed(Math.min(Math.max(2 - magnitude, 0), 12));
    return `${text.includes(".") ? text.replace(/0+$/, "").replace(/\.$/, "") : text}${unit ? " " + unit : ""}`;
  }
  const format = {
    seconds: (v) => scaled(v, [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]]),
    bytes: (v) => scaled(v, [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]]),
    count: (v) => scaled(v, [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"], [1, ""]]).replace(" ", ""),
    flop: (v) => scaled(v, [[1e15, "PFLOP"], [1e12, "TFLOP"], [1e9, "GFLOP"], [1e6, "MFLOP"], [1e3, "kFLOP"], [1, "FLOP"]]),
    rate: (v) => scaled(v, [[1e15, "PFLOP/s"], [1e12, "TFLOP/s"], [1e9, "GFLOP/s"], [1e6, "MFLOP/s"], [1, "FLOP/s"]]),
    energy: (v) => scaled(v, [[1, "J"], [1e-3, "mJ"], [1e-6, "µJ"]]),
    power: (v) => scaled(v, [[1e3, "kW"], [1, "W"], [1e-3, "mW"]]),
    percent: (v) => (Number.isFinite(v) ? `${(100 * v).toFixed(v > 0 && v < 0.0995 ? 1 : 0)} %` : "–"),
    number: (v) => (Number.isFinite(v) ? String(Number(v.toPrecision(4))) : "–"),
    metric: (key, v) => {
      if (v === null || v === undefined || !Number.isFinite(v)) return "–";
      if (key === "loss") return v.toFixed(3);
      if (key === "perplexity") return v.toFixed(1);
      if (key.startsWith("params")) return format.count(v);
      return { s: format.seconds, B: format.bytes, J: format.energy, W: format.power }[key.split("_").pop()]?.(v) ?? format.number(v);
    },
  };
  const TITLES = { loss: "training loss, nats per token", perplexity: "perplexity", latency_s: "time per generated token",
    ttft_s: "time to first token", e2e_s: "whole request", memory_B: "peak memory", energy_J: "energy per generated token",
    power_W: "mean power", params: "parameters", params_active: "active parameters", params_active_nonembedding: "active parameters without embeddings", weights_B: "weights", kv_B: "KV cache",
    workspace_B: "activations" };
  const SCALES = { latency_s: [1e3, "ms"], ttft_s: [1e3, "ms"], e2e_s: [1, "s"], memory_B: [1e-9, "GB"], energy_J: [1e3, "mJ"],
    power_W: [1, "W"], params: [1e-6, "M"], params_active: [1e-6, "M"], params_active_nonembedding: [1e-6, "M"] };
  const metricTitle = (key) => TITLES[key] ?? key;
  /** The factor and unit that a metric is drawn in. */
  const metricScale = (key) => SCALES[key] ?? [1, ""];
  function archText(a) {
    const heads = a.d_head === 1 ? "" : `${a.n_heads} heads (${a.n_kv_heads} KV) of ${a.d_head}`;
    return [`${a.n_layers} layers × ${a.d_model}`, heads, a.mixer, a.ffn].filter(Boolean).join(", ");
  }
  const escape = (text) => String(text).replace(/[&<>"']/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[c]);

  // ---- themes: Okabe-Ito, told apart with any colour vision; on dark ground the dark tones are lifted -------------------
  const LIGHT = { dark: false, ink: "#1b1f24", muted: "#57606a", grid: "#e3e7eb", paper: "#ffffff", panel: "#f6f8fa", line: "#8c959f",
    blue: "#0072B2", orange: "#E69F00", green: "#009E73", pink: "#CC79A7", sky: "#56B4E9", yellow: "#F0E442", vermillion: "#D55E00", grey: "#6e7781" };
  const DARK = { ...LIGHT, dark: true, ink: "#e6edf3", muted: "#9aa6b2", grid: "#2b323b", paper: "#0f1419", panel: "#171d24", line: "#66717d",
    blue: "#4FA9DD", vermillion: "#F0803C", green: "#2CC295", pink: "#DB9ABF", orange: "#F0B429", grey: "#9aa6b2" };
  const PAPER = { ...LIGHT, print: true };
  for (const t of [LIGHT, DARK, PAPER]) {
    t.series = [t.blue, t.vermillion, t.green, t.pink, t.orange, t.sky];
    t.symbols = ["circle", "diamond", "square", "triangle-up", "cross", "x", "star", "triangle-down"];
  }
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  let forced = null, printing = false;
  const theme = () => (printing ? PAPER : (forced ?? (system.matches ? "dark" : "light")) === "dark" ? DARK : LIGHT);
  const themeListeners = [];
  function themeChanged() {
    const dark = theme().dark;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    const button = byId("theme-toggle");
    button.textContent = dark ? "Light" : "Dark";
    button.setAttribute("aria-label", `Use ${dark ? "light" : "dark"} colours`);
    for (const fn of themeListeners) fn(theme());
    for (const plot of plots) plot.update();
  }

  // ---- plots --------------------------------------------------------------------------------------------------------
  const plots = [];
  function mergeLayout(layout, t) {
    const scale = (px) => Math.round(px * parseFloat(getComputedStyle(document.documentElement).fontSize) / 1.5) / 10;  // as the page's text
    const axis = (given) => ({ gridcolor: t.grid, zerolinecolor: t.grid, linecolor: t.line, tickcolor: t.line, automargin: true, ...given });
    const merged = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 60, r: 18, t: 16, b: 50 }, hovermode: "closest",
      ...layout,
      font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', sans-serif", size: scale(12.5), color: t.ink, ...layout.font },
      hoverlabel: { bgcolor: t.panel, bordercolor: t.line, font: { color: t.ink, size: scale(12.5) }, align: "left", ...layout.hoverlabel },
      legend: { bgcolor: "rgba(0,0,0,0)", ...layout.legend } };
    for (const key of Object.keys(merged)) if (/^[xy]axis\d*$/.test(key)) merged[key] = axis(merged[key]);
    merged.xaxis ??= axis({});
    merged.yaxis ??= axis({});
    return merged;
  }
  const CONFIG = { displaylogo: false, displayModeBar: "hover", responsive: false, doubleClick: "reset+autosize",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], toImageButtonOptions: { scale: 2 } };
  // A plot is drawn when it comes near the window, and at most once a frame: a page of many plots opens at once.
  let frame = 0;
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) { const self = plots.find((p) => p.element === entry.target); self.near = entry.isIntersecting; }
    schedule();
  }, { rootMargin: "300px" });
  const resized = new ResizeObserver((entries) => { if (!printing) for (const entry of entries) plots.find((p) => p.element === entry.target).resize(); });
  function schedule() { if (!frame) frame = requestAnimationFrame(flush); }
  function flush() {
    frame = 0;
    for (const p of plots) if (p.dirty && (p.near || printing)) p.draw();
  }
  function plot(element, build, { label = "" } = {}) {
    if (typeof element === "string") element = byId(element);
    if (label) { element.setAttribute("role", "img"); element.setAttribute("aria-label", label); }
    const handlers = [];
    const size = () => { const box = element.getBoundingClientRect(); return { width: Math.floor(box.width), height: Math.floor(box.height) }; };
    let last = "";
    const self = { element, near: false, dirty: true, drawn: false,
      update() { self.dirty = true; schedule(); },
      resize() { const box = size(); if (self.drawn && `${box.width}x${box.height}` !== last) self.update(); },
      on(event, fn) { handlers.push([event, fn]); if (self.drawn) element.on(event, fn); },
      draw() {
        const t = theme(), box = size();
        if (box.width < 40 || box.height < 40) return;  // hidden: drawn when it is shown
        const figure = build(t);
        last = `${box.width}x${box.height}`;
        self.dirty = false;
        Plotly.react(element, figure.data, { ...mergeLayout(figure.layout ?? {}, t), ...box, autosize: false }, { ...CONFIG, ...figure.config });
        if (!self.drawn) { self.drawn = true; performance.mark(element.id); for (const [event, fn] of handlers) element.on(event, fn); }
      } };
    plots.push(self);
    near.observe(element);
    resized.observe(element);
    return self;
  }

  // ---- one chosen design, one filter ----------------------------------------------------------------------------------
  const selectListeners = [], filterListeners = [];
  const builders = new Map();
  let kept = null;
  const page = {
    designs, known, facts: raw.facts ?? {}, format, escape, metricTitle, metricScale, archText, breakdown, config, unpack, column, plot,
    selected: null,
    design: (name) => names.get(name),
    get theme() { return theme(); },
    onTheme(fn) { themeListeners.push(fn); },
    select(name, { scroll = false } = {}) {
      const design = names.get(name);
      if (!design) return;
      page.selected = name;
      for (const fn of selectListeners) fn(design);
      page.announce(`${name} chosen: ${archText(design.arch)}, ${Number.isFinite(design.loss) ? `loss ${format.metric("loss", design.loss)}` : "loss not predicted"}`);
      if (scroll) byId("frontier")?.scrollIntoView({ block: "start" });
    },
    onSelect(fn) { selectListeners.push(fn); if (page.selected) fn(names.get(page.selected)); },
    filter(list) {
      if (list === null && kept === null) return;
      kept = list === null ? null : new Set(list);
      for (const fn of filterListeners) fn(kept);
    },
    get kept() { return kept; },
    onFilter(fn) { filterListeners.push(fn); fn(kept); },
    /** build() when a <details> is opened, each time, and before it is printed. */
    whenOpen(element, build) {
      builders.set(element, build);
      element.addEventListener("toggle", () => { if (element.open && !printing) build(); });
    },
    /** Whether a plot near the window is still to be drawn. */
    get drawing() { return frame !== 0 || plots.some((p) => p.dirty && p.near); },
    announce(text) { byId("announce").textContent = text; },
    table,
  };

  // ---- tables -------------------------------------------------------------------------------------------------------
  /** A real table: sorted by its headers; rows chosen by a click or Enter; arrow keys move between rows. */
  function table(element, columns, rows, { onRow = null, caption = "", name = null, limit = Infinity } = {}) {
    if (typeof element === "string") element = byId(element);
    let order = rows.slice(), sortedBy = -1, down = false, shown = Math.min(limit, rows.length);
    const make = document.createElement("table");
    if (caption) make.createCaption().textContent = caption;
    const head = make.createTHead().insertRow();
    columns.forEach((c, k) => {
      const th = document.createElement("th");
      th.scope = "col";
      if (c.left) th.className = "left";
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = c.title;
      button.addEventListener("click", () => sort(k));
      th.append(button);
      head.append(th);
    });
    const body = make.createTBody();
    const more = document.createElement("button");
    more.type = "button";
    more.className = "more";
    more.addEventListener("click", () => { shown = rows.length; fill(); });
    function fill() {
      const lines = order.slice(0, shown).map((row) => {
        const cells = columns.map((c) => `<td${c.left ? ' class="left"' : ""}>${escape(c.text(row))}</td>`).join("");
        const label = name ? ` data-name="${escape(name(row))}"` : "";
        return `<tr${onRow ? ' tabindex="0"' : ""}${label}${name && page.selected === name(row) ? ' aria-selected="true"' : ""}>${cells}</tr>`;
      });
      body.innerHTML = lines.join("");
      more.hidden = shown >= rows.length;
      more.textContent = `Show all ${rows.length} rows`;
    }
    function sort(k) {
      down = sortedBy === k ? !down : false;
      sortedBy = k;
      const value = columns[k].value ?? columns[k].text;
      order = rows.slice().sort((a, b) => {
        const x = value(a), y = value(b), lost = (v) => v === undefined || v === null || Number.isNaN(v);
        if (lost(x) || lost(y)) return lost(x) - lost(y);
        return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
      });
      [...head.cells].forEach((th, j) => th.setAttribute("aria-sort", j !== k ? "none" : down ? "descending" : "ascending"));
      fill();
    }
    if (onRow) {
      const chosen = (event) => event.target.closest("tbody tr");
      const index = (tr) => [...body.rows].indexOf(tr);
      body.addEventListener("click", (event) => { const tr = chosen(event); if (tr) onRow(order[index(tr)]); });
      body.addEventListener("keydown", (event) => {
        const tr = chosen(event);
        if (!tr) return;
        const to = { ArrowDown: tr.nextElementSibling, ArrowUp: tr.previousElementSibling, Home: body.firstElementChild, End: body.lastElementChild }[event.key];
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); onRow(order[index(tr)]); }
        else if (to) { event.preventDefault(); to.focus(); }
      });
    }
    fill();
    element.replaceChildren(make, more);
    return { mark(selected) { for (const tr of body.rows) tr.toggleAttribute("aria-selected", false); for (const tr of body.rows) if (tr.dataset.name === selected) tr.setAttribute("aria-selected", "true"); } };
  }

  // ---- start and print ----------------------------------------------------------------------------------------------
  let opened = [];
  function beforePrint() {
    if (printing) return;
    printing = true;
    opened = [...document.querySelectorAll("details:not([open])")].filter((d) => !d.hasAttribute("data-screen"));
    for (const d of opened) { d.open = true; builders.get(d)?.(); }
    document.documentElement.classList.add("printing");
    themeChanged();
    flush();
  }
  function afterPrint() {
    if (!printing) return;
    printing = false;
    document.documentElement.classList.remove("printing");
    for (const d of opened) d.open = false;
    themeChanged();
  }

  const sections = {};
  function start() {
    readDesigns(raw.designs);
    byId("theme-toggle").addEventListener("click", () => { forced = theme().dark ? "light" : "dark"; themeChanged(); });
    system.addEventListener("change", () => themeChanged());
    byId("print").addEventListener("click", () => window.print());
    window.addEventListener("beforeprint", beforePrint);
    window.addEventListener("afterprint", afterPrint);
    document.addEventListener("click", (event) => {
      const link = event.target.closest("[data-select]");
      if (link) page.select(link.dataset.select, { scroll: true });
    });
    themeChanged();
    if (page.facts.best) page.selected = page.facts.best;
    const waiting = Object.entries(raw.sections).filter(([key]) => byId(key) && sections[key]);
    (function next() {  // the first section at once, the others one by one as the browser finds time to draw
      const entry = waiting.shift();
      if (entry) sections[entry[0]](byId(entry[0]), entry[1], page);
      if (waiting.length && !printing) setTimeout(next, 0);
      else if (waiting.length) next();
      else { document.documentElement.dataset.ready = "true"; performance.mark("ready"); }
    })();
  }
  return { sections, page, start };
})();
