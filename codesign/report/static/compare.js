"use strict";
/* Comparison of runs: frontiers overlaid where their losses compare, and the best of each within a bound. */
codesign.sections.frontiers = (root, data, page) => {
  const { format, escape } = page;
  const q = (id) => document.getElementById(`frontiers-${id}`);
  const DASH = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const runs = data.runs.map((r, k) => {
    const read = (packed) => page.column(packed, r.n), group = (packed) => Object.fromEntries(Object.entries(packed).map(([key, c]) => [key, read(c)]));
    const names = read(r.names), precision = read(r.precision), loss = read(r.loss), low = read(r.loss_low), high = read(r.loss_high), values = group(r.values), down = group(r.down), up = group(r.up), arch = group(r.arch), marked = read(r.marked);
    const designs = names.map((name, i) => {
      const d = { name, run: k, precision: precision[i], marked: marked[i], arch: Object.fromEntries(Object.entries(arch).map(([key, c]) => [key, c[i]])), values: { loss: loss[i], perplexity: Math.exp(loss[i]) }, low: { loss: low[i], perplexity: Math.exp(low[i]) }, high: { loss: high[i], perplexity: Math.exp(high[i]) } };
      for (const key of data.keys) { d.values[key] = values[key][i]; d.low[key] = values[key][i] * down[key][i]; d.high[key] = values[key][i] * up[key][i]; }
      return d;
    });
    return { ...r, k, letter: String.fromCharCode(65 + k), designs };
  });
  const byName = new Map(runs.map((r) => [r.name, r]));
  const all = runs.flatMap((r) => r.designs), extent = (key) => [Math.min(...all.map((d) => d.values[key])), Math.max(...all.map((d) => d.values[key]), ...(key === data.key ? data.bounds : []))];
  const state = { x: data.key, y: "loss", intervals: false, log: false, bound: Math.max(...data.bounds) };
  const range = extent(data.key), TOP = 400, toBound = (at) => range[0] * (range[1] / range[0]) ** (at / TOP), toPlace = (v) => Math.round((TOP * Math.log(v / range[0])) / Math.log(range[1] / range[0]));
  const within = (r) => r.designs.filter((d) => d.values[data.key] <= state.bound).reduce((a, b) => (!a || b.values.loss <= a.values.loss ? b : a), null);
  const axisTitle = (key) => { const unit = page.metricScale(key)[1]; return page.metricTitle(key) + (unit ? `, ${unit}` : ""); };
  const x = (d) => d.values[state.x] * page.metricScale(state.x)[0];
  const text = (d) => [`<b>${runs[d.run].letter} ${escape(runs[d.run].name)}: ${escape(d.name)}</b> ${escape(d.precision)}${d.marked ? " !" : ""}`, escape(page.archText(d.arch)), ...[...new Set([state.y, state.x, data.key])].map((key) => `${page.metricTitle(key)} ${format.metric(key, d.values[key])} (${format.metric(key, d.low[key])} to ${format.metric(key, d.high[key])})`)].join("<br>");
  const rgba = (hex, a) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",")},${a})`;
  let chosen = null;

  function figure(names, t) {
    const traces = [], shapes = [], annotations = [], unit = page.metricScale(state.x)[0];
    for (const name of names) {
      const r = byName.get(name), colour = t.series[r.k % t.series.length], symbol = t.symbols[r.k % t.symbols.length];
      const list = r.designs.slice().sort((a, b) => a.values[state.x] - b.values[state.x]);
      const complete = r.minimised.length === 2 && r.minimised.includes("loss") && r.minimised.includes(state.x.replace(/_[^_]+$/, ""));
      if (state.intervals && complete && list.length > 1) {
        traces.push({ type: "scatter", mode: "lines", x: list.map(x), y: list.map((d) => d.low[state.y]), line: { width: 0 }, hoverinfo: "skip", showlegend: false });
        traces.push({ type: "scatter", mode: "lines", x: list.map(x), y: list.map((d) => d.high[state.y]), line: { width: 0 }, fill: "tonexty", fillcolor: rgba(colour, 0.12), hoverinfo: "skip", showlegend: false });
      }
      traces.push({ type: list.length > 1500 ? "scattergl" : "scatter", mode: complete ? "lines+markers" : "markers", x: list.map(x), y: list.map((d) => d.values[state.y]), name: `${r.letter} ${escape(r.name)}: ${escape(r.device)}`, text: list.map(text), hovertemplate: "%{text}<extra></extra>", customdata: list.map((d) => [d.run, d.name]),
        line: { shape: "hv", width: 1.4, color: colour, dash: DASH[r.k % DASH.length] }, marker: { size: 7, symbol, color: colour, line: { width: 0.8, color: t.paper } } });
      const best = within(r);
      if (best) traces.push({ type: "scatter", mode: "markers", x: [x(best)], y: [best.values[state.y]], hoverinfo: "skip", showlegend: false, marker: { size: 15, symbol, color: colour, line: { width: 2, color: t.ink } },
        error_y: { type: "data", symmetric: false, array: [best.high[state.y] - best.values[state.y]], arrayminus: [best.values[state.y] - best.low[state.y]], color: colour, thickness: 1.4 } });
      if (chosen && chosen.run === r.k) traces.push({ type: "scatter", mode: "markers", x: [x(chosen)], y: [chosen.values[state.y]], hoverinfo: "skip", showlegend: false, marker: { size: 18, symbol: "circle-open", color: t.ink, line: { width: 2 } } });
      const bound = r.budget[state.x];
      if (bound) shapes.push({ type: "line", x0: bound * unit, x1: bound * unit, y0: 0, y1: 1, yref: "paper", line: { color: colour, width: 1, dash: "dash" } });
    }
    if (state.x === data.key) {
      shapes.push({ type: "line", x0: state.bound * unit, x1: state.bound * unit, y0: 0, y1: 1, yref: "paper", line: { color: t.ink, width: 1.4, dash: "dot" } });
      annotations.push({ x: state.log ? Math.log10(state.bound * unit) : state.bound * unit, y: 1, yref: "paper", text: `within ${format.metric(data.key, state.bound)}`, showarrow: false, xanchor: "right", yanchor: "top", textangle: -90, font: { color: t.ink, size: 12 } });
    }
    return { data: traces, layout: { xaxis: { title: { text: axisTitle(state.x) }, type: state.log ? "log" : "linear" }, yaxis: { title: { text: state.y === "loss" ? "predicted training loss, nats per token" : "predicted perplexity" } }, shapes, annotations, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11.5 } }, margin: { l: 62, r: 16, t: 50, b: 50 }, uirevision: `${state.x}${state.y}${state.log}` } };
  }
  const charts = data.groups.map((names, k) => {
    const chart = page.plot(q(`plot-${k}`), (t) => figure(names, t), { label: `Frontiers of ${names.join(", ")}: predicted loss against ${page.metricTitle(data.key)}. Tables of the best and of all designs follow.` });
    chart.on("plotly_click", (event) => {
      const point = event.points.map((p) => p.customdata).find((c) => Array.isArray(c));
      if (!point) return;
      chosen = runs[point[0]].designs.find((d) => d.name === point[1]);
      q("chosen").textContent = `${runs[chosen.run].letter} ${runs[chosen.run].name}, ${chosen.name} (${chosen.precision}): ${page.archText(chosen.arch)}; loss ${format.metric("loss", chosen.values.loss)}, ${data.keys.map((key) => `${page.metricTitle(key)} ${format.metric(key, chosen.values[key])}`).join(", ")}.`;
      redraw();
    });
    return chart;
  });
  const redraw = () => { for (const chart of charts) chart.update(); };

  function best() {
    const first = new Map(data.groups.flatMap((names) => names.map((name) => [name, byName.get(names[0])])));
    const rows = runs.map((r) => ({ r, d: within(r), base: within(first.get(r.name)), lead: first.get(r.name) === r }));
    const difference = (s) => (s.d && s.base && !s.lead ? s.d.values.loss - s.base.values.loss : NaN);
    page.table(q("best"), [
      { title: "run", left: true, text: (s) => `${s.r.letter} ${s.r.name}` }, { title: "device", left: true, text: (s) => s.r.device },
      { title: "loss", text: (s) => (s.d ? format.metric("loss", s.d.values.loss) : "nothing fits"), value: (s) => (s.d ? s.d.values.loss : NaN) },
      { title: "against the first that compares", text: (s) => (s.lead ? "the first" : Number.isFinite(difference(s)) ? `${difference(s) > 0 ? "+" : difference(s) < 0 ? "−" : ""}${Math.abs(difference(s)).toFixed(3)}` : "–"), value: difference },
      ...data.keys.map((key) => ({ title: page.metricTitle(key), text: (s) => (s.d ? format.metric(key, s.d.values[key]) : "–"), value: (s) => (s.d ? s.d.values[key] : NaN) })),
      { title: "design", left: true, text: (s) => (s.d ? `${s.d.name}: ${page.archText(s.d.arch)}, ${s.d.precision}` : "–") },
    ], rows, { caption: `Within ${format.metric(data.key, state.bound)} (${page.metricTitle(data.key)})` });
  }
  function tell() {
    const own = runs.filter((r) => r.budget[data.key] === state.bound).map((r) => r.letter);
    const words = format.metric(data.key, state.bound) + (own.length ? ` (budget of ${own.join(", ")})` : "");
    q("bound-out").textContent = words;
    q("bound").setAttribute("aria-valuetext", words);
  }
  let pending = 0;
  q("bound").value = toPlace(state.bound);
  q("bound").addEventListener("input", (event) => {
    const at = Number(event.target.value), near = data.bounds.find((b) => toPlace(b) === at);  // a run's own bound exactly
    state.bound = near ?? toBound(at);
    tell();
    if (!pending) pending = requestAnimationFrame(() => { pending = 0; best(); redraw(); });
  });
  q("x").addEventListener("change", (event) => { state.x = event.target.value; redraw(); });
  for (const radio of root.querySelectorAll('input[name="frontiers-y"]')) radio.addEventListener("change", () => { state.y = radio.value; redraw(); });
  for (const key of ["intervals", "log"]) q(key).addEventListener("change", (event) => { state[key] = event.target.checked; redraw(); });
  tell();
  best();
  page.table(q("table"), [
    { title: "run", left: true, text: (d) => `${runs[d.run].letter} ${runs[d.run].name}` }, { title: "design", left: true, text: (d) => d.name }, { title: "precision", left: true, text: (d) => d.precision },
    { title: "loss", text: (d) => format.metric("loss", d.values.loss), value: (d) => d.values.loss }, ...data.keys.map((key) => ({ title: page.metricTitle(key), text: (d) => format.metric(key, d.values[key]), value: (d) => d.values[key] })),
    { title: "shape", left: true, text: (d) => page.archText(d.arch) },
  ], all, { caption: "Designs of all runs; losses of different groups do not compare", limit: 200 });
};
