// The desk where a digit is drawn, read, and taught: input, answer, and every layer's numbers.

const desk = document.getElementById("desk");
const [net, startingParams] = read(DATA.network);
const find = (id) => document.getElementById(id);
const classes = DATA.classes;
const state = { params: startingParams, x: null, target: null, steps: 0, passed: null };

// ---------------------------------------------------------------- pictures of arrays

// Colours from −1 (red) over 0 (the page's own) to 1 (blue), in STEPS on each side.
const STEPS = 255;

function palette() {
  const style = getComputedStyle(document.documentElement);
  const [positive, negative, zero] = ["--positive", "--negative", "--zero"].map((name) =>
    style.getPropertyValue(name).trim().split(" ").map(Number),
  );
  return Array.from({ length: 2 * STEPS + 1 }, (_, i) => {
    const share = i / STEPS - 1;
    return zero.map((z, c) => z + ((share > 0 ? positive : negative)[c] - z) * Math.abs(share));
  });
}

// How the entries of an array lie as tiles: an image is one tile per channel, a vector one per number.
function tiles(shape) {
  if (shape.length === 3) return { height: shape[0], width: shape[1], count: shape[2] };
  return { height: 1, width: 1, count: shape[0] };
}

function paint(canvas, values, { height, width, count }, index) {
  const gap = height * width > 1 ? 1 : 0;
  const columns = Math.min(count, Math.ceil(gap ? Math.sqrt(1.8 * count) : Math.max(16, Math.sqrt(5 * count))));
  const rows = Math.ceil(count / columns);
  canvas.width = columns * (width + gap) - gap;
  canvas.height = rows * (height + gap) - gap;
  const scale = Math.max(1, Math.min(24, Math.floor(Math.min(430 / canvas.width, 260 / canvas.height))));
  canvas.style.width = `${scale * canvas.width}px`;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const colours = palette();
  const top = largest(each(values, Math.abs)) || 1;
  for (let n = 0; n < count; n++)
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        const row = Math.floor(n / columns) * (height + gap) + y;
        const column = (n % columns) * (width + gap) + x;
        const at = 4 * (row * canvas.width + column);
        const colour = colours[Math.round(STEPS * (1 + values[index(n, y, x)] / top))];
        for (let c = 0; c < 3; c++) image.data[at + c] = colour[c];
        image.data[at + 3] = 255;
      }
  context.putImageData(image, 0, 0);
}

function paintArray(canvas, values, shape) {
  const { width, count } = tiles(shape);
  paint(canvas, values, tiles(shape), (n, y, x) => (y * width + x) * count + n);
}

// The gradient of weights: a filter per tile, summed over its channels; of neurons that see the
// picture, the picture per tile; else a row per neuron.
const firstDense = net.layers.findIndex((layer) => layer.kind === "dense");
const seesPicture = net.layers.slice(0, firstDense).every(({ kind }) => ["flatten", "dropout"].includes(kind));

function paintWeights(canvas, w, layer) {
  const tiled = ([height, width], values, count) =>
    paint(canvas, values, { height, width, count }, (n, y, x) => (n * height + y) * width + x);
  if (layer.kind === "conv") {
    const [channels, count] = [layer.inShape[2] / layer.groups, layer.outShape[2]];
    const summed = new Float64Array(w.length / channels);
    w.forEach((value, i) => (summed[Math.floor(i / channels)] += value));
    tiled(layer.kernel, summed, count);
  } else if (DATA.picture && seesPicture && layer === net.layers[firstDense]) {
    tiled(DATA.picture.shape, w, layer.outShape[0]);
  } else {
    const [rows, columns] = [layer.outShape[0], layer.inShape[0]];
    tiled([rows, columns], w, 1);
    canvas.style.height = `${Math.max(parseInt(canvas.style.width) * (rows / columns), Math.min(12 * rows, 96))}px`;
  }
}

const norm = (values) => Math.sqrt(sum(each(values, (v) => v * v)));
const nameOf = (k) => classes[k] ?? String(k);
const percent = (value) => `${(100 * value).toFixed(1)}\u00a0%`;
const raised = (l) => String(l).replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);

