"use strict";
/* Section 3: two axes around a design, which budget rules out which cell; the law's closed forms over brute force. */
codesign.sections.regions = (root, data, page) => {
  const { format, escape } = page;
  const q = (id) => document.getElementById(`regions-${id}`);
  const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const short = { latency_s: "time per token", ttft_s: "first token", e2e_s: "request", memory_B: "memory", energy_J: "energy", power_W: "power", params: "parameters" };
  const n4 = (v) => (typeof v === "number" ? (Number.isInteger(v) ? v.toLocaleString("en-US") : String(Number(v.toPrecision(4)))) : String(v));

  /** Mix of two #rrggbb colours: share of the first. */
  function mix(a, b, share) {
    const part = (c, k) => parseInt(c.slice(1 + 2 * k, 3 + 2 * k), 16);
    return `rgb(${[0, 1, 2].map((k) => Math.round(share * part(a, k) + (1 - share) * part(b, k))).join(",")})`;
  }
  const colourOf = (t) => ({ latency_s: t.vermillion, ttft_s: t.orange, e2e_s: t.pink, memory_B: t.blue, energy_J: t.green, power_W: t.yellow, params: t.grey });
  const HATCH = { latency_s: "line-ne-open", memory_B: "line-nw-open", ttft_s: "line-ns-open", e2e_s: "line-ew-open", energy_J: "cross-thin-open", power_W: "asterisk-open", params: "y-up-open" };
  const GLYPH = { latency_s: "╱", memory_B: "╲", ttft_s: "│", e2e_s: "─", energy_J: "+", power_W: "✳", params: "⅄" };
  const DASH = { latency_s: "solid", memory_B: "dash", ttft_s: "dot", e2e_s: "dashdot", energy_J: "longdash", power_W: "longdashdot", params: "dot" };

  // ---- the maps -------------------------------------------------------------------------------------------------------
  const decoded = new Map();
  /** A map with its metrics by cell, x to the right and y up; the stored map may have them the other way round. */
  function mapOf(design, x, y) {
    const id = `${design}|${x}|${y}`;
    if (decoded.has(id)) return decoded.get(id);
    const packed = data.maps.find((m) => m.design === design && ((m.x === x && m.y === y) || (m.x === y && m.y === x)));
    if (!packed) return null;
    const turned = packed.x !== x, nx = packed.xv.length, ny = packed.yv.length;
    const turn = (grid) => {
      if (!turned) return grid;
      const out = new grid.constructor(grid.length);
      for (let i = 0; i < ny; i++) for (let j = 0; j < nx; j++) out[j * ny + i] = grid[i * nx + j];
      return out;
    };
    const grids = Object.fromEntries(Object.entries(packed.grids).map(([key, g]) => [key, turn(page.unpack(g))]));
    if (!grids.e2e_s && grids.latency_s) grids.e2e_s = grids.latency_s.map((v, i) => (grids.ttft_s ? grids.ttft_s[i] : 0) + data.output_tokens * v);
    const flags = turn(bytesOf(packed.flags));
    const map = { design, x, y, xv: turned ? packed.yv : packed.xv, yv: turned ? packed.xv : packed.yv, own: turned ? [packed.own[1], packed.own[0]] : packed.own, grids, flags,
      precision: data.designs.find((d) => d.name === design).precision };
    map.nx = map.xv.length;
    map.ny = map.yv.length;
    const numeric = (axis) => axis === "d_model" || axis === "n_layers";
    map.px = numeric(x) ? map.xv : map.xv.map((_, i) => i);
    map.py = numeric(y) ? map.yv : map.yv.map((_, i) => i);
    decoded.set(id, map);
    return map;
  }
  const metrics = data.metrics;
  const ranges = {};
  for (const m of metrics) {
    let low = Infinity, high = 0;
    for (const packed of data.maps) {
      const sources = m.key === "e2e_s" ? [] : packed.grids[m.key] ? [packed.grids[m.key]] : [];
      for (const g of sources) { low = Math.min(low, g.low); high = Math.max(high, g.high); }
      if (m.key === "e2e_s") {
        const t = packed.grids.ttft_s, l = packed.grids.latency_s;
        low = Math.min(low, (t ? t.low : 0) + data.output_tokens * l.low);
        high = Math.max(high, (t ? t.high : 0) + data.output_tokens * l.high);
      }
    }
    ranges[m.key] = [Math.min(low, m.bound ?? Infinity) * 0.98, Math.max(high, m.bound ?? 0) * 1.02];
  }

  // ---- budgets --------------------------------------------------------------------------------------------------------
  const TOP = 1000;
  const limits = {};  // key to bound; Infinity: none
  const toBound = (key, at) => (at >= TOP ? Infinity : ranges[key][0] * (ranges[key][1] / ranges[key][0]) ** (at / TOP));
  const toPlace = (key, bound) => (bound === Infinity ? TOP : Math.min(TOP - 1, Math.max(0, Math.round((TOP * Math.log(bound / ranges[key][0])) / Math.log(ranges[key][1] / ranges[key][0])))));
  const reset = () => { for (const m of metrics) limits[m.key] = m.bound ?? Infinity; };
  reset();
  /** Which cells break which limit. tight: index of the limit used most; used: its share; broken: bits; best: index or -1. */
  function compare(map, bounds) {
    const active = metrics.filter((m) => bounds[m.key] < Infinity && map.grids[m.key]);
    const n = map.nx * map.ny, broken = new Uint16Array(n), tight = new Int8Array(n).fill(-1), used = new Float64Array(n);
    const factors = data.factors[map.precision];
    let best = -1;
    for (let i = 0; i < n; i++) {
      const flags = map.flags[i];
      for (let k = 0; k < active.length; k++) {
        const key = active[k].key, share = map.grids[key][i] / (bounds[key] * factors[key][flags >> 2]);
        if (share > 1) broken[i] |= 1 << k;
        if (share > used[i]) { used[i] = share; tight[i] = k; }
      }
      const allowed = !broken[i] && flags & 1 && (flags & 2 || data.extrapolate);
      if (allowed && (best < 0 || map.grids.loss[i] < map.grids.loss[best])) best = i;
    }
    return { active, broken, tight, used, best };
  }
  const names = (result, bits) => result.active.filter((_, k) => bits & (1 << k)).map((m) => short[m.key]);
  const and = (list) => (list.length < 2 ? list.join("") : `${list.slice(0, -1).join(", ")} and ${list[list.length - 1]}`);
  const axisWord = { d_model: "width", n_layers: "depth", ffn_ratio: "FFN ratio", n_kv_heads: "KV heads", experts: "experts" };
  const cellText = (map, i) => `${axisWord[map.x]} ${n4(map.xv[i % map.nx])}, ${axisWord[map.y]} ${n4(map.yv[Math.floor(i / map.nx)])}`;

  // ---- state ----------------------------------------------------------------------------------------------------------
  const hasMaps = data.maps.length > 0;
  const first = hasMaps ? data.maps[0] : null;
  const state = { design: data.best, x: first?.x, y: first?.y };
  let map = null, result = null;

  function designsOn(m) {
    const at = data.designs.findIndex((d) => d.name === m.design), own = page.design(m.design).index;
    if (at < 0) return [];
    const fixed = Object.keys(ownValues).filter((axis) => axis !== m.x && axis !== m.y);
    const out = [];
    for (const d of page.designs) {
      if (!fixed.every((axis) => ownValues[axis][d.index] === ownValues[axis][own])) continue;
      const j = m.xv.indexOf(ownValues[m.x][d.index]), i = m.yv.indexOf(ownValues[m.y][d.index]);
      if (i >= 0 && j >= 0) out.push({ d, i, j });
      else if (typeof m.px[0] === "number" && m.px === m.xv && m.py === m.yv) out.push({ d, x: ownValues[m.x][d.index], y: ownValues[m.y][d.index] });
    }
    return out;
  }
  const ownValues = {};
  for (const [axis, packed] of Object.entries(data.own)) ownValues[axis] = page.column(packed, page.designs.length);

  function ticks(axis, values, at) {
    const step = (k) => Math.abs(at[k] - at[k + 1]) / 2;
    return at === values ? { range: [at[0] - step(0), at[at.length - 1] + step(at.length - 2)] } : { tickvals: at, ticktext: values.map((v) => (axis === "n_kv_heads" && v === 0 ? "all" : n4(v))), range: [-0.5, at.length - 0.5] };
  }
  const rows = (m, value) => Array.from({ length: m.ny }, (_, i) => Array.from({ length: m.nx }, (_, j) => value(i * m.nx + j)));

  function figure(t) {
    if (!map) return { data: [], layout: {} };
    const m = map, { active, broken, tight, used, best } = result, K = active.length, colours = colourOf(t);
    const several = mix(t.ink, t.paper, t.dark ? 0.42 : 0.34);
    const palette = [...active.map((a) => mix(colours[a.key], t.paper, t.dark ? 0.2 : 0.17)), ...active.map((a) => mix(colours[a.key], t.paper, t.dark ? 0.5 : 0.47)), several];
    const one = (bits) => Math.log2(bits);
    const category = (i) => (K === 0 ? 0 : !broken[i] ? Math.max(tight[i], 0) : Number.isInteger(one(broken[i])) ? K + one(broken[i]) : 2 * K);
    const scale = palette.flatMap((c, k) => [[k / palette.length, c], [(k + 1) / palette.length, c]]);
    const text = rows(m, (i) => {
      const bits = broken[i], flags = m.flags[i];
      const shown = metrics.filter((a) => m.grids[a.key]).map((a) => `${short[a.key]} ${format.metric(a.key, m.grids[a.key][i])}`).join(", ");
      const verdict = bits ? `breaks ${and(names(result, bits))}` : K ? `within every budget; ${short[active[Math.max(tight[i], 0)].key]} is the tightest (${format.percent(used[i])})` : "no budget";
      return [`<b>${cellText(m, i)}</b>`, `loss ${format.metric("loss", m.grids.loss[i])}`, shown, verdict, flags & 2 ? "" : "outside the range of the data", flags & 1 ? "" : "heads do not divide: between designs"].filter(Boolean).join("<br>");
    });
    const x = m.px, y = m.py, traces = [];
    traces.push({ type: "heatmap", x, y, z: rows(m, category), colorscale: scale, zmin: -0.5, zmax: palette.length - 0.5, showscale: false, text, hovertemplate: "%{text}<extra></extra>", xgap: 0, ygap: 0 });
    if (!data.extrapolate) traces.push({ type: "heatmap", x, y, z: rows(m, (i) => (m.flags[i] & 2 ? null : 1)), colorscale: [[0, t.paper], [1, t.paper]], showscale: false, opacity: 0.66, hoverinfo: "skip" });
    // a pattern beside the colour: marks on every few cells
    const sx = Math.max(1, Math.round(m.nx / 22)), sy = Math.max(1, Math.round(m.ny / 15));
    const marks = new Map();
    for (let i = 0; i < m.ny; i += sy) for (let j = Math.floor(i / sy) % 2 ? Math.floor(sx / 2) : 0; j < m.nx; j += sx) {
      const bits = broken[i * m.nx + j];
      if (!bits || !(m.flags[i * m.nx + j] & 2 || data.extrapolate)) continue;
      const key = Number.isInteger(one(bits)) ? active[one(bits)].key : "several";
      if (!marks.has(key)) marks.set(key, [[], []]);
      marks.get(key)[0].push(x[j]);
      marks.get(key)[1].push(y[i]);
    }
    for (const [key, [mx, my]] of marks) traces.push({ type: "scatter", mode: "markers", x: mx, y: my, hoverinfo: "skip", showlegend: false,
      marker: { symbol: key === "several" ? "x-thin-open" : HATCH[key], size: 7, color: t.ink, opacity: 0.38, line: { width: 1, color: t.ink } } });
    if (m.nx > 2 && m.ny > 2) {
      const losses = m.grids.loss.filter((v, i) => Number.isFinite(v) && (m.flags[i] & 2 || data.extrapolate));
      const low = Math.min(...losses), high = Math.max(...losses), raw = (high - low) / 9;
      const step = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1].find((s) => s >= raw) ?? 1;
      traces.push({ type: "contour", x, y, z: rows(m, (i) => m.grids.loss[i]), autocontour: false, contours: { start: Math.ceil(low / step) * step, end: high, size: step, coloring: "none", showlabels: true, labelfont: { size: 10.5, color: t.ink } },
        line: { color: t.ink, width: 0.8, smoothing: 0.6 }, opacity: 0.75, hoverinfo: "skip", showscale: false, name: "loss, nats per token", showlegend: true });
      for (const a of active) {
        const f = data.factors[m.precision][a.key];
        const share = rows(m, (i) => Math.log(m.grids[a.key][i] / (limits[a.key] * f[m.flags[i] >> 2])));
        traces.push({ type: "contour", x, y, z: share, autocontour: false, contours: { start: 0, end: 0, size: 1, coloring: "none" }, line: { color: colours[a.key], width: 2.6, dash: DASH[a.key] }, hoverinfo: "skip",
          showscale: false, name: `${short[a.key]} ${format.metric(a.key, limits[a.key])}`, showlegend: true });
      }
    }
    const whole = m.x === "d_model" ? x.filter((_, j) => m.flags.some((f, i) => i % m.nx === j && f & 1)) : [];
    if (whole.length && whole.length < m.nx) traces.push({ type: "scatter", mode: "markers", x: whole, y: whole.map(() => y[0] - (y[1] - y[0]) / 2), cliponaxis: false, name: "widths that the heads divide", hoverinfo: "skip",
      marker: { symbol: "triangle-up", size: 8, color: t.ink } });
    const on = designsOn(m);
    traces.push({ type: "scatter", mode: "markers", x: on.map((o) => o.x ?? x[o.j]), y: on.map((o) => o.y ?? y[o.i]), name: "designs of the frontier", customdata: on.map((o) => o.d.name),
      text: on.map((o) => `<b>${escape(o.d.name)}</b><br>${escape(page.archText(o.d.arch))}<br>loss ${format.metric("loss", o.d.loss)}`), hovertemplate: "%{text}<extra></extra>",
      marker: { size: on.map((o) => (o.d.name === page.selected ? 13 : 9)), symbol: "circle", color: t.paper, opacity: on.map((o) => (!page.kept || page.kept.has(o.d.name) ? 1 : 0.25)), line: { width: on.map((o) => (o.d.name === page.selected ? 3 : 1.6)), color: on.map((o) => (o.d.name === page.selected ? t.vermillion : t.ink)) } } });
    if (best >= 0) traces.push({ type: "scatter", mode: "markers", x: [x[best % m.nx]], y: [y[Math.floor(best / m.nx)]], name: "lowest loss within the budgets", hovertemplate: `<b>lowest loss within the budgets</b><br>${text[Math.floor(best / m.nx)][best % m.nx]}<extra></extra>`,
      marker: { symbol: "star", size: 17, color: t.yellow, line: { width: 1.4, color: t.dark ? "#000000" : t.ink } } });
    return { data: traces, layout: { xaxis: { title: { text: data.axes[m.x] }, showgrid: false, zeroline: false, ...ticks(m.x, m.xv, m.px) }, yaxis: { title: { text: data.axes[m.y] }, showgrid: false, zeroline: false, ...ticks(m.y, m.yv, m.py) },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11.5 } }, margin: { l: 62, r: 12, t: 62, b: 48 }, uirevision: `${m.design}${m.x}${m.y}` } };
  }

  function legend() {
    const t = page.theme, colours = colourOf(t), { active, broken, tight } = result, counts = new Map();
    for (let i = 0; i < broken.length; i++) {
      if (!(map.flags[i] & 2) && !data.extrapolate) continue;
      const id = broken[i] ? `b${broken[i]}` : `t${tight[i]}`;
      counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    const total = [...counts.values()].reduce((a, b) => a + b, 0) || 1;
    const items = [...counts].sort((a, b) => (a[0] < b[0] ? 1 : -1)).map(([id, n]) => {
      const bits = Number(id.slice(1)), single = id[0] === "t" ? bits : Number.isInteger(Math.log2(bits)) ? Math.log2(bits) : -1;
      const key = single >= 0 && active[single] ? active[single].key : null;
      const colour = id[0] === "t" ? (key ? mix(colours[key], t.paper, t.dark ? 0.2 : 0.17) : t.panel) : key ? mix(colours[key], t.paper, t.dark ? 0.5 : 0.47) : mix(t.ink, t.paper, t.dark ? 0.42 : 0.34);
      const glyph = id[0] === "t" ? "" : key ? GLYPH[key] : "×";
      const words = id[0] === "t" ? (key ? `within every budget, ${short[key]} tightest` : "no budget") : `breaks ${and(names(result, bits))}`;
      return `<li style="margin:0"><span aria-hidden="true" style="display:inline-block;width:1.5em;height:1.05em;line-height:1.05em;text-align:center;border:1px solid var(--line);vertical-align:-.15em;background:${colour}">${glyph}</span> ${escape(words)} <span class="muted">${format.percent(n / total)}</span></li>`;
    });
    q("legend").innerHTML = items.join("");
  }

  function answer() {
    const { active, best, tight, used } = result;
    if (best < 0) {
      q("answer").textContent = "No possible design on this map is within the budgets.";
      q("worth").replaceChildren();
      return;
    }
    const m = map, key = tight[best] >= 0 ? active[tight[best]].key : null;
    const named = designsOn(m).find((o) => o.j === best % m.nx && o.i === Math.floor(best / m.nx))?.d;
    q("answer").innerHTML = `<strong>loss ${format.metric("loss", m.grids.loss[best])}</strong> at ${escape(cellText(m, best))}${named ? ` (<button type="button" class="link" data-select="${escape(named.name)}">${escape(named.name)}</button>)` : ""}.` +
      (key ? ` The tightest budget there is <strong>${escape(short[key])}</strong>, ${format.percent(used[best]).replace(" ", "\u00a0")} used.` : "");
    const gain = (k, factor) => {
      const other = compare(m, { ...limits, [k]: limits[k] * factor }).best;
      return other < 0 ? NaN : m.grids.loss[other] - m.grids.loss[best];
    };
    const signed = (v) => (Number.isNaN(v) ? "nothing fits" : Math.abs(v) < 5e-4 ? "0" : `${v > 0 ? "+" : "−"}${Math.abs(v).toFixed(3)}`);
    page.table(q("worth"), [
      { title: "budget", left: true, text: (r) => short[r.key] }, { title: "limit", text: (r) => format.metric(r.key, limits[r.key]), value: (r) => limits[r.key] },
      { title: "used", text: (r) => format.percent(r.used), value: (r) => r.used },
      { title: "10 % less", text: (r) => signed(r.less), value: (r) => r.less }, { title: "10 % more", text: (r) => signed(r.more), value: (r) => r.more },
    ], active.map((a) => ({ key: a.key, used: m.grids[a.key][best] / (limits[a.key] * data.factors[m.precision][a.key][m.flags[best] >> 2]), less: gain(a.key, 1 / 1.1), more: gain(a.key, 1.1) })),
    { caption: "What a tenth of each budget is worth, in loss, on this map" });
  }

  function fallback() {
    const m = map, out = [];
    for (let j = 0; j < m.nx; j++) {
      let best = -1, any = 0;
      const breaks = new Set();
      for (let i = 0; i < m.ny; i++) {
        const c = i * m.nx + j;
        if (!(m.flags[c] & 2) && !data.extrapolate) continue;
        any++;
        if (result.broken[c]) { for (const name of names(result, result.broken[c])) breaks.add(name); continue; }
        if (best < 0 || m.grids.loss[c] < m.grids.loss[best]) best = c;
      }
      out.push({ j, best, any, breaks: [...breaks], possible: best >= 0 && m.flags[best] & 1 });
    }
    const at = (r) => Math.floor(r.best / m.nx);
    page.table(q("table"), [
      { title: data.axes[m.x], text: (r) => n4(m.xv[r.j]), value: (r) => r.j },
      { title: data.axes[m.y], text: (r) => (r.best < 0 ? "–" : n4(m.yv[at(r)])), value: (r) => (r.best < 0 ? NaN : at(r)) },
      { title: "loss", text: (r) => (r.best < 0 ? "–" : format.metric("loss", m.grids.loss[r.best])), value: (r) => (r.best < 0 ? NaN : m.grids.loss[r.best]) },
      ...result.active.map((a) => ({ title: short[a.key], text: (r) => (r.best < 0 ? "–" : format.metric(a.key, m.grids[a.key][r.best])), value: (r) => (r.best < 0 ? NaN : m.grids[a.key][r.best]) })),
      { title: "tightest budget", left: true, text: (r) => (r.best < 0 || result.tight[r.best] < 0 ? "–" : short[result.active[result.tight[r.best]].key]) },
      { title: "other cells of the column break", left: true, text: (r) => (!r.any ? "outside the range of the data" : and(r.breaks) || "nothing") },
      { title: "heads divide", left: true, text: (r) => (r.best < 0 ? "–" : r.possible ? "yes" : "no") },
    ], out, { caption: `Lowest loss within the budgets at each ${data.axes[m.x]}, through ${m.design}` });
  }

  let chart = null;
  const aria = () => `Feasible regions over ${data.axes[state.x]} and ${data.axes[state.y]} through ${state.design}: which budget each cell breaks, lines of equal loss, and the best cell. The same as a table follows.`;
  function refresh() {
    map = mapOf(state.design, state.x, state.y);
    if (!map) return;
    result = compare(map, limits);
    legend();
    answer();
    if (q("table-details").open) fallback();
    q("plot").setAttribute("aria-label", aria());
    chart?.update();
  }
  if (hasMaps) {
    q("x").value = state.x;
    q("y").value = state.y;
    // sliders: one for each budget, on a logarithmic scale; the far right is no bound
    for (const m of metrics) {
      const line = document.createElement("div");
      line.style.margin = "0 0 .45rem";
      line.innerHTML = `<label for="regions-at-${m.key}" style="display:flex;justify-content:space-between;gap:1rem;font-size:.9rem"><span>${escape(m.title)}</span><output for="regions-at-${m.key}" id="regions-out-${m.key}" style="font-variant-numeric:tabular-nums"></output></label>` +
        `<input type="range" id="regions-at-${m.key}" min="0" max="${TOP}" step="5" style="width:100%;margin:0;display:block">`;
      q("sliders").append(line);
      const input = q(`at-${m.key}`);
      input.addEventListener("input", () => { limits[m.key] = toBound(m.key, Number(input.value)); tell(m); schedule(); });
    }
    const tell = (m) => {
      const bound = limits[m.key], words = bound === Infinity ? "no bound" : format.metric(m.key, bound) + (m.bound !== null && bound === m.bound ? (m.free ? " (free on the device)" : " (the run's)") : "");
      q(`out-${m.key}`).textContent = words;
      q(`at-${m.key}`).setAttribute("aria-valuetext", words);
    };
    const showSliders = () => { for (const m of metrics) { q(`at-${m.key}`).value = toPlace(m.key, limits[m.key]); tell(m); } };
    let pending = 0;
    const schedule = () => { if (!pending) pending = requestAnimationFrame(() => { pending = 0; refresh(); }); };
    q("reset").addEventListener("click", () => { reset(); showSliders(); refresh(); });
    q("design").addEventListener("change", (event) => { state.design = event.target.value; hint(); refresh(); });
    for (const [mine, other] of [["x", "y"], ["y", "x"]]) q(mine).addEventListener("change", (event) => {
      if (state[other] === event.target.value) { state[other] = state[mine]; q(other).value = state[other]; }
      state[mine] = event.target.value;
      refresh();
    });
    page.whenOpen(q("table-details"), fallback);
    const hint = (note = "") => { q("hint").textContent = `${note}Moved by arrow keys too. Cells between designs (widths that the heads do not divide) show where a border runs; only possible designs count as the lowest loss.`; };
    hint();
    showSliders();
    refresh();
    chart = page.plot(q("plot"), figure, { label: aria() });
    chart.on("plotly_click", (event) => { const name = event.points.map((p) => p.customdata).find((n) => typeof n === "string"); if (name) page.select(name); });
    page.onTheme(() => legend());
    page.onFilter(() => chart.update());
    page.onSelect((design) => {
      if (data.designs.some((d) => d.name === design.name) && state.design !== design.name) { state.design = design.name; q("design").value = design.name; hint(); refresh(); return; }
      if (!design.known && state.design !== design.name) {
        const setting = (d) => ["precision", "experts", "n_kv_heads", "d_head"].map((axis) => ownValues[axis][d.index]).join();
        const same = data.designs.find((d) => setting(page.design(d.name)) === setting(design)) ?? null;
        if (same && same.name !== state.design) { state.design = same.name; q("design").value = same.name; }
        hint(same ? `${design.name} has the experts and heads of ${state.design}, through which the map is cut. ` : `No map through ${design.name}; shown is ${state.design}. `);
        refresh();
        return;
      }
      chart.update();
    });
  }

  // ---- the law's maps ---------------------------------------------------------------------------------------------------
  const law = data.law, s = law.setting, scales = [...new Set(law.maps.map((m) => m.scale))].sort((a, b) => a - b);
  const lawState = { key: "depth", phase: "decode", scale: 1 };
  const AXIS = { n_layers: "depth l", r: "activated FFN ratio r", g: "query heads per KV head g", rho: "activation rate ρ" };
  const lawMap = () => law.maps.find((m) => m.key === lawState.key && (m.key === "rho-memory" || (m.phase === lawState.phase && m.scale === lawState.scale)));
  function lawFigure(t) {
    const m = lawMap(), y = Array.from({ length: m.n }, (_, i) => m.low * (m.high / m.low) ** (i / (m.n - 1))), z = page.unpack(m.above), nx = law.widths.length;
    const depth = m.key === "depth", traces = [];
    const grid = (value) => y.map((_, i) => law.widths.map((_, j) => value(i * nx + j, i, j)));
    if (depth) {
      const time = m.curves.find((c) => c.name === "fills the time").values, memory = m.curves.find((c) => c.name === "fills the memory").values;
      const kind = (i, j) => (y[i] > time[j] ? 1 : 0) + (y[i] > memory[j] ? 2 : 0);
      const palette = [mix(t.green, t.paper, 0.14), mix(t.vermillion, t.paper, 0.42), mix(t.blue, t.paper, 0.42), mix(t.ink, t.paper, 0.34)];
      const words = ["within both budgets", "breaks the time", "breaks the memory", "breaks both"];
      traces.push({ type: "heatmap", x: law.widths, y, z: grid((_, i, j) => kind(i, j)), zmin: -0.5, zmax: 3.5, showscale: false, colorscale: palette.flatMap((c, k) => [[k / 4, c], [(k + 1) / 4, c]]),
        text: grid((c, i, j) => `<b>${n4(Math.round(law.widths[j]))} wide, ${n4(Number(y[i].toPrecision(3)))} deep</b><br>loss ${z[c].toFixed(3)} (the paper's law)<br>${words[kind(i, j)]}`), hovertemplate: "%{text}<extra></extra>" });
      traces.push({ type: "contour", x: law.widths, y, z: grid((c) => z[c]), autocontour: false, contours: { start: Math.ceil(10 * Math.min(...z)) / 10, end: Math.min(...z) + 1.2, size: 0.1, coloring: "none", showlabels: true, labelfont: { size: 10.5, color: t.ink } }, line: { color: t.ink, width: 0.7 }, opacity: 0.7, hoverinfo: "skip", showscale: false, name: "loss, the paper's law", showlegend: true });
    } else {
      traces.push({ type: "heatmap", x: law.widths, y, z: grid((c) => Math.log10(Math.max(z[c], 1e-4))), zmin: -4, zmax: 0, colorscale: [[0, t.dark ? "#1d4e6b" : "#fdf6e3"], [0.5, t.dark ? "#16324a" : "#d9c58a"], [1, t.dark ? "#0c141c" : "#7a6a2f"]],
        colorbar: { title: { text: "nats above the best<br>of this width", font: { size: 11 } }, tickvals: [-4, -3, -2, -1, 0], ticktext: ["0.0001", "0.001", "0.01", "0.1", "1"], thickness: 12, outlinewidth: 0 },
        text: grid((c, i, j) => `<b>${n4(Math.round(law.widths[j]))} wide, ${AXIS[m.axis]} = ${n4(Number(y[i].toPrecision(3)))}</b><br>${z[c] < 2e-6 ? "the best" : `${z[c].toPrecision(2)} nats above the best`} of this width`), hovertemplate: "%{text}<extra></extra>" });
    }
    const styles = { "l*": [t.vermillion, "solid"], "r*": [t.vermillion, "solid"], "g*": [t.vermillion, "solid"], "rho*": [t.vermillion, "solid"], "rho*, memory alone": [t.vermillion, "solid"] };
    for (const c of m.curves) {
      const [colour, dash] = styles[c.name] ?? (c.printed ? [t.pink, "dash"] : c.name === "fills the memory" ? [t.blue, "dash"] : c.name === "fills the time" ? [t.orange, "dot"] : [t.sky, "dot"]);
      const name = c.name.replaceAll("rho", "ρ") + (c.corrected ? " (paper's model, corrected)" : c.printed ? "" : " (paper's model)");
      traces.push({ type: "scatter", mode: "lines", x: law.widths, y: c.values.map((v) => (v === null || v < m.low * 0.6 || v > m.high * 1.6 ? null : v)), name, line: { color: colour, dash, width: c.corrected || styles[c.name] ? 3 : 2.2 }, hoverinfo: "skip" });
    }
    const picked = law.widths.map((_, j) => j).filter((j) => j % 3 === 0);
    traces.push({ type: "scatter", mode: "markers", x: picked.map((j) => law.widths[j]), y: picked.map((j) => m.brute[j]), name: "brute force", marker: { symbol: "circle-open", size: 8, color: t.ink, line: { width: 1.6 } }, hoverinfo: "skip" });
    if (depth && m.phase === "decode" && lawState.scale === 1) traces.push({ type: "scatter", mode: "lines", x: law.widths, y: law.ours.map((v) => (v >= m.low ? v : null)), name: "this run's own cost model, same design and budget", line: { color: t.green, width: 3, dash: "longdashdot" }, hoverinfo: "skip" });
    return { data: traces, layout: { xaxis: { title: { text: "width d" }, showgrid: false, range: [law.widths[0], law.widths[nx - 1]] }, yaxis: { title: { text: AXIS[m.axis] }, type: "log", showgrid: false, range: [Math.log10(m.low), Math.log10(m.high)], ...logTicks(m.low, m.high) },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11.5 } }, margin: { l: 62, r: 12, t: 64, b: 48 } } };
  }
  function logTicks(low, high) {
    const vals = [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 32, 64, 128].filter((v) => v >= low * 0.99 && v <= high * 1.01);
    return { tickvals: vals, ticktext: vals.map((v) => (v < 1 ? `1/${Math.round(1 / v)}` : String(v))) };
  }
  function lawNote() {
    const m = lawMap(), given = lawState.phase === "prefill" ? s.ttft_s : s.latency_s;
    q("law-scale-out").textContent = m.key === "rho-memory" ? "–" : `${format.seconds(given * lawState.scale)} (${lawState.scale === 1 ? "the run's" : `${n4(lawState.scale)} times`})`;
    q("law-scale").setAttribute("aria-valuetext", q("law-scale-out").textContent);
    q("law-scale").disabled = m.key === "rho-memory";
    for (const radio of root.querySelectorAll('input[name="regions-law-phase"]')) radio.disabled = m.key === "rho-memory";
    const line = m.curves[0], gaps = line.values.map((v, j) => (v === null || m.brute[j] <= m.low * 1.001 || m.brute[j] >= m.high * 0.999 ? NaN : Math.abs(v / m.brute[j] - 1))).filter(Number.isFinite);
    q("law-note").textContent = gaps.length ? `Shown: the closed form is within ${format.percent(Math.max(...gaps, 1e-3))} of brute force at the ${gaps.length} widths where the optimum lies inside the map.` : "Shown: the optimum lies at or beyond the edge of the map at every width.";
    q("law-plot").setAttribute("aria-label", `Map of the paper's simplified model: ${q("law-map").selectedOptions[0].textContent} over width, closed form and brute force. The table beside it gives the agreement.`);
  }
  const lawChart = page.plot(q("law-plot"), lawFigure, { label: "Map of the paper's simplified model" });
  const lawRefresh = () => { lawNote(); lawChart.update(); };
  q("law-map").addEventListener("change", (event) => { lawState.key = event.target.value; lawRefresh(); });
  for (const radio of root.querySelectorAll('input[name="regions-law-phase"]')) radio.addEventListener("change", () => { lawState.phase = radio.value; lawRefresh(); });
  q("law-scale").addEventListener("input", (event) => { lawState.scale = scales[Number(event.target.value)]; lawRefresh(); });
  lawNote();
};
