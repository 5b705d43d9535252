"use strict";
/* Section 6: lowest loss within the budget on every device and power mode; a slider moves the bound. */
codesign.sections["what-if"] = (root, data, page) => {
  const { format, escape } = page;
  const q = (id) => document.getElementById(`what-if-${id}`);
  const designs = data.designs.map(([loss, precision, n_layers, d_model, n_heads, n_kv_heads, d_head, n_experts, n_active_experts, d_ff, name, mixer, ffn]) =>
    ({ loss, precision, name, arch: { mixer, ffn, n_layers, d_model, n_heads, n_kv_heads, d_head, n_experts, n_active_experts, d_ff: n_experts ? 0 : d_ff, d_ff_expert: n_experts ? d_ff : 0 } }));
  const state = { bound: data.bound, x: "cap_W", measured: false };
  const several = data.precisions.length > 1;
  const SURE = ["●", "◐", "◐", "○", "○"];
  const label = (r) => r.title + (r.mode ? `, ${r.mode}` : "");

  /** The lowest loss of a stair within a bound, times the factor of how unlike the measured models each design is; -1: none. */
  function within(stair, bound, factors) {
    let at = -1;
    for (let i = 0; i < stair.t.length; i++) if (stair.t[i] <= bound * factors[stair.u[i]] && (at < 0 || designs[stair.d[i]].loss < designs[stair.d[at]].loss)) at = i;
    return at;
  }
  function score(r) {
    const at = within(r.stair, state.bound, r.factor), own = within(r.own, state.bound, r.factor);
    const fast = within(r.stair, state.bound, r.width.map(Math.exp)), slow = within(r.stair, state.bound, r.width.map((w) => Math.exp(-w)));
    const loss = (i) => (i < 0 ? NaN : designs[r.stair.d[i]].loss);
    return { r, fits: at >= 0, loss: loss(at), low: loss(fast), high: loss(slow), time: at < 0 ? (r.stair.t[0] ?? NaN) : r.stair.t[at], power: at < 0 ? NaN : r.stair.w[at] ?? NaN,
      design: at < 0 ? null : designs[r.stair.d[at]], marks: at < 0 ? 0 : r.stair.m[at], own: own < 0 ? NaN : designs[r.own.d[own]].loss };
  }
  let rows = [];
  const value = (s, key) => (key === "price" ? s.r.price : key === "cap_W" ? s.r.cap_W : key === "power" ? s.power : s.time * page.metricScale(data.key)[0]) ?? NaN;
  const XTITLE = { price: "price, USD", cap_W: "power cap of the mode (else TDP), W", power: "predicted mean power, W", time: `${page.metricTitle(data.key)}, ${page.metricScale(data.key)[1]}` };
  function text(s) {
    const r = s.r, range = `${Number.isFinite(s.low) ? s.low.toFixed(3) : "–"} to ${Number.isFinite(s.high) ? s.high.toFixed(3) : "nothing fits"}`;
    return [`<b>${escape(label(r))}</b>${r.here ? " (this run)" : ""}`, `loss ${s.loss.toFixed(3)}, ${range} as the time's interval allows`, s.design ? escape((s.design.name ? s.design.name + ": " : "") + page.archText(s.design.arch)) + (several ? ` ${escape(s.design.precision)}` : "") : "",
      `${format.metric(data.key, s.time)}, ${escape(r.engine)}; ${escape(data.levels[r.level])}`, [r.cap_W ? `${format.power(r.cap_W)} cap` : "", Number.isFinite(s.power) ? `about ${format.power(s.power)} drawn` : "", r.price ? `${r.price.toLocaleString("en-US")} USD` : ""].filter(Boolean).join(", "),
      escape(r.price ? r.price_note : "")].filter(Boolean).join("<br>");
  }
  function figure(t) {
    const shown = rows.filter((s) => s.fits && Number.isFinite(value(s, state.x)) && (!state.measured || s.r.level < 1)), traces = [];
    // the best for their price or power: no other shown device is both cheaper and better
    const order = shown.slice().sort((a, b) => value(a, state.x) - value(b, state.x) || a.loss - b.loss), best = [];
    for (const s of order) if (!best.length || s.loss < best[best.length - 1].loss - 1e-9) best.push(s);
    if (best.length > 1) traces.push({ type: "scatter", mode: "lines", x: best.map((s) => value(s, state.x)), y: best.map((s) => s.loss), line: { shape: "hv", color: t.muted, width: 1.2, dash: "dash" }, hoverinfo: "skip", name: "none is lower in both" });
    data.groups.forEach((group, k) => {
      for (const sure of [true, false]) {
        const list = shown.filter((s) => s.r.group === group && s.r.level < 2 === sure);
        if (!list.length) continue;
        const colour = t.series[k % t.series.length], symbol = t.symbols[k % t.symbols.length];
        traces.push({ type: "scatter", mode: "markers", name: sure ? group : `${group}, not measured`, legendgroup: group, x: list.map((s) => value(s, state.x)), y: list.map((s) => s.loss), text: list.map(text), hovertemplate: "%{text}<extra></extra>",
          customdata: list.map((s) => s.design.name), marker: { symbol: sure ? symbol : `${symbol}-open`, size: list.map((s) => (s.r.here ? 15 : 9)), color: colour, line: { width: list.map((s) => (s.r.here ? 2.4 : sure ? 0.8 : 1.6)), color: sure ? list.map((s) => (s.r.here ? t.ink : t.paper)) : colour } },
          error_y: { type: "data", symmetric: false, array: list.map((s) => (Number.isFinite(s.high) ? s.high - s.loss : 0)), arrayminus: list.map((s) => (Number.isFinite(s.low) ? s.loss - s.low : 0)), color: colour, thickness: 0.9, width: 2 } });
      }
    });
    const here = shown.find((s) => s.r.here), annotations = [];
    const xs = (s) => Math.log10(value(s, state.x)), width = Math.max(...shown.map(xs)) - Math.min(...shown.map(xs)) || 1, placed = [];
    const lows = shown.map((s) => s.loss), tall = Math.max(...lows) - Math.min(...lows) || 1;
    for (const s of [...(here ? [here] : []), ...best.filter((b) => b !== here)]) {
      if (placed.some((p) => p.r.name === s.r.name) || placed.some((p) => Math.abs(xs(p) - xs(s)) < 0.13 * width && Math.abs(p.loss - s.loss) < 0.05 * tall)) continue;
      placed.push(s);
      annotations.push({ x: xs(s), y: s.loss, text: escape(label(s.r)) + (s.r.here ? " (this run)" : ""), showarrow: false, xanchor: "left", yanchor: "top", xshift: 5, yshift: -3, font: { size: 11, color: s.r.here ? t.ink : t.muted } });
    }
    return { data: traces, layout: { xaxis: { title: { text: XTITLE[state.x] }, type: "log", tickformat: "~s", dtick: "D2" }, yaxis: { title: { text: "lowest loss within the budget, nats per token" }, range: shown.length ? [Math.min(...lows) - 0.14 * tall, Math.max(...lows) + 0.2 * tall] : undefined }, annotations, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11.5 } }, margin: { l: 66, r: 40, t: 52, b: 50 }, uirevision: state.x } };
  }
  function table() {
    const shown = rows.filter((s) => !state.measured || s.r.level < 1);
    const lost = (v, shownAs) => (Number.isFinite(v) ? shownAs(v) : "–");
    const range = (s) => (s.fits ? `${Number.isFinite(s.low) ? s.low.toFixed(3) : "–"} to ${Number.isFinite(s.high) ? s.high.toFixed(3) : "nothing"}` : "–");
    page.table(q("table"), [
      { title: "device", left: true, text: (s) => s.r.title + (s.r.here ? " (this run)" : "") }, { title: "mode", left: true, text: (s) => s.r.mode || "–" },
      { title: "loss within the budget", text: (s) => (s.fits ? s.loss.toFixed(3) : "does not fit"), value: (s) => s.loss },
      { title: "if fast to if slow", text: range, value: (s) => s.high }, { title: "this run's designs", text: (s) => lost(s.own, (v) => v.toFixed(3)), value: (s) => s.own },
      { title: data.key === "latency_s" ? "time per token" : data.title, text: (s) => (s.fits ? "" : "at least ") + format.metric(data.key, s.time), value: (s) => s.time },
      { title: "cap or TDP", text: (s) => lost(s.r.cap_W ?? NaN, format.power), value: (s) => s.r.cap_W ?? NaN }, { title: "power, about", text: (s) => lost(s.power, format.power), value: (s) => s.power },
      { title: "price, USD", text: (s) => (s.r.price ? s.r.price.toLocaleString("en-US") : "–"), value: (s) => s.r.price ?? NaN }, { title: "memory", text: (s) => format.bytes(s.r.memory_B), value: (s) => s.r.memory_B },
      { title: "measured", left: true, text: (s) => `${SURE[s.r.level]}${s.r.rows ? ` ${s.r.rows} rows` : ""}${s.marks & 1 ? " S" : ""}${s.marks & 2 ? " M" : ""}${s.marks & 4 ? " X" : ""}`, value: (s) => s.r.level }, { title: "engine", left: true, text: (s) => s.r.engine || s.r.problem },
      { title: "best design there", left: true, text: (s) => (s.design ? (s.design.name ? `${s.design.name}: ` : "") + page.archText(s.design.arch) + (several ? `, ${s.design.precision}` : "") : "–") },
    ], shown, { caption: `Lowest loss with ${data.title} within ${format.metric(data.key, state.bound)}, lowest first`, onRow: (s) => { if (s.design?.name) page.select(s.design.name); } });
  }
  function refresh() {
    rows = data.rows.map(score).sort((a, b) => (Number.isFinite(a.loss) ? a.loss : 99) - (Number.isFinite(b.loss) ? b.loss : 99) || a.r.title.localeCompare(b.r.title) || 0);
    const fits = rows.filter((s) => s.fits), here = rows.find((s) => s.r.here);
    const cheaper = here && here.fits && here.r.price ? fits.filter((s) => s.r.price && s.r.price < here.r.price && s.loss <= here.loss + 1e-9 && s.r.name !== here.r.name) : [];
    const cooler = here && here.fits && here.r.cap_W ? fits.filter((s) => s.r.cap_W && s.r.cap_W < here.r.cap_W && s.loss <= here.loss + 1e-9 && s.r.name !== here.r.name) : [];
    const list = (l) => [...new Set(l.map((s) => s.r.title + (s.r.level < 2 ? "" : " (not measured)")))].slice(0, 3).join(", ");
    q("summary").textContent = `${fits.length} of ${rows.length} fit. ` + (here ? `${label(here.r)}: ${here.fits ? `loss ${here.loss.toFixed(3)}` : "does not fit"}. ` : "") +
      (cheaper.length ? `As good or better for less money: ${list(cheaper)}. ` : here?.fits && here.r.price ? "None with a known price is as good for less money. " : "") + (cooler.length ? `As good or better with a lower power cap: ${list(cooler)}.` : here?.fits && here.r.cap_W ? "None is as good with a lower power cap." : "");
    table();
    chart?.update();
  }
  const SPAN = 8, toBound = (at) => (at === 120 ? data.bound : data.bound * SPAN ** ((at - 120) / 120));
  const tell = () => { const words = format.metric(data.key, state.bound) + (state.bound === data.bound ? (data.given ? " (the run's)" : " (the best design's)") : ""); q("bound-out").textContent = words; q("bound").setAttribute("aria-valuetext", words); };
  let chart = null, pending = 0;
  q("bound").value = 120;
  q("bound").addEventListener("input", (event) => { state.bound = toBound(Number(event.target.value)); tell(); if (!pending) pending = requestAnimationFrame(() => { pending = 0; refresh(); }); });
  q("reset").addEventListener("click", () => { state.bound = data.bound; q("bound").value = 120; tell(); refresh(); });
  q("x").addEventListener("change", (event) => { state.x = event.target.value; chart.update(); });
  q("measured").addEventListener("change", (event) => { state.measured = event.target.checked; table(); chart.update(); });
  tell();
  refresh();
  chart = page.plot(q("plot"), figure, { label: "Lowest loss within the budget on each device against its price or power. The same as a table follows." });
  chart.on("plotly_click", (event) => { const name = event.points.map((p) => p.customdata).find((n) => typeof n === "string" && n); if (name) page.select(name); });
};
