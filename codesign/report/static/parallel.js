"use strict";
/* Section 4: parallel coordinates; ranges by brush or by number filter the whole page. */
codesign.sections.parallel = (root, data, page) => {
  const { format, designs } = page;
  const q = (id) => document.getElementById(`parallel-${id}`);
  if (!q("plot")) return;
  const SHORT = { loss: [1, ""], ...Object.fromEntries(["params_active", "memory_B", "latency_s", "ttft_s", "energy_J"].map((k) => [k, page.metricScale(k)])) };
  const read = (d, key) => {
    if (key === "ffn_ratio") return (d.arch.n_experts ? d.arch.n_active_experts * d.arch.d_ff_expert + d.arch.n_shared_experts * d.arch.d_ff_shared : d.arch.d_ff) / d.arch.d_model;
    if (key === "precision") return page.facts.precisions.indexOf(d.precision);
    return key in d.arch ? d.arch[key] : d.values[key] * (SHORT[key] ?? [1])[0];
  };
  const columns = Object.fromEntries(data.axes.map(({ key }) => [key, designs.map((d) => read(d, key))]));
  const ranges = Object.fromEntries(data.axes.map(({ key }) => [key, null]));
  const unit = (key) => (SHORT[key] ?? [1, ""])[1];
  const spread = (values) => [Math.min(...values), Math.max(...values)];
  for (const fieldset of q("ranges").querySelectorAll("fieldset")) {
    const input = fieldset.querySelector("[data-axis]"), key = input.dataset.axis;
    if (key === "precision") { for (const name of page.facts.precisions) input.add(new Option(name, name)); continue; }
    fieldset.querySelector("legend").textContent += unit(key) ? `, ${unit(key)}` : "";
    const [low, high] = spread(columns[key]);
    const [least, most] = fieldset.querySelectorAll("input");
    least.placeholder = format.number(low);
    most.placeholder = format.number(high);
  }

  function figure(t) {
    const losses = designs.map((d) => (data.shade === "loss" ? d.loss : d.values[data.shade])), [low, high] = spread(losses);
    const chosen = page.selected && designs.length <= 500 ? designs.findIndex((d) => d.name === page.selected) : -1;
    const span = high - low || 1;
    const scale = t.dark ? [[0, "#A6DCFF"], [0.25, "#5E93BC"], [0.5, "#3C5A78"], [0.5001, "#FF7A1F"], [1, "#FF7A1F"]] : [[0, "#00204D"], [0.25, "#5C6D8C"], [0.5, "#C9C26B"], [0.5001, "#D55E00"], [1, "#D55E00"]];
    const dimensions = data.axes.map(({ key, title }) => {
      const values = columns[key], distinct = [...new Set(values)].sort((a, b) => a - b);
      const dimension = { label: title + (unit(key) ? ` (${unit(key)})` : ""), values, range: spread(values), constraintrange: ranges[key] ?? undefined };
      if (key === "precision") Object.assign(dimension, { tickvals: page.facts.precisions.map((_, i) => i), ticktext: page.facts.precisions });
      else if (distinct.length <= 8) Object.assign(dimension, { tickvals: distinct, ticktext: distinct.map((v) => format.number(v)) });
      return dimension;
    });
    const shade = losses.map((v, i) => (i === chosen ? 2 : (0.95 * (v - low)) / span));
    return { data: [{ type: "parcoords", dimensions, line: { color: shade, cmin: 0, cmax: 2, colorscale: scale, showscale: false }, labelfont: { size: t.print ? 7.5 : 12, color: t.ink },
      tickfont: { size: t.print ? 8 : 11, color: t.ink }, rangefont: { size: 1, color: "rgba(0,0,0,0)" }, unselected: { line: { color: t.dark ? "#39424d" : "#c4ccd4", opacity: 0.25 } } }],
      layout: { margin: { l: 60, r: 60, t: 60, b: 24 } } };
  }
  const chart = page.plot(q("plot"), figure, { label: "Parallel coordinates of the frontier's designs; the number fields below do what dragging on an axis does." });

  const inside = (i) => data.axes.every(({ key }) => {
    const range = ranges[key];
    if (!range) return true;
    const parts = Array.isArray(range[0]) ? range : [range], v = columns[key][i], slack = 1e-9 * Math.max(Math.abs(v), 1);
    return parts.some(([a, b]) => v >= a - slack && v <= b + slack);
  });
  function apply({ redraw }) {
    const none = Object.values(ranges).every((r) => !r);
    const names = designs.filter((_, i) => inside(i)).map((d) => d.name);
    page.filter(none ? null : names);
    q("count").textContent = none ? `all ${designs.length} designs` : `${names.length} of ${designs.length} designs kept`;
    if (redraw) chart.update();
    if (q("details").open) fill();
  }
  let redrawing = false;
  chart.on("plotly_restyle", () => {
    if (redrawing) return;
    const drawn = q("plot").data[0].dimensions;
    data.axes.forEach(({ key }, k) => {
      ranges[key] = drawn[k].constraintrange ?? null;
      for (const input of q("ranges").querySelectorAll(`input[data-axis="${key}"]`)) {
        const range = ranges[key];
        input.value = !range ? "" : format.number((Array.isArray(range[0]) ? (input.dataset.side === "0" ? range[0] : range[range.length - 1]) : range)[Number(input.dataset.side)]);
      }
    });
    apply({ redraw: false });
  });
  q("ranges").addEventListener("submit", (event) => event.preventDefault());
  q("ranges").addEventListener("change", (event) => {
    const key = event.target.dataset.axis;
    if (key === "precision") {
      const at = page.facts.precisions.indexOf(event.target.value);
      ranges[key] = at < 0 ? null : [at - 0.25, at + 0.25];
    } else {
      const [least, most] = [...q("ranges").querySelectorAll(`input[data-axis="${key}"]`)].map((i) => i.value);
      const [low, high] = spread(columns[key]);
      ranges[key] = least === "" && most === "" ? null : [least === "" ? low : Number(least), most === "" ? high : Number(most)];
      if (ranges[key] && ranges[key][0] > ranges[key][1]) ranges[key].reverse();
    }
    redrawing = true;
    apply({ redraw: true });
    redrawing = false;
  });
  q("clear").addEventListener("click", () => {
    for (const key of Object.keys(ranges)) ranges[key] = null;
    q("ranges").reset();
    apply({ redraw: true });
  });
  function fill() {
    const list = designs.map((d, i) => ({ d, i })).filter(({ d }) => !page.kept || page.kept.has(d.name));
    page.table(q("table"), [{ title: "design", left: true, value: (r) => r.i, text: (r) => r.d.name },
      ...data.axes.map(({ key, title }) => ({ title: title + (unit(key) ? `, ${unit(key)}` : ""), value: (r) => columns[key][r.i], text: (r) => (key === "precision" ? r.d.precision : format.number(columns[key][r.i])) }))],
      list, { onRow: (r) => page.select(r.d.name), name: (r) => r.d.name, limit: 500, caption: "Designs kept; Enter chooses a row" });
  }
  page.whenOpen(q("details"), fill);
  apply({ redraw: false });
  let later = 0;
  page.onSelect(() => {  // the chosen line has a colour of its own, where drawing all lines again is quick
    if (designs.length > 500) return;
    clearTimeout(later);
    later = setTimeout(() => chart.update(), 300);
  });
};
