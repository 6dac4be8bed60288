// A working step by step: → and ← go forward and back, Home and End to the first and the last line.

const items = [...document.querySelectorAll(".working li")];
const [said, main] = [document.getElementById("said"), document.querySelector("main")];
let now = null; // the line that is looked at; null: all of them

function go(i) {
  now = i === null ? null : Math.min(Math.max(i, 0), items.length - 1);
  main.classList.toggle("stepping", now !== null);
  items.forEach((item, k) => {
    item.classList.toggle("now", k === now);
    item.classList.toggle("later", now !== null && k > now);
  });
  const place = now === null ? null : items[now].dataset.place;
  for (const shape of document.querySelectorAll("[data-at]"))
    shape.classList.toggle("now", shape.dataset.at === place);
  for (const text of document.querySelectorAll("[data-shown]")) {
    const known = items.slice(0, now === null ? 0 : now + 1); // what has been computed by now
    const last = known.findLast((item) => item.dataset.place === text.dataset.shown);
    text.textContent = last?.dataset.value ?? "";
  }
  document.getElementById("back").disabled = now === null || now === 0;
  document.getElementById("forward").disabled = now === items.length - 1;
  said.textContent =
    now === null ? `${items.length} numbers` : `${now + 1} of ${items.length}: ${items[now].dataset.value}`;
  if (now !== null) items[now].scrollIntoView({ block: "center" });
}

const forward = () => go(now === null ? 0 : now + 1);
const back = () => go(now === null ? 0 : now - 1);
const KEYS = { ArrowRight: forward, ArrowLeft: back, Home: () => go(0), End: () => go(items.length - 1) };
document.addEventListener("keydown", (event) => {
  if (!KEYS[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  KEYS[event.key]();
});
document.getElementById("forward").addEventListener("click", forward);
document.getElementById("back").addEventListener("click", back);
document.getElementById("all").addEventListener("click", () => go(null));
document.getElementById("controls").hidden = false;
go(null);
