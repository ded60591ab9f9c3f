// Draws what the tables of this page say. No theory here: numbers are looked up and interpolated as in tables.py.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("explorer-tables").textContent);
  const form = document.getElementById("explorer-form");
  const field = (name) => form.elements[name];
  const WIDEST = 4096, NARROWEST = 16, STEPS = 20; // of the width's slider for a factor of two
  const LEAST = 4; // an axis shows at least a factor of e⁴: less than that is noise of few layers
  const COLORS = { mean: "#0072B2", moment: "#D55E00", edge: "#D55E00" };

  // -- tables -------------------------------------------------------------------------------------------------------

  const VARIABLES = { gain: Math.log, depth: Math.log, width: (n) => -1 / Math.sqrt(n), place: (x) => x };

  function decoded(table) {
    if (!table.numbers) {
      const bytes = Uint8Array.from(atob(table.data), (letter) => letter.charCodeAt(0));
      table.numbers = new Float32Array(bytes.buffer);
    }
    return table.numbers;
  }

  function lagrange(x, nodes, rows) {
    const weights = nodes.map((node, i) => nodes.reduce((p, other, j) => (i === j ? p : p * (x - other) / (node - other)), 1));
    return rows[0].map((_, k) => rows.reduce((sum, row, i) => sum + weights[i] * row[k], 0));
  }

  function along(x, nodes, rows) {
    if (nodes.length === 1) return rows[0];
    if (nodes.includes(x)) return rows[nodes.indexOf(x)];
    const above = nodes.filter((node) => node < x).length;
    const first = Math.max(0, Math.min(above - 2, nodes.length - 4));
    const cubic = lagrange(x, nodes.slice(first, first + 4), rows.slice(first, first + 4));
    const linear = lagrange(x, nodes.slice(above - 1, above + 1), rows.slice(above - 1, above + 1));
    return cubic.map((value, k) => (Number.isFinite(value) ? value : linear[k]));
  }

  // Numbers of a table at a point, row by row.
  function at(table, point) {
    const axes = Object.entries(table.axes);
    const read = (level, start, size) => {
      if (level === axes.length) return Array.from(decoded(table).subarray(start, start + size));
      const [axis, nodes] = axes[level], part = size / nodes.length;
      const rows = nodes.map((_, i) => read(level + 1, start + i * part, part));
      return along(VARIABLES[axis](point[axis]), nodes.map(VARIABLES[axis]), rows);
    };
    return read(0, 0, decoded(table).length);
  }

  const rowsOf = (numbers, count) => {
    const length = numbers.length / count;
    return Array.from({ length: count }, (_, i) => numbers.slice(i * length, (i + 1) * length));
  };

  // -- what is drawn ------------------------------------------------------------------------------------------------

  function choice() {
    const init = field("init").value, own = data.initializations[init].gain;
    return {
      init, gain: own === null ? data.gains[field("gain").valueAsNumber] : own,
      activation: field("activation").value, depth: field("depth").valueAsNumber, width: field("width").valueAsNumber,
      bn: field("bn").checked, residual: field("residual").checked,
    };
  }

  const keyOf = (chosen) => chosen.activation + (chosen.bn ? "+bn" : "") + (chosen.residual ? "+residual" : "");

  function growth(chosen) {
    const net = data.growth[keyOf(chosen)], point = { ...chosen, gain: nearestGain(chosen.gain) };
    const tables = chosen.init === "torch_default" ? net.torch_default : net.normal;
    const cut = (row) => row.slice(0, chosen.depth + 1);
    const [moment, whole] = rowsOf(at(tables.moments, point), 2);
    const banded = chosen.init !== "orthogonal";
    const [mean, lower, upper] = banded
      ? rowsOf(at(tables.offsets, point), 3).map((row) => cut(row).map((value, l) => moment[l] + value))
      : [[], [], []];
    const gradient = cut(whole).map((value, l) => {
      if (l === chosen.depth) return 0;
      const ends = net.ends === null ? 0 : at(net.ends, { ...point, place: l / chosen.depth })[0];
      return value - whole[chosen.depth] + ends;
    });
    return { moment: cut(moment), mean, lower, upper, gradient, methods: tables.methods };
  }

  // A law's own gain is one of the stops up to rounding.
  const nearestGain = (gain) => data.gains.reduce((best, stop) => (Math.abs(stop - gain) < Math.abs(best - gain) ? stop : best));

  function spectrum(chosen) {
    const table = data.spectrum[keyOf(chosen)];
    const homogeneous = ["relu", "linear"].includes(chosen.activation);
    if (table.why) return { why: table.why };
    if (chosen.init === "orthogonal" || (chosen.init === "torch_default" && !homogeneous)) {
      return { why: `not available because this page has no tables of it: bntheory spectrum --init ${chosen.init} computes the law` };
    }
    const nodes = table.curves.axes, gain = nearestGain(chosen.gain);
    const stops = nodes.gain.length === 2 || nodes.gain.includes(gain);
    if (chosen.depth > nodes.depth.at(-1) || !stops) {
      const reach = `here to depth ${nodes.depth.at(-1)} and for σ_w = ${nodes.gain.map((g) => g.toFixed(3)).join(", ")}`;
      return { why: table.elsewhere + (nodes.gain.length === 2 ? "" : ` (${reach})`) };
    }
    const [edge, reach, ...density] = at(table.curves, { gain, depth: chosen.depth });
    return {
      why: "", edge, x: table.places.map((place) => edge - reach * place), density, zeros: table.zeros,
      method: table.methods[chosen.depth > 1 ? 1 : 0],
    };
  }

  function phase(chosen) {
    if (chosen.bn || chosen.residual) {
      return { why: `not available because the diagram is of plain networks: ${chosen.bn ? "BatchNorm" : "a shortcut"} changes the map of variances` };
    }
    const table = data.phase[chosen.activation];
    const own = chosen.init === "torch_default" ? table.torch_default : table.normal;
    const [weight, bias, chi, rate] = at(own, { ...chosen, gain: nearestGain(chosen.gain) });
    return { why: "", weight, bias, chi, rate };
  }

  const spread = (values, least = LEAST) => {
    const known = values.filter(Number.isFinite), low = Math.min(...known), high = Math.max(...known);
    const missing = Math.max(0, least - (high - low)) / 2, room = 0.05 * Math.max(high - low, least);
    return [low - missing - room, high + missing + room];
  };

  // window.explorerNumbers(): what is drawn for the present choice, as plain numbers.
  //   choice    init, gain (σ_w), activation, depth, width, bn, residual
  //   growth    log_second_moment, mean, lower, upper by layer, the input first; methods; axis [low, high]
  //   gradient  log_gradient by layer; axis
  //   spectrum  why: a reason, or ""; then x (ln s), density, edge, zeros, method, axes {x, y}
  //   phase     why: a reason, or ""; then weight (σ_w), bias (σ_b), chi, rate (1/depth scale)
  function numbers() {
    const chosen = choice(), grown = growth(chosen), law = spectrum(chosen), place = phase(chosen);
    return {
      choice: chosen,
      growth: {
        log_second_moment: grown.moment, mean: grown.mean, lower: grown.lower, upper: grown.upper, methods: grown.methods,
        axis: spread([...grown.moment, ...grown.mean, ...grown.lower, ...grown.upper]),
      },
      gradient: { log_gradient: grown.gradient, axis: spread(grown.gradient) },
      spectrum: law.why ? law : {
        ...law, axes: { x: spread(law.x, 0.5), y: [0, 1.08 * Math.max(...law.density.filter(Number.isFinite))] },
      },
      phase: place,
    };
  }
  window.explorerNumbers = numbers;

  // -- pictures -----------------------------------------------------------------------------------------------------

  const W = 420, H = 300, BOX = { left: 54, right: 12, top: 12, bottom: 44 };

  function ticks([low, high], count) {
    const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const first = Math.ceil(low / step);
    return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
  }

  function chart(axes, labels, description, body) {
    const x = (v) => BOX.left + (v - axes.x[0]) / (axes.x[1] - axes.x[0]) * (W - BOX.left - BOX.right);
    const y = (v) => H - BOX.bottom - (v - axes.y[0]) / (axes.y[1] - axes.y[0]) * (H - BOX.top - BOX.bottom);
    const bottom = H - BOX.bottom;
    const horizontal = ticks(axes.y, 5).map((v) => `<line class="grid" x1="${BOX.left}" x2="${W - BOX.right}" y1="${y(v)}" y2="${y(v)}"/>
      <text x="${BOX.left - 6}" y="${y(v) + 4}" text-anchor="end">${v}</text>`).join("");
    const vertical = ticks(axes.x, 6).map((v) => `<line class="tick" x1="${x(v)}" x2="${x(v)}" y1="${bottom}" y2="${bottom + 4}"/>
      <text x="${x(v)}" y="${bottom + 18}" text-anchor="middle">${v}</text>`).join("");
    return `<svg role="img" aria-label="${description}" viewBox="0 0 ${W} ${H}">${horizontal}${body(x, y)}
      <path class="frame" d="M${BOX.left} ${BOX.top}V${bottom}H${W - BOX.right}"/>${vertical}
      <text x="${(BOX.left + W - BOX.right) / 2}" y="${H - 8}" text-anchor="middle">${labels[0]}</text>
      <text transform="translate(13 ${(BOX.top + bottom) / 2}) rotate(-90)" text-anchor="middle">${labels[1]}</text></svg>`;
  }

  const finite = (xs, ys) => xs.map((x, i) => [x, ys[i]]).filter(([, y]) => Number.isFinite(y));
  const path = (points, x, y) => points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(2)} ${y(b).toFixed(2)}`).join("");
  const line = (points, x, y, color, dashes = "") =>
    `<path d="${path(points, x, y)}" fill="none" stroke="${color}" stroke-width="2" stroke-dasharray="${dashes}"/>`;

  function show(name, picture, words) {
    document.getElementById(`explorer-${name}`).innerHTML = picture || `<p class="absent">${escaped(words)}</p>`;
    document.getElementById(`explorer-${name}-words`).textContent = picture ? words : "";
  }

  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
  const short = (value) => (Math.abs(value) < 5e-5 ? "0" : value.toPrecision(3).replace("-", "−").replace("e+", "e"));
  const METHODS = {
    exact: "exact at any width", "mean-field": "mean field, for infinite width", "first-order": "to first order in 1/width",
    population: "infinite width, from sampled units",
  };

  function drawGrowth({ choice: chosen, growth: drawn }) {
    const layers = drawn.log_second_moment.map((_, l) => l), unit = chosen.residual ? "block" : "layer";
    const band = finite(layers, drawn.upper), low = finite(layers, drawn.lower).reverse(), last = chosen.depth;
    const known = band.length - 1;
    const words = [`ln E⟨h²⟩ ${short(drawn.log_second_moment[last])} after ${last} ${unit}s (${METHODS[drawn.methods[0]]}).`];
    if (chosen.init === "orthogonal") words.push("No band: there is no law for orthogonal weights.");
    else if (known < 1) words.push("No band: with BatchNorm its law, of first order in 1/width, does not hold for networks this narrow, or just about.");
    else {
      words.push(`${known < last ? `To ${unit} ${known}: t` : "T"}ypical network ${short(drawn.mean[known])}, 90% of all between ` +
        `${short(drawn.lower[known])} and ${short(drawn.upper[known])} (${METHODS[drawn.methods[1]]}).`);
      if (known < last) words.push("Deeper, that law does not hold at this width or next to it.");
    }
    const body = (x, y) => (known > 0 ? `<path class="band" d="${path([...band, ...low], x, y)}Z"/>` : "") +
      line(finite(layers, drawn.mean), x, y, COLORS.mean) + line(finite(layers, drawn.log_second_moment), x, y, COLORS.moment, "7 4");
    const axes = { x: [0, chosen.depth], y: drawn.axis };
    show("growth", chart(axes, [`${unit} ℓ`, "mean square, ln⟨h²⟩"], escaped(`Growth of activations. ${words.join(" ")}`), body), words.join(" "));
  }

  function drawGradient({ choice: chosen, growth: { methods }, gradient: drawn }) {
    const layers = drawn.log_gradient.map((_, l) => l), unit = chosen.residual ? "block" : "layer", first = drawn.log_gradient[0];
    const change = `${first < 0 ? "shrink" : "grow"} by e^${short(Math.abs(first))}, e^${short(Math.abs(first) / chosen.depth)} a ${unit}`;
    const words = `From output to input squared gradients ${Math.abs(first) < 5e-5 ? "keep their size" : change} (expectation, ${METHODS[methods[2]]}).`;
    const axes = { x: [0, chosen.depth], y: drawn.axis };
    const body = (x, y) => line(finite(layers, drawn.log_gradient), x, y, COLORS.moment, "7 4");
    show("gradient", chart(axes, [`${unit} ℓ`, "squared gradient, ln‖g_ℓ‖²/‖g_L‖²"], escaped(`Gradients. ${words}`), body), words);
  }

  function drawSpectrum({ spectrum: drawn }) {
    if (drawn.why) return show("spectrum", "", `Spectrum ${drawn.why}.`);
    const words = `Largest singular value ${short(Math.exp(drawn.edge))} (dotted). ` +
      (drawn.zeros ? `${short(100 * drawn.zeros)}% are zero; the density is of the others. ` : "") +
      `The lowest 1% lie left of the picture. Infinite width${drawn.method === "approximate" ? ", and approximate there: slopes of different blocks are taken for independent" : ""}.`;
    const body = (x, y) => `<line class="edge" x1="${x(drawn.edge)}" x2="${x(drawn.edge)}" y1="${BOX.top}" y2="${H - BOX.bottom}"/>` +
      line(finite(drawn.x, drawn.density), x, y, COLORS.mean) + (drawn.zeros ? atom(drawn.zeros) : "");
    show("spectrum", chart(drawn.axes, ["ln s, s a singular value", "density of ln s"], escaped(`Spectrum of the Jacobian. ${words}`), body), words);
  }

  function atom(mass) {
    const top = H - BOX.bottom - mass * (H - BOX.top - BOX.bottom);
    return `<path class="atom" d="M${BOX.left + 2} ${H - BOX.bottom}V${top}"/><text x="${BOX.left + 8}" y="${top + 4}">${short(100 * mass)}% at s = 0</text>`;
  }

  function drawPhase({ choice: chosen, phase: drawn }) {
    if (drawn.why) return show("phase", "", `Phase diagram ${drawn.why}.`);
    const { weights, biases, levels, cells, edge } = data.phase[chosen.activation], depths = decoded(cells);
    const half = [(weights[1] - weights[0]) / 2, (biases[1] - biases[0]) / 2];
    const axes = { x: [weights[0] - half[0], weights.at(-1) + half[0]], y: [biases[0] - half[1], biases.at(-1) + half[1]] };
    const regime = Math.abs(drawn.chi - 1) < 1e-5 ? "on the edge of chaos" : drawn.chi < 1 ? "ordered" : "chaotic";
    const scale = drawn.rate > 1e-6 ? `inputs approach their limit within ${short(1 / drawn.rate)} layers` : "differences of inputs have no depth scale of their own";
    const words = `σ_w = ${short(drawn.weight)}, σ_b = ${short(drawn.bias)}: ${regime}, χ = ${short(drawn.chi)}; ${scale}. Infinite width. Darker: longer depth scale, 1 to 100 layers and more.`;
    const body = (x, y) => {
      const size = `width="${x(half[0] * 2) - x(0) + 0.5}" height="${y(0) - y(half[1] * 2) + 0.5}"`;
      const shade = (depth) => 96 - 56 * Math.min(1, Math.max(0, Math.log10(depth) / 2));
      const tiles = biases.map((b, i) => weights.map((w, j) =>
        `<rect x="${x(w - half[0])}" y="${y(b + half[1])}" ${size} fill="hsl(205 60% ${shade(depths[i * weights.length + j])}%)"/>`).join("")).join("");
      const boundary = finite(levels, Array.from(decoded(edge))).map(([b, w]) => [w, b]).filter(([w]) => w < axes.x[1]);
      const halo = `<path d="${path(boundary, x, y)}" fill="none" stroke="#fff" stroke-width="5"/>`;
      return `${tiles}${halo}${line(boundary, x, y, COLORS.edge)}<text class="name" x="${x(0.35)}" y="${y(0.93)}">ordered</text>
        <text class="name" x="${x(2.35)}" y="${y(0.93)}" text-anchor="end">chaotic</text>
        <circle cx="${x(drawn.weight)}" cy="${y(drawn.bias)}" r="6" fill="#111" stroke="#fff" stroke-width="2"/>`;
    };
    show("phase", chart(axes, ["σ_w", "σ_b"], escaped(`Phase diagram. ${words}`), body), words);
  }

  // -- controls and address -----------------------------------------------------------------------------------------

  function draw() {
    const drawn = numbers();
    [drawGrowth, drawGradient, drawPhase, drawSpectrum].forEach((panel) => panel(drawn));
    const own = data.initializations[drawn.choice.init].gain !== null;
    field("gain").value = data.gains.indexOf(nearestGain(drawn.choice.gain));
    document.getElementById("explorer-gain").textContent = `σ_w = ${drawn.choice.gain.toFixed(3)}${own ? ", the law’s own" : ""}`;
    return drawn;
  }

  const widthOf = (step) => Math.round(NARROWEST * 2 ** (step / STEPS));
  const stepOf = (width) => Math.round(STEPS * Math.log2(width / NARROWEST));

  // Numbers out of range or empty are named and put right.
  function mended(name, low, high) {
    const input = field(name), got = input.value, value = Math.round(Number(got));
    if (got !== "" && value === Number(got) && value >= low && value <= high) return "";
    input.value = Math.min(high, Math.max(low, got === "" || !Number.isFinite(value) ? Number(input.defaultValue) : value));
    return `${name} must be a whole number from ${low} to ${high}, got ${got || "nothing"}: ${input.value} is shown. `;
  }

  function redraw(said = "") {
    said += mended("depth", 1, data.depth) + mended("width", NARROWEST, WIDEST);
    field("depth-slider").value = field("depth").value;
    field("width-slider").value = stepOf(field("width").valueAsNumber);
    const { choice: chosen } = draw();
    document.getElementById("explorer-said").textContent = said;
    const words = { ...chosen, gain: Number(chosen.gain.toFixed(4)), bn: Number(chosen.bn), residual: Number(chosen.residual) };
    history.replaceState(null, "", `#${new URLSearchParams(words)}`);
  }

  function changed(event) {
    const name = event.target.name;
    if (name === "gain" && data.initializations[field("init").value].gain !== null) field("init").value = "normal";
    if (name === "depth-slider") field("depth").value = event.target.value;
    if (name === "width-slider") field("width").value = Math.min(WIDEST, widthOf(event.target.valueAsNumber));
    if (event.type === "input" && ["depth", "width"].includes(name)) return; // while a number is being typed
    redraw();
  }

  function fromAddress() {
    const words = new URLSearchParams(location.hash.slice(1));
    if (!words.has("activation")) return false;
    let said = "";
    for (const name of ["init", "activation"]) {
      const options = Array.from(field(name).options, (option) => option.value), got = words.get(name);
      if (options.includes(got)) field(name).value = got;
      else if (got !== null) said += `${name} must be one of ${options.join(", ")}, got ${got}. `;
    }
    const gain = Number(words.get("gain") || NaN);
    if (Number.isFinite(gain)) {
      const stop = nearestGain(gain), free = data.initializations[field("init").value].gain === null;
      field("gain").value = data.gains.indexOf(stop);
      const stops = data.gains.map((one) => one.toFixed(3)).join(", ");
      if (free && Math.abs(stop - gain) > 1e-3) said += `gain must be one of ${stops}, got ${gain}: ${stop.toFixed(3)} is shown. `;
    }
    for (const name of ["depth", "width"]) if (words.has(name)) field(name).value = words.get(name);
    for (const name of ["bn", "residual"]) field(name).checked = ["1", "true"].includes(words.get(name));
    redraw(said);
    return true;
  }

  form.addEventListener("input", changed);
  form.addEventListener("change", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", fromAddress);
  if (!fromAddress()) draw();
})();
