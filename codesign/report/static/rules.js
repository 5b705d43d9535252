"use strict";
/* Design rules: how each axis moves along the frontier, and what each value costs at the budget. */
codesign.sections.rules = (root, data, page) => {
  const { format, escape, designs } = page;
  const q = (id) => document.getElementById(`rules-${id}`);
  const [scale, unit] = page.metricScale(data.cost), costTitle = `${page.metricTitle(data.cost)}${unit ? `, ${unit}` : ""}`;
  const short = (v) => (typeof v === "number" ? Number(v.toPrecision(4)).toLocaleString("en-US") : v);
  const rules = data.rules.map((r) => ({ ...r, values: page.column(r.values, designs.length) }));
  const along = rules.filter((r) => !r.constant), held = rules.filter((r) => r.held.filter(([, v]) => v !== null).length > 1);
  const state = { view: along.length ? "along" : "held" };
  const cost = designs.map((d) => d.values[data.cost] * scale);
  const gl = designs.length > 1500;

  function figure(t) {
    const shown = state.view === "along" ? along : held, traces = [], layout = { annotations: [], shapes: [], showlegend: false, margin: { l: 52, r: 14, t: 30, b: 46 } };
    const columns = Math.min(q("plot").clientWidth < 800 ? 2 : 4, Math.max(shown.length, 1)), lines = Math.ceil(shown.length / columns) || 1;
    const gapX = 0.055, gapY = 0.2, w = (1 - gapX * (columns - 1)) / columns, h = (1 - gapY * (lines - 1)) / lines;
    shown.forEach((r, k) => {
      const c = k % columns, l = Math.floor(k / columns), n = k ? k + 1 : "", x0 = c * (w + gapX), y1 = 1 - l * (h + gapY);
      const xaxis = `x${n}`, yaxis = `y${n}`, X = `xaxis${n}`, Y = `yaxis${n}`;
      layout[X] = { domain: [x0, x0 + w], anchor: yaxis, tickfont: { size: 10.5 } };
      layout[Y] = { domain: [y1 - h, y1], anchor: xaxis, tickfont: { size: 10.5 } };
      let title = r.title;
      if (state.view === "along") {
        const order = r.names ? r.offered.filter((v) => r.values.includes(v)) : [], place = (v) => (r.names ? order.indexOf(v) : v);
        const chosen = (d) => d.name === page.selected;
        traces.push({ type: gl ? "scattergl" : "scatter", mode: "markers", x: cost, y: r.values.map(place), xaxis, yaxis, customdata: designs.map((d) => d.name),
          text: designs.map((d, i) => `<b>${escape(d.name)}</b><br>${escape(r.title)} ${escape(String(short(r.values[i])))}<br>${format.metric(data.cost, d.values[data.cost])}, loss ${format.metric("loss", d.loss)}`), hovertemplate: "%{text}<extra></extra>",
          marker: { size: designs.map((d) => (chosen(d) ? 12 : 6)), color: t.blue, line: { width: designs.map((d) => (chosen(d) ? 2.6 : 0)), color: t.vermillion }, opacity: designs.map((d) => (!page.kept || page.kept.has(d.name) ? 0.85 : 0.12)) } });
        const low1 = Math.min(...cost), high1 = Math.max(...cost);
        const cost1 = Array.from({ length: 40 }, (_, i) => low1 * (high1 / low1) ** (i / 39)); // a power law bends where the cost alone is logarithmic
        if (r.law && Math.abs(r.rank) >= 0.5 && r.law[4] >= 0.5) {
          const at = (p) => cost1.map((v) => r.law[0] * (v / scale) ** p);
          traces.push({ type: "scatter", mode: "lines", x: cost1, y: at(r.law[1]), xaxis, yaxis, hoverinfo: "skip", line: { color: t.vermillion, width: 1.8 } });
          title += ` ∝ cost<sup>${r.law[1].toFixed(2)}</sup>`;
        }
        const values = r.names ? [] : r.values;
        if (r.names) Object.assign(layout[Y], { tickvals: order.map((_, i) => i), ticktext: order, range: [-0.5, order.length - 0.5] });
        else if (Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) > 3) {
          const kinds = [...new Set(values)].sort((a, b) => a - b), at = kinds.length <= 6 ? kinds : ticks(values);
          Object.assign(layout[Y], { type: "log", tickvals: at, ticktext: at.map(short) });
        }
        if (r.edge !== null && r.edge !== undefined) layout.shapes.push({ type: "line", xref: `${xaxis} domain`, x0: 0, x1: 1, yref: yaxis, y0: r.edge, y1: r.edge, line: { color: t.muted, dash: "dash", width: 1.2 } });
        Object.assign(layout[X], { type: "log", title: l === lines - 1 || k + columns >= shown.length ? { text: costTitle, font: { size: 11 } } : undefined, tickvals: ticks(cost), ticktext: ticks(cost).map(short) });
      } else {
        const fits = r.held.filter(([, v]) => v !== null), numeric = !r.names && fits.length > 9;
        traces.push({ type: "scatter", mode: numeric ? "lines" : "lines+markers", x: fits.map(([v], i) => (numeric ? v : i)), y: fits.map(([, v]) => v), xaxis, yaxis, text: fits.map(([v, loss]) => `${escape(r.title)} ${escape(String(short(v)))}<br>${loss.toFixed(3)} nats above the best`), hovertemplate: "%{text}<extra></extra>", line: { color: t.blue, width: 1.6 }, marker: { color: t.blue, size: 6 } });
        if (!numeric) Object.assign(layout[X], { tickvals: fits.map((_, i) => i), ticktext: fits.map(([v]) => short(v)) });
        layout.shapes.push({ type: "line", xref: `${xaxis} domain`, x0: 0, x1: 1, yref: yaxis, y0: data.flat, y1: data.flat, line: { color: t.muted, dash: "dot", width: 1 } });
        Object.assign(layout[Y], { rangemode: "tozero", title: c === 0 ? { text: "nats above the best", font: { size: 11 } } : undefined });
      }
      layout.annotations.push({ xref: "paper", yref: "paper", x: x0, y: y1, xanchor: "left", yanchor: "bottom", text: `<b>${title}</b>`, showarrow: false, font: { size: 12 } });
    });
    return { data: traces, layout };
  }
  /** A few round values on a logarithmic axis. */
  function ticks(values) {
    const low = Math.min(...values), high = Math.max(...values), out = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) for (const m of high / low > 30 ? [1] : high / low > 8 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8]) { const v = Number((m * 10 ** e).toPrecision(3)); if (v >= low * 0.93 && v <= high * 1.07) out.push(v); }
    return out;
  }
  const label = () => (state.view === "along" ? `Small plots: ${along.map((r) => r.title).join(", ")} against ${page.metricTitle(data.cost)} of the designs. The sentences above and the table below say the same.` : "Small plots: what holding each axis at each value costs in loss at the budget.");
  const shownRows = Math.ceil(Math.max(along.length, held.length) / 4);
  if (shownRows < 2) q("plot").classList.add("short");
  const chart = page.plot(q("plot"), figure, { label: label() });
  chart.on("plotly_click", (event) => { const name = event.points.map((p) => p.customdata).find((n) => typeof n === "string"); if (name) page.select(name); });
  page.onSelect(() => { if (state.view === "along") chart.update(); });
  page.onFilter(() => { if (state.view === "along") chart.update(); });
  for (const radio of root.querySelectorAll('input[name="rules-view"]')) {
    radio.checked = radio.value === state.view;
    radio.addEventListener("change", () => { state.view = radio.value; q("plot").setAttribute("aria-label", label()); chart.update(); });
  }
  const order = designs.map((_, i) => i).sort((a, b) => cost[a] - cost[b]), firstAt = order[0], lastAt = order[order.length - 1];
  const worst = (r) => { const fits = r.held.filter(([, v]) => v !== null); return fits.length ? Math.max(...fits.map(([, v]) => v)) : NaN; };
  page.table(q("table"), [
    { title: "axis", left: true, text: (r) => r.title },
    { title: "at the lowest cost", text: (r) => String(short(r.values[firstAt])) }, { title: "at the highest", text: (r) => String(short(r.values[lastAt])) },
    { title: "rank correlation", text: (r) => (r.rank === null ? "–" : r.rank.toFixed(2)), value: (r) => r.rank ?? NaN },
    { title: "exponent (90 %)", text: (r) => (r.law ? `${r.law[1].toFixed(2)} (${r.law[2].toFixed(2)} to ${r.law[3].toFixed(2)})` : "–"), value: (r) => (r.law ? r.law[1] : NaN) },
    { title: "explains", text: (r) => (r.law ? format.percent(Math.max(r.law[4], 0)) : "–"), value: (r) => (r.law ? r.law[4] : NaN) },
    { title: "best at the budget", text: (r) => String(short(r.held.reduce((a, b) => ((b[1] ?? Infinity) < (a[1] ?? Infinity) ? b : a), ["–", null])[0])) },
    { title: "worst value costs, nats", text: (r) => (Number.isFinite(worst(r)) ? worst(r).toFixed(3) : "–"), value: worst },
    { title: "values offered", text: (r) => String(r.offered.length), value: (r) => r.offered.length },
  ], rules, { caption: `Each axis along the frontier (cost: ${page.metricTitle(data.cost)}) and at the budget` });
};