// ---------------------------------------------------------------- layer by layer

const panels = net.layers.map((layer, l) => {
  const number = l + 1;
  const panel = (what, label) => {
    const canvas = make("canvas");
    canvas.setAttribute("role", "img");
    const text = make("p", { className: "note" });
    return { canvas, text, label, box: make("div", {}, make("p", {}, what), canvas, text) };
  };
  const [here, next] = [raised(number), raised(number + 1)];
  const forward = panel(`a${here}: activations`, `activations of layer ${number}`);
  const error = panel(`δ${here} = ∂C/∂z${here}: errors`, `errors of layer ${number}`);
  const gradient = panel(`∂C/∂w${here}: gradient (BP4)`, `weight gradient of layer ${number}`);
  const maps = make("div", { className: "maps" }, forward.box, error.box, gradient.box);
  const last = l === net.layers.length - 1;
  const back = make("p", { className: "formula" });
  back.textContent = last
    ? `BP1: δ${here} = ∂C/∂a${here} ⊙ σ'(z${here})`
    : `BP2: δ${here} = (∂z${next}/∂a${here})ᵀ δ${next} ⊙ σ'(z${here})`;
  const heading = make("h3", { textContent: `Layer ${number}: ${layer.word}, ${layer.outShape.join(" × ")}` });
  find("layers").append(make("li", { className: "layer" }, heading, maps, back));
  return { forward, error, gradient, back };
});

function fill({ canvas, text, label, box }, values, draw) {
  box.hidden = !values;
  if (!values) return;
  draw(canvas, values);
  const [low, high] = [-largest(each(values, (v) => -v)), largest(values)];
  text.textContent = `${digits(low, 3)} to ${digits(high, 3)}, norm ${digits(norm(values), 3)}`;
  canvas.setAttribute("aria-label", `${label}: ${text.textContent}`);
}

function showLayers(result, animate) {
  net.layers.forEach((layer, l) => {
    const { forward, error, gradient, back } = panels[l];
    const draw = (canvas, values) => paintArray(canvas, values, layer.outShape);
    fill(forward, result?.activations[l + 1], draw);
    fill(error, result?.errors?.[l], draw);
    fill(gradient, result?.grads?.[l]?.w, (canvas, w) => paintWeights(canvas, w, layer));
    back.hidden = !result?.errors;
    for (const box of [error.box, gradient.box, back]) {
      box.classList.toggle("arrives", Boolean(animate));
      box.style.setProperty("--after", net.layers.length - 1 - l); // from the output backwards
    }
  });
}

// ---------------------------------------------------------------- the answer

// What a reader is told of the outputs. Of classes: of a single output, a > ½ is class 1. Of several
// labels at once: each by itself. Of a regression: the numbers, in the units of the targets.
const CLASSES = DATA.task === "classification";
const NUMBERS = DATA.task === "regression";

function outputOf(a, k) {
  if (CLASSES && a.length === 1) return k ? a[0] : 1 - a[0];
  return DATA.targets ? DATA.targets.mean[k] + DATA.targets.deviation[k] * a[k] : a[k];
}

const textOf = (output) => (NUMBERS ? digits(output) : percent(output));

function answerOf(a) {
  const names = [...bars.keys()];
  const text = (k) => `${nameOf(k)} (${textOf(outputOf(a, k))})`;
  if (CLASSES) {
    const [best, next] = names.sort((i, k) => outputOf(a, k) - outputOf(a, i));
    return `${text(best)}, then ${text(next)}`;
  }
  if (NUMBERS) return names.map((k) => textOf(outputOf(a, k))).join(", ");
  return names.filter((k) => a[k] > 0.5).map(text).join(", ") || "None of the labels";
}

const bars = Array.from(
  { length: Math.max(net.layers.at(-1).outShape[0], CLASSES ? 2 : 1) },
  (_, k) => {
    const [fill, before, value] = [make("i"), make("u"), make("span")];
    const bar = make("span", { className: "bar", hidden: NUMBERS }, fill, before);
    const item = make("li", {}, make("span", { textContent: nameOf(k) }), bar, value);
    find("bars").append(item);
    return { fill, before, value, item };
  },
);

