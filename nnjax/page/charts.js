// Curves whose values can be read: with the mouse over them, or with the slider below by keyboard.

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const digits = (value, count = 4) =>
  value === null ? "–" : String(Number(value.toPrecision(count))).replace("-", "−");

for (const figure of document.querySelectorAll("[data-chart]")) {
  const { x, series, left, right, top, bottom, xlabel } = JSON.parse(figure.dataset.chart);
  if (x.length < 2) continue;
  const svg = figure.querySelector("svg");
  const cursor = document.createElementNS(svg.namespaceURI, "line");
  const [first, last] = [Math.min(...x), Math.max(...x)];
  for (const [name, value] of Object.entries({ class: "cursor", y1: top, y2: bottom }))
    cursor.setAttribute(name, value);
  svg.append(cursor);

  const output = make("output");
  const slider = make("input", { type: "range", min: 0, max: x.length - 1, value: x.length - 1 });
  slider.setAttribute("aria-label", `${xlabel} whose values are shown`);
  const show = (i) => {
    const place = left + ((x[i] - first) / (last - first)) * (right - left);
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
    const values = Object.entries(series).map(([name, line]) => `${name} ${digits(line[i])}`);
    output.textContent = `${xlabel} ${digits(x[i])}: ${values.join(", ")}`;
    slider.value = i;
    slider.setAttribute("aria-valuetext", output.textContent);
  };
  slider.addEventListener("input", () => show(Number(slider.value)));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const at = first + ((place - left) / (right - left)) * (last - first);
    const distance = (i) => Math.abs(x[i] - at);
    show(x.reduce((best, _, i) => (distance(i) < distance(best) ? i : best), 0));
  });
  figure.querySelector("figcaption").after(make("div", { className: "readout screen" }, slider, output));
  show(x.length - 1);
}
