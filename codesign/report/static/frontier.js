"use strict";
/* Section 1: the frontier, the chosen design, its operators. */
codesign.sections.frontier = (root, data, page) => {
  const { format, escape, designs, known } = page;
  const q = (id) => document.getElementById(`frontier-${id}`);
  const state = { x: data.axes[0], y: data.ys[0], intervals: true, known: true, measured: data.measured.length > 0, log: false };
  const many = designs.length > 1500;
  const mixed = designs.some((d) => d.arch.mixer);
  const flexible = (d) => d.arch.family;
  const several = page.facts.precisions.length > 1;
  const groupOf = (d) => (several ? `${d.precision}, ${flexible(d)}` : flexible(d));
  const groups = [...new Set(designs.map(groupOf))].sort();

  // ---- the plot -----------------------------------------------------------------------------------------------------
  const value = (d, key) => d.values[key] * page.metricScale(key)[0];
  const end = (d, key, side) => (d[side][key] ?? d.values[key]) * page.metricScale(key)[0];
  const axisTitle = (key) => { const unit = page.metricScale(key)[1]; return page.metricTitle(key) + (unit ? `, ${unit}` : ""); };
  function hover(d) {
    const line = (key) => `${page.metricTitle(key)} <b>${format.metric(key, d.values[key])}</b>` + (d.low[key] !== undefined ? ` (${format.metric(key, d.low[key])} to ${format.metric(key, d.high[key])})` : "");
    return [`<b>${escape(d.name)}</b>${several || d.known ? " " + escape(d.precision) : ""}`, escape(page.archText(d.arch)), line(state.x), line(state.y),
      d.known ? escape(d.note || "") : `fits the budget ${format.percent(d.p_budget)}`].filter(Boolean).join("<br>");
  }
  const faint = (hex) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",")},.4)`;
  const errors = (list, key, colour, width = 1) => ({ type: "data", symmetric: false, array: list.map((d) => end(d, key, "high") - value(d, key)),
    arrayminus: list.map((d) => value(d, key) - end(d, key, "low")), color: colour, thickness: width, width: 3 });
  /** Where each name stands: the corner of its star where it covers the fewest stars and names; `at` gives pixels. */
  function places(list, at) {
    const corners = ["top right", "bottom right", "top left", "bottom left"], stars = list.map(at), taken = [];
    const covers = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
    return list.map((d, i) => {
      const [x, y] = stars[i], wide = 6.4 * d.name.length, [width] = size();
      const boxes = corners.map((corner) => {
        const left = corner.endsWith("left") ? x - wide - 6 : x + 6, top = corner.startsWith("top") ? y - 17 : y + 4;
        return [left, top, left + wide, top + 13];
      });
      const costs = boxes.map((box) => stars.reduce((sum, [u, v], k) => sum + (k === i ? 0 : covers(box, [u - 8, v - 8, u + 8, v + 8])), 0)
        + taken.reduce((sum, other) => sum + covers(box, other), 0) + 13 * (Math.max(0, -box[0]) + Math.max(0, box[2] - width)));
      const best = costs.indexOf(Math.min(...costs));
      taken.push(boxes[best]);
      return corners[best];
    });
  }
  /** Width and height between the axes, roughly, in pixels. */
  const size = () => { const box = q("plot").getBoundingClientRect(); return [Math.max(box.width - 78, 100), Math.max(box.height - 106, 100)]; };
  function figure(t) {
    const { x, y } = state, traces = [];
    const complete = data.complete.length === 1 && data.complete[0] === x && (y === "loss" || y === "perplexity");
    const sorted = designs.slice().sort((a, b) => value(a, x) - value(b, x));
    if (state.intervals && complete && sorted.length > 1) {
      const xs = sorted.map((d) => value(d, x)), soft = t.dark ? "rgba(79,169,221,.16)" : "rgba(0,114,178,.12)";
      traces.push({ type: "scatter", mode: "lines", x: xs, y: sorted.map((d) => end(d, y, "low")), line: { width: 0 }, hoverinfo: "skip", showlegend: false });
      traces.push({ type: "scatter", mode: "lines", x: xs, y: sorted.map((d) => end(d, y, "high")), line: { width: 0 }, fill: "tonexty", fillcolor: soft,
        hoverinfo: "skip", name: `90 % interval of the ${y}` });
    }
    if (complete) traces.push({ type: "scatter", mode: "lines", x: sorted.map((d) => value(d, x)), y: sorted.map((d) => value(d, y)),
      line: { shape: "hv", width: 1, color: t.blue }, opacity: 0.6, hoverinfo: "skip", showlegend: false });
    groups.forEach((group, k) => {
      const list = designs.filter((d) => groupOf(d) === group);
      const bars = state.intervals && list.length <= 150;
      traces.push({ type: "scatter", mode: "markers", name: `${group} (${list.length})`, x: list.map((d) => value(d, x)), y: list.map((d) => value(d, y)),
        customdata: list.map((d) => d.name), text: list.map(hover), hovertemplate: "%{text}<extra></extra>",
        marker: { size: many ? 5 : 8, color: t.series[k % t.series.length], symbol: t.symbols[k % t.symbols.length], line: { width: many ? 0 : 1, color: t.paper },
          opacity: page.kept ? list.map((d) => (page.kept.has(d.name) ? 1 : 0.12)) : 1 },
        error_x: bars ? { ...errors(list, x, faint(t.series[k % t.series.length])), thickness: 0.8, width: 0 } : undefined,
        error_y: bars && !complete ? { ...errors(list, y, faint(t.series[k % t.series.length])), thickness: 0.8, width: 0 } : undefined });
    });
    const metric = x === "latency_s" || x === "ttft_s" ? x : null;
    const measured = state.measured && metric ? data.measured.filter((m) => m.metric === metric) : [];
    const scale = page.metricScale(x)[0];
    if (measured.length) {
      const xs = [], ys = [];
      for (const m of measured) { const d = page.design(m.name); xs.push(m.predicted * scale, m.measured * scale, null); ys.push(value(d, y), value(d, y), null); }
      traces.push({ type: "scatter", mode: "lines", x: xs, y: ys, line: { width: 1.2, color: t.ink }, hoverinfo: "skip", showlegend: false });
      traces.push({ type: "scatter", mode: "markers", name: `measured (${measured.length})`, x: measured.map((m) => m.measured * scale),
        y: measured.map((m) => value(page.design(m.name), y)), customdata: measured.map((m) => m.name),
        text: measured.map((m) => `<b>${escape(m.name)}</b> measured<br>${format.metric(metric, m.measured)}, predicted ${format.metric(metric, m.predicted)}<br>${m.inside ? "inside" : "outside"} the 90 % interval`),
        hovertemplate: "%{text}<extra></extra>", marker: { size: 9, symbol: "x-thin", color: t.ink, line: { width: 2, color: t.ink } } });
    }
    const shownKnown = state.known ? known.filter((d) => x in d.values && Number.isFinite(d.values[y])) : [];
    const bound = data.budget[x] ?? (x === "memory_B" ? data.memory_B : undefined);
    const label = data.budget[x] ? `budget ${format.metric(x, bound)}` : `free on the device ${format.metric(x, bound)}`;
    const xs = designs.map((d) => value(d, x)), ys = designs.map((d) => value(d, y)), lows = designs.map((d) => end(d, y, "low"));
    const edge = bound && bound * scale < 4 * Math.max(...xs) ? bound * scale : 0;
    const low = Math.min(...xs), high = Math.max(...xs, edge);
    const wide = high - low || high;  // one design, and a budget far away
    const range = state.log ? [Math.log10(low * 0.85), Math.log10(high * 1.3)] : [Math.max(0, low - 0.08 * wide), high + 0.14 * wide];
    const near = shownKnown.filter((d) => value(d, x) <= (state.log ? 10 ** range[1] : range[1])).map((d) => value(d, y));
    const bottom = Math.min(...lows, ...near), top = Math.max(...ys, ...near), pad = 0.05 * (top - bottom || 1);
    const along = (v) => (state.log ? Math.log10(v) : v), [width, height] = size();
    const at = (d) => [width * (along(value(d, x)) - range[0]) / (range[1] - range[0]), height * (top + pad - value(d, y)) / (top - bottom + 2 * pad)];
    if (shownKnown.length) traces.push({ type: "scatter", mode: "markers+text", name: "known models, same law and tokens", x: shownKnown.map((d) => value(d, x)),
      y: shownKnown.map((d) => value(d, y)), text: shownKnown.map((d) => escape(d.name)), textposition: places(shownKnown, at), textfont: { size: 11, color: t.muted },
      customdata: shownKnown.map((d) => d.name), hovertext: shownKnown.map(hover), hovertemplate: "%{hovertext}<extra></extra>",
      marker: { size: 11, symbol: "star", color: t.orange, line: { width: 1, color: t.ink } },
      error_y: state.intervals ? { ...errors(shownKnown, y, t.orange), thickness: 0.8 } : undefined });
    fixed = { shapes: [], annotations: [] };
    if (edge) {
      fixed.shapes.push({ type: "line", x0: edge, x1: edge, y0: 0, y1: 1, yref: "paper", line: { color: t.vermillion, width: 1.5, dash: "dash" } });
      fixed.annotations.push({ x: state.log ? Math.log10(edge) : edge, y: 1, yref: "paper", text: label, showarrow: false, xanchor: "right", yanchor: "top", textangle: -90, font: { color: t.vermillion, size: 12 } });
    }
    return { data: traces, layout: { xaxis: { title: { text: axisTitle(x) }, type: state.log ? "log" : "linear", range }, yaxis: { title: { text: y === "loss" ? "predicted training loss, nats per token" : y === "perplexity" ? "predicted perplexity" : axisTitle(y) }, range: [bottom - pad, top + pad] },
      ...marked(t), legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11.5 } }, margin: { l: 62, r: 16, t: 56, b: 50 }, uirevision: `${x}${y}${state.log}` } };
  }
  /** Ring, intervals and name of the chosen design, and the budget: moved without drawing the points again. */
  let fixed = { shapes: [], annotations: [] };
  function marked(t) {
    const d = page.selected ? page.design(page.selected) : null, { x, y } = state;
    if (!d || !(x in d.values)) return fixed;
    const line = { color: t.vermillion, width: 1.8 }, px = value(d, x), py = value(d, y);
    const shapes = [{ type: "circle", xref: "x", yref: "y", xsizemode: "pixel", ysizemode: "pixel", xanchor: px, yanchor: py, x0: -9, x1: 9, y0: -9, y1: 9, line: { ...line, width: 2.5 } },
      { type: "line", xref: "x", yref: "y", x0: end(d, x, "low"), x1: end(d, x, "high"), y0: py, y1: py, line },
      { type: "line", xref: "x", yref: "y", x0: px, x1: px, y0: end(d, y, "low"), y1: end(d, y, "high"), line }];
    const name = { x: state.log ? Math.log10(px) : px, y: py, text: `<b>${escape(d.name)}</b>`, showarrow: false, xanchor: "left", yanchor: "bottom", xshift: 9, yshift: 7, font: { color: t.vermillion, size: 12 }, bgcolor: t.dark ? "rgba(15,20,25,.75)" : "rgba(255,255,255,.75)", borderpad: 1 };
    return { shapes: [...fixed.shapes, ...shapes], annotations: [...fixed.annotations, name] };
  }
  const element = q("plot");
  const chart = page.plot(element, figure, { label: `Frontier: ${page.metricTitle(state.y)} against ${page.metricTitle(state.x)} of ${designs.length} designs, with ${known.length} known models. Arrow keys move along the designs; a table follows.` });
  element.setAttribute("role", "group");
  element.setAttribute("aria-describedby", "frontier-hint");
  chart.on("plotly_click", (event) => { const name = event.points.map((p) => p.customdata).find((n) => typeof n === "string"); if (name) page.select(name); });
  element.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const list = designs.filter((d) => !page.kept || page.kept.has(d.name)).sort((a, b) => a.values[state.x] - b.values[state.x]);
    if (!list.length) return;
    const at = list.findIndex((d) => d.name === page.selected);
    const to = at < 0 ? (step > 0 ? 0 : list.length - 1) : Math.min(Math.max(at + step, 0), list.length - 1);
    page.select(list[to].name);
  });

  // ---- controls -----------------------------------------------------------------------------------------------------
  q("x").addEventListener("change", (event) => {
    state.x = event.target.value;
    q("hint").firstChild.textContent = data.complete.includes(state.x) ? hint : `The search did not minimise ${page.metricTitle(state.x)}: the same designs are shown, and others may be better in it. ` + hint;
    chart.update();
  });
  const hint = q("hint").textContent;
  for (const radio of root.querySelectorAll('input[name="frontier-y"]')) radio.addEventListener("change", () => { state.y = radio.value; chart.update(); });
  for (const key of ["intervals", "known", "measured", "log"]) q(key)?.addEventListener("change", (event) => { state[key] = event.target.checked; chart.update(); });

  // ---- the chosen design ----------------------------------------------------------------------------------------------
  const PHASES = { prefill: "Prefill: to the first token", decode: "Decode: each generated token" };
  const WORDS = { bandwidth: "moving bytes", compute: "computing", unpack: "unpacking weights", overhead: "launch and host overhead" };
  function shares(design, phase) {
    const rows = page.breakdown(design, phase), sums = {};
    for (const r of rows) sums[r.bound] = (sums[r.bound] ?? 0) + r.share;
    return Object.entries(sums).sort((a, b) => b[1] - a[1]);
  }
  function why(design, phase) {
    const rows = page.breakdown(design, phase);
    if (!rows.length) return "";
    const parts = shares(design, phase), [bound, share] = parts[0];
    const top = rows.filter((r) => r.bound === bound).sort((a, b) => b.share - a.share).slice(0, 2).filter((r) => r.share >= 0.1).map((r) => `${r.name} ${format.percent(r.share)}`);
    const rest = parts.slice(1).filter((p) => p[1] >= 0.05).map(([b, s]) => `${WORDS[b] ?? b} ${format.percent(s)}`);
    const name = { bandwidth: "bandwidth-bound", compute: "compute-bound", unpack: "bound by unpacking weights", overhead: "bound by overheads" }[bound] ?? bound;
    return `${phase === "decode" ? "Decode" : "Prefill"} is ${name}: ${format.percent(share)} of its time goes to ${WORDS[bound] ?? bound}${top.length ? ` (${top.join(", ")})` : ""}${rest.length ? `; ${rest.join(", ")}` : ""}.`;
  }
  function details(design) {
    const a = design.arch, panel = q("details");
    const pair = (key) => Number.isNaN(design.values[key]) ? `<dt>${escape(page.metricTitle(key).replace(", nats per token", ""))}</dt><dd>not predicted</dd>` : key in design.values ? `<dt>${escape(page.metricTitle(key).replace(", nats per token", ""))}</dt><dd>${format.metric(key, design.values[key])}${design.low[key] !== undefined ? `<span class="range">90 %: ${format.metric(key, design.low[key])} to ${format.metric(key, design.high[key])}</span>` : ""}</dd>` : "";
    const parts = ["weights_B", "kv_B", "workspace_B"].filter((k) => k in design.values).map((k) => `${page.metricTitle(k)} ${format.bytes(design.values[k])}`).join(", ");
    const marks = design.marks.map((m) => data.marks[m] ?? [m, m]).map(([letter, text]) => `<li><strong>${escape(letter)}</strong> ${escape(text)}</li>`).join("");
    const text = page.config(design);
    const active = design.values.params_active < design.values.params ? `, ${format.count(design.values.params_active)} active` : "";
    const gap = (g, where) => (g ? `<li>${where}: <button type="button" class="link" data-select="${escape(g.design)}">${escape(g.design)}</button>, loss ${g.loss_difference > 0 ? "+" : "−"}${Math.abs(g.loss_difference).toFixed(3)} (${g.loss_interval.map((v) => (v > 0 ? "+" : "−") + Math.abs(v).toFixed(3)).join(" to ")}), ${g.latency_ratio.toFixed(2)} times the time</li>` : "");
    const beside = design.known ? `<h3>What the frontier offers beside it</h3><ul class="plain">${gap(design.at_latency, "at its time") + gap(design.at_loss, "at its loss") || "<li>nothing within this budget</li>"}</ul>` : "";
    const own = design.known && design.note ? `<p class="hint">${escape(design.note)}${design.own_latency_s ? `; with its own, ${format.seconds(design.own_latency_s)} a token` : ""}.</p>` : "";
    panel.innerHTML = `<h3 class="label">${design.known ? "Known model" : "Chosen design"}</h3><p class="name" id="frontier-chosen">${escape(design.name)}</p>
      <p>${escape(page.archText(a))}, ${escape(design.precision)}; ${format.count(design.values.params)} parameters${active}</p>${own}
      <dl class="pairs">${["loss", "perplexity", "latency_s", "ttft_s", "e2e_s", "memory_B"].map(pair).join("")}<dt></dt><dd class="range">${parts}</dd>${["energy_J", "power_W"].map(pair).join("")}
      <dt>within the budget</dt><dd>${format.percent(design.p_budget)} probability</dd>${design.known ? "" : `<dt>non-dominated</dt><dd>${format.percent(design.p_front)} probability</dd>`}</dl>
      ${beside}
      <h3>config.json</h3><div class="actions"><button type="button" id="frontier-copy"${text ? "" : " disabled"}>Copy config.json</button><span id="frontier-copied" class="hint" role="status"></span></div>
      ${text ? `<details data-screen><summary>Show it</summary><pre class="scroll" id="frontier-config" tabindex="0"></pre></details>` : `<p class="hint">Configs of this model's family are read, not written.</p>`}
      ${marks ? `<h3>Its marks: where to be careful</h3><ul class="plain muted">${marks}</ul>` : ""}`;
    q("why").innerHTML = `<h3>Why ${escape(design.name)} takes this long</h3>${Object.keys(PHASES).reverse().map((phase) => why(design, phase)).filter(Boolean).map((line) => `<p>${escape(line)}</p>`).join("")}`;
    if (text) {
      q("config").textContent = text;
      q("copy").addEventListener("click", () => copy(text));
    }
  }
  async function copy(text) {
    let done = false;
    try { await navigator.clipboard.writeText(text); done = true; } catch (error) { done = false; }
    if (!done) {  // no permission: select the text, so that the keyboard copies it
      const pre = q("config");
      pre.closest("details").open = true;
      window.getSelection().selectAllChildren(pre);
      done = document.execCommand("copy");
    }
    q("copied").textContent = done ? "copied" : "selected: press Ctrl+C";
  }
  function breakdownTables(design) {
    q("breakdown-title").textContent = `Where the time goes: ${design.name}`;
    const widest = Math.max(...Object.keys(PHASES).flatMap((phase) => page.breakdown(design, phase).map((r) => r.share)));
    q("breakdown").innerHTML = Object.entries(PHASES).map(([phase, title]) => {
      const rows = page.breakdown(design, phase);
      if (!rows.length) return "";
      const total = rows.reduce((s, r) => s + r.seconds, 0);
      const lines = rows.map((r) => `<tr><th scope="row" class="left">${escape(r.name)}</th><td>${r.count}</td><td>${format.seconds(r.seconds)}</td><td class="sharecell"><span class="share" style="width:${(72 * r.share / widest).toFixed(1)}%"></span> ${format.percent(r.share)}</td><td>${r.bytes ? format.bytes(r.bytes) : "–"}</td><td>${r.flop ? format.flop(r.flop) : "–"}</td><td class="left">${escape(r.bound)}</td></tr>`).join("");
      const sum = (key) => rows.reduce((s, r) => s + r[key], 0);
      return `<div class="scroll"><table><caption>${title}, ${format.seconds(total)}</caption><thead><tr><th scope="col" class="left">operator</th><th scope="col">times</th><th scope="col">time</th><th scope="col" class="left">share</th><th scope="col">bytes</th><th scope="col">FLOP</th><th scope="col" class="left">bound</th></tr></thead><tbody>${lines}</tbody><tfoot><tr><th scope="row" class="left">all</th><td></td><td>${format.seconds(total)}</td><td></td><td>${format.bytes(sum("bytes"))}</td><td>${format.flop(sum("flop"))}</td><td></td></tr></tfoot></table></div>`;
    }).join("");
  }

  // ---- tables -------------------------------------------------------------------------------------------------------
  const ffn = (d) => d.arch.ffn.replace("FFN ", "").replace(" experts of ", "×");
  const metricColumn = (key, title) => ({ title, value: (d) => d.values[key], text: (d) => format.metric(key, d.values[key]) });
  const columns = (isKnown) => [
    { title: isKnown ? "model" : "design", left: true, value: (d) => (isKnown ? d.name : d.index), text: (d) => d.name },
    ...(several ? [{ title: "precision", left: true, text: (d) => d.precision }] : []),
    { title: "layers", value: (d) => d.arch.n_layers, text: (d) => d.arch.n_layers }, { title: "width", value: (d) => d.arch.d_model, text: (d) => d.arch.d_model },
    { title: "heads/KV", value: (d) => d.arch.n_heads, text: (d) => `${d.arch.n_heads}/${d.arch.n_kv_heads}` }, { title: "FFN", left: true, value: (d) => d.arch.d_ff || d.arch.d_ff_expert, text: ffn },
    ...(mixed ? [{ title: "mixers", left: true, text: (d) => d.arch.mixer || "attention" }] : []),
    metricColumn("params", "parameters"), metricColumn("params_active", "active"), metricColumn("latency_s", "a token"), metricColumn("ttft_s", "first token"), metricColumn("memory_B", "memory"),
    ...(designs.some((d) => "energy_J" in d.values) ? [metricColumn("energy_J", "energy")] : []),
    { title: "loss", value: (d) => d.loss, text: (d) => (Number.isFinite(d.loss) ? `${d.loss.toFixed(3)} ± ${((d.high.loss - d.low.loss) / 2).toFixed(3)}` : "–") }, metricColumn("perplexity", "perplexity"),
    { title: "in budget", value: (d) => d.p_budget, text: (d) => format.percent(d.p_budget) },
    { title: "marks", left: true, text: (d) => d.marks.filter((m) => m !== "prior:vocab").map((m) => (data.marks[m] ?? [m])[0]).join(" ") },
    ...(isKnown ? [{ title: "changed", left: true, text: (d) => d.note || "" }] : []),
  ];
  const tables = {};
  function lazy(detailsId, tableId, list, isKnown) {
    const details = q(detailsId);
    if (details) page.whenOpen(details, () => {
      if (tables[tableId]) return;
      tables[tableId] = page.table(q(tableId), columns(isKnown), list, { onRow: (d) => page.select(d.name), name: (d) => d.name, limit: 1000,
        caption: isKnown ? "Known models, scored by the same law at the same training tokens; Enter chooses a row" : "Designs of the frontier; Enter chooses a row" });
    });
  }
  lazy("table-details", "table", designs, false);
  lazy("known-details", "known-table", known, true);

  page.onSelect((design) => {
    details(design);
    breakdownTables(design);
    if (chart.drawn && !chart.dirty) Plotly.relayout(element, marked(page.theme));
    else chart.update();
    for (const table of Object.values(tables)) table.mark(design.name);
  });
  page.onFilter(() => chart.update());
};