function showAnswer(a, before) {
  const along = (output) => `${100 * Math.min(Math.max(output, 0), 1)}%`; // of the bar
  bars.forEach(({ fill, before: mark, value, item }, k) => {
    const output = a ? outputOf(a, k) : 0;
    fill.style.width = along(output);
    value.textContent = a ? textOf(output) : "";
    mark.hidden = !before;
    if (before) mark.style.left = along(outputOf(before, k));
    item.classList.toggle("target", state.target === k);
  });
  if (a) find("answer").textContent = answerOf(a);
}

function targetVector(k) {
  const n = net.layers.at(-1).outShape[0];
  return n === 1 ? Float64Array.of(k) : Float64Array.from({ length: n }, (_, j) => Number(j === k));
}

// Everything that follows from the input, the parameters and the chosen class: the answer at once,
// and in the next frame what goes on in the layers, with the way back if there is a class.
function update({ before = null, animate = false } = {}) {
  const { x, params, target } = state;
  const passed = x && feedforward(net, params, x);
  const y = x && target !== null ? targetVector(target) : null;
  const sigma = net.layers.at(-1).activation;
  state.passed = passed;
  showAnswer(passed?.activations.at(-1), before);
  state.loss = y && net.loss.at(sigma, passed.weightedInputs.at(-1), passed.activations.at(-1), y);
  if (find("step")) {
    find("step").disabled = !y;
    find("reset").disabled = state.steps === 0;
    find("loss").textContent = y ? `Loss C = ${digits(state.loss)}` : "";
  }
  requestAnimationFrame(() => {
    if (passed === state.passed) showLayers(y ? backprop(net, params, x, y) : passed, animate);
  });
}

function setInput(x, message = "") {
  state.x = x;
  if (!x) find("answer").textContent = message;
  update();
}

// ---------------------------------------------------------------- teaching

if (find("teach") && net.learns) {
  for (const k of bars.keys()) find("target").append(make("option", { value: k, textContent: nameOf(k) }));
  find("target").addEventListener("change", ({ target }) => {
    state.target = target.value === "" ? null : Number(target.value);
    update({ animate: true });
  });
  find("step").addEventListener("click", () => {
    const eta = Number(find("eta").value);
    const { activations, loss, grads } = backprop(net, state.params, state.x, targetVector(state.target));
    state.params = sgdStep(state.params, grads, eta);
    state.steps += 1;
    update({ before: activations.at(-1), animate: true });
    find("loss").textContent =
      `Loss C = ${digits(state.loss)}, before the step ${digits(loss)} (steps taken: ${state.steps})`;
  });
  find("reset").addEventListener("click", () => {
    state.params = startingParams;
    state.steps = 0;
    update();
    find("answer").focus(); // the button is disabled now
  });
} else {
  find("teach")?.replaceChildren("This network has perceptrons, whose derivative is 0: no error flows back through them.");
}

// ---------------------------------------------------------------- the drawing

