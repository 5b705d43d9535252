"use strict";
/* Section 2: operators of the chosen design on the device's roofs. */
codesign.sections.roofline = (root, data, page) => {
  const { format, escape } = page;
  const q = (id) => document.getElementById(`roofline-${id}`);
  const PHASES = ["prefill", "decode"];
  const kindOf = (name) => (name.startsWith("experts") ? "routed experts" : name.startsWith("attention") ? "attention" : "matrix products");
  let design = null;

  const rows = (phase) => page.breakdown(design, phase).filter((r) => r.flop > 0 && r.bytes > 0 && r.seconds > 0);
  function whole(phase) {
    const all = page.breakdown(design, phase), sum = (key) => all.reduce((s, r) => s + r[key], 0);
    return { name: `whole ${phase}`, flop: sum("flop"), bytes: sum("bytes"), seconds: sum("seconds"), share: 1, bound: "" };
  }
  function roof(intensity, r, add) {
    const moving = intensity * r.bandwidth_Bps;
    return add ? 1 / (1 / moving + 1 / r.flop_per_s) : Math.min(moving, r.flop_per_s);
  }
  /** One name for operators that fall on each other: at the largest of them. */
  function labels(list) {
    const out = list.map(() => ""), left = new Set(list.keys());
    const close = (a, b) => Math.abs(Math.log(a.flop / a.bytes / (b.flop / b.bytes))) < 0.5 && Math.abs(Math.log(a.flop / a.seconds / (b.flop / b.seconds))) < 0.35;
    for (const i of [...list.keys()].sort((a, b) => list[b].share - list[a].share)) {
      if (!left.has(i) || list[i].share < 0.004) continue;
      const group = [...left].filter((j) => close(list[i], list[j])).sort((a, b) => list[b].share - list[a].share);
      for (const j of group) left.delete(j);
      const names = group.filter((j) => list[j].share >= 0.004).map((j) => list[j].name);
      out[i] = names.slice(0, 3).join(", ") + (names.length > 3 ? `<br>and ${names.length - 3} more` : "");
    }
    return out;
  }
  const grid = (low, high) => Array.from({ length: 161 }, (_, i) => low * (high / low) ** (i / 160));
  function figure(t) {
    const roofs = data[design.precision], shown = PHASES.filter((phase) => q(phase).checked && page.breakdown(design, phase).length);
    const traces = [], points = shown.flatMap((phase) => [...rows(phase), whole(phase)]);
    const xs = points.map((r) => r.flop / r.bytes), sheet = roofs.decode;
    const ridge = sheet.peak_flop_per_s / sheet.bandwidth_Bps;
    const low = Math.min(...xs, ridge) / 2.2, high = Math.max(...xs, ridge) * 4;
    const line = (name, values, colour, dash, width) => traces.push({ type: "scatter", mode: "lines", name, x: grid(low, high), y: values, line: { color: colour, dash, width }, hoverinfo: "skip" });
    line(`device figures: ${format.bytes(sheet.bandwidth_Bps)}/s, ${format.rate(sheet.peak_flop_per_s)} ${sheet.dtype}`,
      grid(low, high).map((i) => Math.min(i * sheet.bandwidth_Bps, sheet.peak_flop_per_s)), t.ink, "solid", 1.8);
    const colours = { prefill: t.blue, decode: t.vermillion };
    for (const phase of shown) {
      const used = new Set(rows(phase).map((r) => kindOf(r.name)));
      const list = roofs[phase].calibrated.filter((r) => used.has(r.name) || r.name === "matrix products");
      const seen = new Set();
      for (const r of list) {
        const key = `${r.bandwidth_Bps} ${r.flop_per_s}`;
        if (seen.has(key)) continue;
        seen.add(key);
        line(`${phase}, calibrated for ${r.name}`, grid(low, high).map((i) => roof(i, r, roofs[phase].add)), colours[phase], seen.size === 1 ? "dash" : seen.size === 2 ? "dot" : "dashdot", 1.3);
      }
    }
    for (const phase of shown) {
      const list = rows(phase), all = whole(phase), names = q("labels").checked;
      const text = (r) => `<b>${escape(r.name)}</b>, ${phase}<br>${format.number(r.flop / r.bytes)} FLOP a byte<br>${format.rate(r.flop / r.seconds)}, ${format.bytes(r.bytes / r.seconds)}/s<br>${format.seconds(r.seconds)}${r.bound ? `, ${format.percent(r.share)} of the pass<br>bound: ${r.bound}` : ""}`;
      const sorted = list.slice().sort((a, b) => a.flop / a.bytes - b.flop / b.bytes || a.flop / a.seconds - b.flop / b.seconds);
      traces.push({ type: "scatter", mode: names ? "markers+text" : "markers", name: `operators, ${phase}`, x: sorted.map((r) => r.flop / r.bytes), y: sorted.map((r) => r.flop / r.seconds),
        text: labels(sorted), textposition: "bottom right", textfont: { size: 11, color: t.ink },
        hovertext: sorted.map(text), hovertemplate: "%{hovertext}<extra></extra>",
        marker: { size: sorted.map((r) => 7 + 38 * Math.sqrt(r.share)), color: colours[phase], symbol: phase === "decode" ? "diamond" : "circle", opacity: 0.75, line: { width: 1, color: t.paper } } });
      traces.push({ type: "scatter", mode: "markers", name: `whole ${phase}, with overheads`, x: [all.flop / all.bytes], y: [all.flop / all.seconds], hovertext: [text(all)],
        hovertemplate: "%{hovertext}<extra></extra>", marker: { size: 15, symbol: "x", color: colours[phase], line: { width: 1.5, color: t.ink } } });
    }
    const ys = points.map((r) => r.flop / r.seconds);
    return { data: traces, layout: { xaxis: { type: "log", title: { text: "arithmetic intensity, FLOP per byte moved" }, range: [Math.log10(low), Math.log10(high)], dtick: 1 },
      yaxis: { type: "log", title: { text: "FLOP/s" }, range: [Math.log10(Math.min(...ys) / 2.5), Math.log10(sheet.peak_flop_per_s * 2)], tickformat: "~s", dtick: 1 },
      legend: { x: 1.01, y: 1, xanchor: "left", yanchor: "top", font: { size: 11.5 } }, margin: { l: 66, r: 16, t: 16, b: 50 } } };
  }
  let chart = null, table = null;
  function update() {
    q("name").textContent = design.name;
    if (!chart) {
      chart = page.plot(q("plot"), figure, { label: "Roofline: speed of each operator of the chosen design over its arithmetic intensity, with the device's data-sheet and calibrated roofs. A table follows." });
      for (const key of [...PHASES, "labels"]) q(key).addEventListener("change", update);
    } else chart.update();
    if (q("details").open) fill();
  }
  function fill() {
    const lines = PHASES.flatMap((phase) => [...rows(phase), whole(phase)].filter((r) => r.flop).map((r) => ({ phase, ...r })));
    table = page.table(q("table"), [
      { title: "operator", left: true, text: (r) => r.name }, { title: "phase", left: true, text: (r) => r.phase },
      { title: "FLOP a byte", value: (r) => r.flop / r.bytes, text: (r) => format.number(r.flop / r.bytes) },
      { title: "speed", value: (r) => r.flop / r.seconds, text: (r) => format.rate(r.flop / r.seconds) },
      { title: "of the peak", value: (r) => r.flop / r.seconds, text: (r) => format.percent(r.flop / r.seconds / data[design.precision][r.phase].peak_flop_per_s) },
      { title: "traffic", value: (r) => r.bytes / r.seconds, text: (r) => `${format.bytes(r.bytes / r.seconds)}/s` },
      { title: "of the bandwidth", value: (r) => r.bytes / r.seconds, text: (r) => format.percent(r.bytes / r.seconds / data[design.precision][r.phase].bandwidth_Bps) },
      { title: "time", value: (r) => r.seconds, text: (r) => format.seconds(r.seconds) }, { title: "bound", left: true, text: (r) => r.bound },
    ], lines, { caption: `Operators of ${design.name}` });
  }
  page.whenOpen(q("details"), fill);
  page.onSelect((chosen) => { design = chosen; update(); });
};
