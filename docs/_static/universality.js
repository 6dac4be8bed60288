/* The networks of chapter 4 with sliders: a hidden layer of sigmoid neurons, a linear output.
   The same equations as nnjax.book.chapter4; figures 4.1 and 4.3 show them without sliders. */
"use strict";

const sigmoid = (z) => 1 / (1 + Math.exp(-z));

/* output(x) = sum_j v_j sigmoid(w_j x + b_j) */
function output(neurons, x) {
  return neurons.reduce((sum, { w, b, v }) => sum + v * sigmoid(w * x + b), 0);
}

const target = (x) =>
  0.2 + 0.4 * x ** 2 + 0.3 * x * Math.sin(15 * x) + 0.05 * Math.cos(50 * x);

/* Bumps side by side on 0 ... 1: each steps up at its left edge and down at its right edge. */
function bumps(heights, w) {
  const n = heights.length;
  const edge = (i) => (i === 0 ? -0.1 : i === n ? 1.1 : i / n);
  return heights.flatMap((h, i) => [
    { w, b: -w * edge(i), v: h },
    { w, b: -w * edge(i + 1), v: -h },
  ]);
}

const middles = (n) => Array.from({ length: n }, (_, i) => target((i + 0.5) / n));

const DEMONSTRATIONS = {
  step: {
    label: "Output of one sigmoid neuron by its weight and bias",
    sliders: [
      { name: "weight w", low: 1, high: 300, step: 1, value: 8 },
      { name: "bias b", low: -200, high: 0, step: 0.5, value: -4 },
    ],
    neurons: ([w, b]) => [{ w, b, v: 1 }],
    says: ([w, b]) => `The step is at s = −b/w = ${(-b / w).toFixed(2)}.`,
  },
  bumps: {
    label: "A function and its approximation by bumps of sigmoid neurons",
    sliders: [
      { name: "number of bumps", low: 1, high: 60, step: 1, value: 10 },
      { name: "weight of the steps", low: 10, high: 1000, step: 10, value: 1000 },
    ],
    neurons: ([n, w]) => bumps(middles(n), w),
    target,
    says: ([n], neurons) => {
      const xs = Array.from({ length: 500 }, (_, i) => i / 499);
      const gaps = xs.map((x) => Math.abs(output(neurons, x) - target(x)));
      const mean = gaps.reduce((a, b) => a + b) / gaps.length;
      return `${2 * n} hidden neurons, mean error ${mean.toFixed(4)}.`;
    },
  },
};

const WIDTH = 640;
const HEIGHT = 260;

function curve(f) {
  const at = (i) => {
    const x = i / 400;
    return `${(40 + 580 * x).toFixed(1)},${(230 - 200 * f(x)).toFixed(1)}`;
  };
  return Array.from({ length: 401 }, (_, i) => at(i)).join(" ");
}

function show(place) {
  const demonstration = DEMONSTRATIONS[place.dataset.kind];
  const rows = demonstration.sliders.map(
    ({ name, low, high, step, value }) =>
      `<label>${name} <input type="range" min="${low}" max="${high}" step="${step}"
       value="${value}"><output>${value}</output></label>`
  );
  const ticks = [0, 0.5, 1].map(
    (t) => `<text x="${40 + 580 * t}" y="248" text-anchor="middle">${t}</text>
      <text x="32" y="${234 - 200 * t}" text-anchor="end">${t}</text>
      <line x1="40" x2="620" y1="${230 - 200 * t}" y2="${230 - 200 * t}" stroke="#ddd"/>`
  );
  place.innerHTML = `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img"
    aria-label="${demonstration.label}" font-size="12">${ticks.join("")}
    <polyline class="target" fill="none" stroke="#999" stroke-width="3"/>
    <polyline class="network" fill="none" stroke="#0072B2" stroke-width="1.8"/></svg>
    ${rows.join("")}<p aria-live="polite"></p>`;
  const inputs = [...place.querySelectorAll("input")];
  const draw = () => {
    const values = inputs.map((input) => Number(input.value));
    const neurons = demonstration.neurons(values);
    inputs.forEach((input, i) => (input.nextElementSibling.textContent = values[i]));
    place.querySelector(".network").setAttribute("points", curve((x) => output(neurons, x)));
    place.querySelector("p").textContent = demonstration.says(values, neurons);
  };
  if (demonstration.target)
    place.querySelector(".target").setAttribute("points", curve(demonstration.target));
  inputs.forEach((input) => input.addEventListener("input", draw));
  draw();
}

if (typeof document === "undefined") module.exports = { bumps, middles, output };
else
  document.addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll(".universality").forEach(show)
  );