if (find("pad")) {
  const [WIDTH, FRAME] = [9, 14]; // of the pen, and of the paper around the pad, in units of SIDE
  const INNER = SIDE - 2 * FRAME; // what the pad shows; so no drawing looks like a picture in a frame
  const pad = find("pad");
  const picture = make("canvas", { width: SIDE, height: SIDE }); // the same strokes, as prepared
  const pens = [pad, picture].map((canvas) => {
    const pen = canvas.getContext("2d", { willReadFrequently: canvas === picture });
    if (canvas === pad) {
      pen.scale(pad.width / INNER, pad.height / INNER);
      pen.translate(-FRAME, -FRAME);
    }
    Object.assign(pen, { lineWidth: WIDTH, lineCap: "round", lineJoin: "round", fillStyle: "#fff" });
    return pen;
  });
  const clear = () => {
    for (const pen of pens) pen.fillRect(0, 0, SIDE, SIDE);
  };
  const stroke = (from, to) => {
    for (const pen of pens) {
      pen.beginPath();
      pen.moveTo(...from);
      pen.lineTo(...to);
      pen.stroke();
    }
  };
  const answer = () => {
    const begun = performance.now();
    const { data } = picture.getContext("2d").getImageData(0, 0, SIDE, SIDE);
    const levels = Float32Array.from({ length: SIDE * SIDE }, (_, i) => data[4 * i]);
    const prepared = prepare(levels, DATA.picture.shape);
    showSeen(prepared);
    setInput(prepared && converted(prepared, DATA.picture), "Nothing drawn yet");
    desk.dataset.milliseconds = (performance.now() - begun).toFixed(1);
  };
  let asked = false;
  const ask = () => {
    if (asked) return;
    asked = true; // once per frame, however many points came
    requestAnimationFrame(() => {
      asked = false;
      answer();
    });
  };
  const showSeen = (prepared) => {
    const [height, width] = DATA.picture.shape;
    Object.assign(find("seen"), { width, height });
    const context = find("seen").getContext("2d");
    const image = context.createImageData(width, height);
    for (let i = 0; i < height * width; i++) {
      const level = prepared ? prepared[i] : 0;
      image.data.set([level, level, level, 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
  };

  const within = (value) => Math.min(Math.max(value, FRAME + WIDTH / 2), SIDE - FRAME - WIDTH / 2);
  const place = (event) => {
    const [x, y] = [event.offsetX / pad.clientWidth, event.offsetY / pad.clientHeight];
    return [within(FRAME + x * INNER), within(FRAME + y * INNER)];
  };
  let last = null;
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    last = place(event);
    stroke(last, last);
    ask();
  });
  pad.addEventListener("pointermove", (event) => {
    if (!last) return;
    for (const point of event.getCoalescedEvents?.() ?? [event]) {
      const next = place(point);
      stroke(last, next);
      last = next;
    }
    ask();
  });
  for (const name of ["pointerup", "pointercancel"]) pad.addEventListener(name, () => (last = null));

  // By keyboard: arrows move the pen, the space bar lowers and lifts it.
  const pen = { at: [SIDE / 2, SIDE / 4], down: false };
  const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const say = () => {
    const [x, y] = pen.at.map((value) => Math.round((100 * (value - FRAME)) / INNER));
    find("pen").textContent = `Pen ${pen.down ? "down" : "up"}, ${x} % from the left, ${y} % from the top`;
  };
  pad.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (event.key === " ") pen.down = !pen.down;
    else if (!move) return;
    event.preventDefault();
    const from = pen.at;
    if (move) pen.at = from.map((value, i) => within(value + 5 * move[i]));
    if (pen.down) {
      stroke(from, pen.at);
      ask();
    }
    say();
  });

  const begin = () => {
    clear();
    pen.down = false;
    find("pen").textContent = "";
    answer();
  };
  find("clear").addEventListener("click", begin);
  begin();
  DATA.examples.forEach(({ label }, i) => {
    find("example").append(make("option", { value: i, textContent: label }));
  });
  find("example").addEventListener("change", ({ target }) => {
    if (target.value === "") return;
    begin();
    const x = float32(DATA.examples[target.value].x);
    const { dtype, paper, ink } = DATA.picture;
    const unit = dtype === "uint8" ? 255 : 1; // the network takes grey levels as 0 to 1
    showSeen(each(x, (value) => (255 * (unit * value - paper)) / (ink - paper)));
    setInput(x);
    target.value = "";
  });
}

// ---------------------------------------------------------------- numbers as input

const fields = [...document.querySelectorAll("#fields input")];
if (fields.length) {
  const { mean, deviation } = DATA.standardization ?? {};
  const take = () => {
    const values = fields.map((field) => field.valueAsNumber);
    if (values.some(Number.isNaN)) return setInput(null, "Every field takes a number");
    setInput(each(values, (v, i) => (mean ? (v - mean[i]) / deviation[i] : v)));
  };
  for (const field of fields) field.addEventListener("input", take);
  take();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => update());
