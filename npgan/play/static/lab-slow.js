// Slow motion: a step's operations one by one, each with its formula, code, numbers and proof, and the picture lit where it acts.
import { element } from "./dom.js";

const PACE = 1500; // milliseconds that an operation stays when they play

// show(picture, lit) draws; finish(which) does the step; closed() when the panel is gone.
export function slowMotion({ show, finish, closed }) {
  let told = null; // what the trainer said: {which, number, ops, pictures}
  let at = 0;
  let timer = null;

  const press = (id, text, order, label) => element("button", { type: "button", id: `lab-slow-${id}`, "aria-label": label, onclick: order }, text);
  const heading = element("h2", { tabindex: "-1" });
  const previous = press("previous", "◂", () => go(at - 1), "Previous operation");
  const next = press("next", "▸", () => go(at + 1), "Next operation");
  const play = press("play", "Play", () => run(timer === null), "Play the operations");
  const done = press("finish", "Do the step", () => { const { which } = told; close(); finish(which); });
  const leave = press("close", "Close", () => { close(); closed(); });
  const slider = element("input", { type: "range", min: 0, "aria-label": "Operation", oninput: () => go(Number(slider.value)) });
  const words = element("div", { class: "operation" });
  const panel = element("section", { class: "card slow", hidden: true, "aria-label": "Slow motion" },
    heading, element("div", { class: "bar" }, previous, play, next, slider, done, leave), words);

  function open(received) {
    told = received;
    slider.max = told.ops.length - 1;
    panel.hidden = false;
    go(0);
    heading.focus();
  }

  function close() {
    run(false);
    panel.hidden = true;
  }

  function run(on) {
    clearInterval(timer);
    timer = on ? setInterval(() => (at + 1 < told.ops.length ? go(at + 1) : run(false)), PACE) : null;
    play.textContent = on ? "Pause" : "Play";
  }

  function go(to) {
    at = Math.max(0, Math.min(told.ops.length - 1, to));
    const op = told.ops[at];
    slider.value = at;
    slider.setAttribute("aria-valuetext", `${at + 1} of ${told.ops.length}: ${op.where}, ${op.name}`);
    previous.disabled = at === 0;
    next.disabled = at === told.ops.length - 1;
    heading.textContent = `Step ${told.number.toLocaleString("en")}, operation ${at + 1} of ${told.ops.length}`;
    words.replaceChildren(
      element("p", {}, element("b", {}, `${op.step}: `), op.words),
      element("h3", {}, `${op.where} · ${op.part}`),
      element("p", { class: "formula" }, op.formula),
      element("p", { class: "soft" }, element("code", {}, `${op.name}, ${op.source}`)),
      element("pre", { tabindex: 0, "aria-label": "Code" }, op.code.map(([line, text]) => `${String(line).padStart(4)}  ${text}`).join("\n")),
      ...[op.why, op.cached, op.work, ...op.shares].filter(Boolean).map((text) => element("p", { class: "soft" }, text)),
      table(op.tensors),
      ...op.verdicts.map((text) => element("p", { class: text.startsWith("✓") ? "good" : "bad" }, text)),
    );
    showAgain();
  }

  function table(tensors) {
    const head = ["", "shape", "mean", "std", "min", "max", "norm"].map((text) => element("th", { scope: "col" }, text));
    const rows = tensors.map(([name, ...cells]) =>
      element("tr", {}, element("th", { scope: "row" }, name), ...cells.map((text) => element("td", {}, text))));
    return element("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Tensors" },
      element("table", { class: "numbers" }, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)));
  }

  function showAgain() {
    const op = told.ops[at];
    show(told.pictures[op.picture], op.lit);
  }

  function key(event) {
    if (panel.hidden) return;
    if (event.key === "ArrowRight") go(at + 1);
    else if (event.key === "ArrowLeft") go(at - 1);
    else if (event.key === "Escape") leave.click();
    else return;
    event.preventDefault();
  }

  return { panel, open, close, key, showAgain, isOpen: () => !panel.hidden, number: () => told?.number };
}
