"use strict";
/* Section 5: predicted against measured. */
codesign.sections.trust = (root, data, page) => {
  const { format, escape } = page;
  const q = (id) => document.getElementById(`trust-${id}`);
  const TITLES = { latency_s: "time per token", ttft_s: "time to first token" };

  function equal(points, t) {
    const all = points.flat(), low = Math.min(...all) * 0.8, high = Math.max(...all) * 1.25;
    return { low, high, trace: { type: "scatter", mode: "lines", name: "equal", x: [low, high], y: [low, high], line: { color: t.line, width: 1.2 }, hoverinfo: "skip" } };
  }
  const step = (low, high) => (high > 30 * low ? 1 : undefined);
  const axes = (low, high, unit) => ({ xaxis: { dtick: step(low, high), type: "log", title: { text: `measured, ${unit}` }, range: [Math.log10(low), Math.log10(high)], minor: { showgrid: false } },
    yaxis: { dtick: step(low, high), type: "log", title: { text: `predicted, ${unit}` }, range: [Math.log10(low), Math.log10(high)] }, legend: { x: 0.02, y: 0.99, xanchor: "left", yanchor: "top", font: { size: 11.5 } }, margin: { l: 64, r: 16, t: 12, b: 50 } });

  if (data.validation) {
    const rows = data.validation, metrics = [...new Set(rows.map((r) => r.metric))];
    const chart = page.plot(q("validation"), (t) => {
      const line = equal(rows.map((r) => [1e3 * r.measured, 1e3 * r.low, 1e3 * r.high]), t);
      const traces = metrics.map((metric, k) => {
        const list = rows.filter((r) => r.metric === metric);
        return { type: "scatter", mode: "markers", name: TITLES[metric] ?? metric, x: list.map((r) => 1e3 * r.measured), y: list.map((r) => 1e3 * r.predicted),
          error_y: { type: "data", symmetric: false, array: list.map((r) => 1e3 * (r.high - r.predicted)), arrayminus: list.map((r) => 1e3 * (r.predicted - r.low)), color: t.series[k], thickness: 1, width: 3 },
          customdata: list.map((r) => r.design), hovertext: list.map((r) => `<b>${escape(r.design)}</b>, ${escape(TITLES[metric] ?? metric)}<br>measured ${format.seconds(r.measured)}<br>predicted ${format.seconds(r.predicted)} (${format.seconds(r.low)} to ${format.seconds(r.high)})<br>${r.inside ? "inside" : "outside"} the 90 % interval`),
          hovertemplate: "%{hovertext}<extra></extra>", marker: { size: 9, color: t.series[k], symbol: t.symbols[k], line: { width: 1, color: t.paper } } };
      });
      return { data: [line.trace, ...traces], layout: axes(line.low, line.high, "ms") };
    }, { label: "Calibration plot: predicted against measured times of designs of this frontier, with 90 % intervals. A table is beside it." });
    chart.on("plotly_click", (event) => { const name = event.points[0].customdata; if (page.design(name)) page.select(name); });
    const details = q("validation-table").closest("details");
    page.whenOpen(details, () => {
      page.table(q("validation-table"), [
        { title: "design", left: true, text: (r) => r.design }, { title: "figure", left: true, text: (r) => TITLES[r.metric] ?? r.metric },
        { title: "measured", value: (r) => r.measured, text: (r) => format.seconds(r.measured) }, { title: "predicted", value: (r) => r.predicted, text: (r) => format.seconds(r.predicted) },
        { title: "90 % interval", value: (r) => r.low, text: (r) => `${format.seconds(r.low)} to ${format.seconds(r.high)}` },
        { title: "error", value: (r) => r.predicted / r.measured, text: (r) => `${(100 * (r.predicted / r.measured - 1)).toFixed(1)} %` }, { title: "inside", left: true, text: (r) => (r.inside ? "yes" : "no") },
      ], rows, { onRow: (r) => page.select(r.design), name: (r) => r.design, caption: "Measured designs" });
    });
  }

  if (data.published) {
    const n = data.published.measured_ms.length;
    const columns = Object.fromEntries(Object.entries(data.published).map(([key, packed]) => [key, page.column(packed, n)]));
    const rows = Array.from({ length: n }, (_, i) => Object.fromEntries(Object.keys(columns).map((key) => [key, columns[key][i]])));
    const state = { phase: "decode", left_out: "model" };
    const shown = () => rows.filter((r) => r.phase === state.phase && r.left_out === state.left_out);
    const groups = (list) => [
      ["other devices", list.filter((r) => r.device !== data.device)],
      ["this device, other engines", list.filter((r) => r.device === data.device && r.engine !== data.engine)],
      [`this device, ${data.engine}`, list.filter((r) => r.device === data.device && r.engine === data.engine)],
    ];
    const mape = (list) => list.reduce((s, r) => s + Math.abs(r.predicted_ms / r.measured_ms - 1), 0) / list.length;
    const chart = page.plot(q("published"), (t) => {
      const list = shown(), line = equal(list.map((r) => [r.measured_ms, r.predicted_ms]), t);
      const looks = [{ color: t.grey, opacity: 0.45, size: 5, symbol: "circle" }, { color: t.blue, opacity: 0.85, size: 8, symbol: "square" }, { color: t.vermillion, opacity: 0.95, size: 10, symbol: "diamond" }];
      const traces = groups(list).map(([name, members], k) => ({ type: "scatter", mode: "markers", name: `${escape(name)} (${members.length})`, x: members.map((r) => r.measured_ms), y: members.map((r) => r.predicted_ms),
        hovertext: members.map((r) => `<b>${escape(r.model)}</b>, ${escape(r.kind)}, ${escape(r.engine)}<br>${escape(r.device)}<br>measured ${format.seconds(r.measured_ms / 1e3)}, predicted ${format.seconds(r.predicted_ms / 1e3)}<br>${r.inside ? "inside" : "outside"} its 90 % interval; source ${escape(r.source)}`),
        hovertemplate: "%{hovertext}<extra></extra>", marker: { ...looks[k], line: { width: k ? 1 : 0, color: t.paper } } })).filter((trace) => trace.x.length);
      return { data: [line.trace, ...traces], layout: axes(line.low, line.high, "ms") };
    }, { label: "Calibration plot: predicted against published measured times, each predicted by a fit that did not see its group. The error table is beside it." });
    function update() {
      const [, other, own] = groups(shown()), here = [...other[1], ...own[1]];
      q("published-here").textContent = !here.length ? `No row of this device in ${state.phase} with the ${state.left_out} left out.`
        : `This device: ${here.length} rows, mean error ${(100 * mape(here)).toFixed(1)} %, ${format.percent(here.filter((r) => r.inside).length / here.length)} inside their 90 % intervals`
          + (own[1].length ? `; with ${data.engine}: ${own[1].length} rows, ${(100 * mape(own[1])).toFixed(1)} %, ${format.percent(own[1].filter((r) => r.inside).length / own[1].length)} inside.` : `; none with ${data.engine}.`);
      chart.update();
      const details = q("published-table").closest("details");
      if (details.open) fill();
    }
    function fill() {
      page.table(q("published-table"), [
        { title: "device", left: true, text: (r) => r.device }, { title: "engine", left: true, text: (r) => r.engine }, { title: "weights", left: true, text: (r) => r.kind }, { title: "model", left: true, text: (r) => r.model },
        { title: "measured", value: (r) => r.measured_ms, text: (r) => format.seconds(r.measured_ms / 1e3) }, { title: "predicted", value: (r) => r.predicted_ms, text: (r) => format.seconds(r.predicted_ms / 1e3) },
        { title: "error", value: (r) => r.predicted_ms / r.measured_ms, text: (r) => `${(100 * (r.predicted_ms / r.measured_ms - 1)).toFixed(0)} %` }, { title: "inside", left: true, text: (r) => (r.inside ? "yes" : "no") }, { title: "source", left: true, text: (r) => r.source },
      ], shown().sort((a, b) => (b.device === data.device) - (a.device === data.device)), { limit: 200, caption: `Published measurements, ${state.phase}, the ${state.left_out} left out` });
    }
    page.whenOpen(q("published-table").closest("details"), fill);
    q("phase").addEventListener("change", (event) => { state.phase = event.target.value; update(); });
    q("way").addEventListener("change", (event) => { state.left_out = event.target.value; update(); });
    update();
  }
};
