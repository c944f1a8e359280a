// The 2-D lab. The numbers and points are the trainer's; here they are only drawn, and its orders given.
import { array, element } from "./dom.js";
import { chart, picture } from "./lab-draw.js";
import { slowMotion } from "./lab-slow.js";

export const title = "Lab";

const SPEEDS = [["1", "1 step a second"], ["5", "5 steps a second"], ["20", "20 steps a second"], ["100", "100 steps a second"], ["0", "as fast as it can"]];
const LAYERS = [["ground", "D's output"], ["grid", "G's grid"], ["real", "real points"], ["fake", "fakes"], ["arrows", "−∂L/∂x at each fake"]];
const MOST_KEPT = 4000; // points of a curve: from there on every second one goes
const fixed = (digits) => (value) => (value === null ? "–" : value.toFixed(digits));
const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)} %`);
// name of the number, where it stands in a frame, its label, its text
const NUMBERS = [
  ["step", (frame) => frame.step, "Step", (value) => value.toLocaleString("en")],
  ["loss_d", (frame) => frame.metrics?.loss_d ?? null, "Loss of D", fixed(4)],
  ["loss_g", (frame) => frame.metrics?.loss_g ?? null, "Loss of G", fixed(4)],
  ["accuracy", (frame) => frame.measures.accuracy, "D's accuracy", percent],
  ["distance", (frame) => frame.measures.distance, "Energy distance", fixed(4)],
  ["modes", (frame) => frame.measures.modes, "Gaussians found", (value) => (value === null ? "–" : `${value} of 8`)],
  ["on_modes", (frame) => frame.measures.on_modes, "Fakes on one", percent],
];

export function start(panel, send) {
  let setup = null;
  let frame = null; // the last one, its arrays decoded
  let playing = false;
  let resume = false; // play on when the settings have been taken, or the tab is opened again
  let drawn = []; // points [x, y] of the user's own
  let learned = 0; // so many of them are what it learns from
  const pace = { since: 0, step: 0, pictures: 0, text: "" }; // while it plays
  const fields = new Map(); // name of a setting → its control
  const curves = { loss_d: [], loss_g: [], accuracy: [], distance: [] }; // each a list of [step, value]

  // ---- the picture
  const canvas = element("canvas", { class: "picture", id: "lab-picture", role: "img", "aria-label": "The plane: nothing yet" });
  const drawing = picture(canvas);
  const layers = new Map(
    LAYERS.map(([name, label]) => {
      const box = element("input", { type: "checkbox", id: `lab-show-${name}`, onchange: redraw });
      box.checked = true;
      return [name, { box, item: element("label", { class: `key ${name}` }, box, element("i", { "aria-hidden": "true" }), label) }];
    }),
  );
  const average = element("input", { type: "checkbox", id: "lab-average", onchange: () => send({ do: "average", on: average.checked }) });
  const averageItem = element("label", { class: "key", title: "G with the average of its weights, with which samples are drawn" }, average, "average of G (EMA)");
  const scale = element("p", { class: "soft numbers scale" });

  // ---- the transport
  const press = (id, text, label, key, order) =>
    element("button", { type: "button", id: `lab-${id}`, "aria-label": label, "aria-keyshortcuts": key, title: `${label} (${key})`, onclick: order }, text);
  const back = press("back", "◂ Back", "One step back", "B", () => send({ do: "back" }));
  const play = press("play", "Play", "Play", "Space", () => toggle(!playing));
  const stepD = press("step-D", "Step D", "Step D alone", "D", () => send({ do: "step", which: "D" }));
  const stepG = press("step-G", "Step G", "Step G alone", "G", () => send({ do: "step", which: "G" }));
  const step = press("step", "Step", "One step of D, then of G", "S", () => send({ do: "step", which: "both" }));
  const slow = press("slow", "Slow motion", "Take the next step apart", "W", () => send({ do: "slow", which: slowWhich.value }));
  const slowWhich = element("select", { id: "lab-slow-which", "aria-label": "What slow motion takes apart" },
    element("option", { value: "both" }, "of both"), element("option", { value: "D" }, "of D"), element("option", { value: "G" }, "of G"));
  const speed = element("select", { id: "lab-speed", "aria-label": "Speed", onchange: () => send({ do: "speed", value: Number(speed.value) }) },
    ...SPEEDS.map(([value, text]) => element("option", { value }, text)));
  speed.value = "0";
  play.classList.add("main");

  // ---- points of one's own
  const learn = element("button", { type: "button", id: "lab-learn", class: "main", onclick: () => begin() }, "Learn these points");
  const clear = element("button", { type: "button", id: "lab-clear", onclick: () => { drawn = []; drew(); } }, "Clear");
  const count = element("span", { class: "soft" });
  const drawBar = element("div", { class: "bar", hidden: true }, learn, clear, count);

  // ---- numbers, curves, words
  const cells = new Map(NUMBERS.map(([name, , label]) => [name, { cell: element("dd", { id: `lab-now-${name}` }, "–"), label }]));
  const numbers = element("dl", { class: "facts numbers" }, ...[...cells.values()].map(({ cell, label }) => element("div", {}, element("dt", {}, label), cell)));
  const losses = element("canvas", { class: "chart", id: "lab-losses", role: "img" });
  const qualities = element("canvas", { class: "chart", id: "lab-qualities", role: "img" });
  const said = element("p", { id: "lab-said", role: "status", class: "unseen" });
  const wrong = element("p", { id: "lab-error", role: "alert", class: "bad", hidden: true });
  const refused = element("p", { id: "lab-refused", role: "alert", class: "bad", hidden: true }); // until settings are taken

  // ---- settings: made of what config.py says of each
  const preset = element("select", { id: "lab-preset", onchange: takePreset });
  const settings = element("div", { class: "settings" });
  const anew = element("button", { type: "button", id: "lab-anew", onclick: () => begin() }, "Begin anew");

  const walk = slowMotion({
    show: (shown, lit) => draw(shown, lit),
    finish: (which) => send({ do: "step", which }),
    closed: () => { slow.focus(); redraw(); },
  });

  panel.append(
    element("div", { class: "columns" },
      element("div", { class: "left" },
        canvas,
        element("div", { class: "keys", role: "group", "aria-label": "What the picture shows" }, ...[...layers.values()].map(({ item }) => item), averageItem),
        scale, drawBar,
        element("div", { class: "bar", role: "group", "aria-label": "Steps" }, back, play, stepD, stepG, step, speed),
        element("div", { class: "bar", role: "group", "aria-label": "Slow motion" }, slow, slowWhich),
        said, wrong, refused),
      element("div", { class: "right" },
        walk.panel, numbers,
        element("figure", { class: "card" }, element("figcaption", {}, "Losses"), losses),
        element("figure", { class: "card" }, element("figcaption", {}, "D's accuracy, and the energy distance of the fakes from the real points"), qualities),
        element("section", { class: "card", "aria-labelledby": "lab-settings" },
          element("div", { class: "bar" }, element("h2", { id: "lab-settings" }, "Settings"), element("label", { for: "lab-preset" }, "Preset"), preset, anew),
          element("p", { class: "soft" }, "The learning rates change while it learns; any other setting begins anew."),
          settings))),
  );

  function texts() {
    return Object.fromEntries([...fields].map(([name, field]) => [name, field.type === "checkbox" ? String(field.checked) : field.value]));
  }

  function begin() {
    resume ||= playing;
    learned = drawn.length;
    send({ do: "start", settings: texts(), drawn });
  }

  function toggle(on) {
    send({ do: on ? "play" : "pause" });
  }

  function changed(control) {
    showPreset();
    walk.close();
    if (control.live) send({ do: "rates", lr_g: fields.get("lr_g").value, lr_d: fields.get("lr_d").value });
    else if (!isDrawn() || drawn.length) begin();
    else toggle(false);
    drew();
  }

  function makeControls() {
    for (const control of setup.controls) {
      const id = `lab-set-${control.name}`;
      const onchange = () => changed(control);
      const about = `${control.help}: ${control.bounds}`;
      let field;
      if (control.choices.length) {
        field = element("select", { id, title: about, onchange }, ...control.choices.map((choice) => element("option", {}, choice)));
      } else if (control.kind === "bool") {
        field = element("input", { id, type: "checkbox", title: about, onchange });
      } else {
        field = element("input", { id, type: "text", title: about, onchange, autocomplete: "off", spellcheck: "false", inputmode: control.kind === "str" ? "text" : "decimal" });
      }
      fields.set(control.name, field);
      put(control.name, control.value);
      const times = (text, factor) => element("button", { type: "button", "aria-label": `${control.label} ${text}`, onclick: () => {
        field.value = String(Number((Number(field.value) * factor).toPrecision(6)));
        changed(control);
      } }, text);
      const more = control.live ? [times("÷2", 0.5), times("×2", 2)] : [];
      settings.append(element("div", { class: control.live ? "setting live" : "setting" }, element("label", { for: id }, control.label), field, ...more));
    }
    preset.append(...Object.keys(setup.presets).map((name) => element("option", {}, name)), element("option", { disabled: true }, "own"));
    showPreset();
  }

  function put(name, text) {
    const field = fields.get(name);
    if (field.type === "checkbox") field.checked = text === "true";
    else field.value = text;
  }

  const equal = (a, b) => a === b || (a !== "" && Number(a) === Number(b));

  function showPreset() {
    const now = texts();
    const found = Object.entries(setup.presets).find(([, values]) => Object.entries(values).every(([name, text]) => equal(now[name], text)));
    preset.value = found ? found[0] : "own";
  }

  function takePreset() {
    for (const [name, text] of Object.entries(setup.presets[preset.value])) put(name, text);
    begin();
  }

  function receive(message) {
    if (message.setup) {
      setup = message.setup;
      drawing.view = setup.view;
      makeControls();
      begin();
    } else if (message.frame) {
      take(message.frame);
    } else if (message.slow) {
      walk.open(message.slow);
    } else if (message.refused !== undefined) {
      refused.textContent = message.refused;
      refused.hidden = !message.refused;
      if (message.refused) resume = false;
    } else if (message.error) {
      wrong.textContent = message.error;
      wrong.hidden = false;
      playing = resume = false;
      showPlaying();
    }
  }

  function decoded(shown) {
    return Object.fromEntries(LAYERS.map(([name]) => [name, array(shown[name])]));
  }

  function take(received) {
    frame = { ...received, ...decoded(received) };
    playing = frame.playing;
    wrong.hidden = true;
    if (frame.step + 1 !== walk.number()) walk.close();
    keep("loss_d", frame.news.map(([at, value]) => [at, value]));
    keep("loss_g", frame.news.map(([at, , value]) => [at, value]));
    keep("accuracy", [[frame.step, frame.measures.accuracy]]);
    keep("distance", [[frame.step, frame.measures.distance]]);
    for (const [name, read, , text] of NUMBERS) cells.get(name).cell.textContent = text(read(frame));
    for (const name of ["modes", "on_modes"]) cells.get(name).cell.parentElement.hidden = frame.measures[name] === null;
    averageItem.hidden = !(Number(fields.get("ema").value) > 0);
    showPlaying();
    if (!playing) tell();
    measure();
    requestAnimationFrame(() => {
      redraw();
      send({ do: "shown" });
    });
    if (resume && !panel.hidden) {
      resume = false;
      toggle(true);
    }
  }

  // Steps and pictures of the last second.
  function measure() {
    const now = performance.now();
    pace.pictures += 1;
    if (playing && now - pace.since < 1000) return;
    const seconds = (now - pace.since) / 1000;
    pace.text = playing && pace.since ? `; ${Math.round((frame.step - pace.step) / seconds)} steps and ${Math.round(pace.pictures / seconds)} pictures a second` : "";
    Object.assign(pace, { since: playing ? now : 0, step: frame.step, pictures: 0 });
  }

  function keep(name, news) {
    const curve = curves[name];
    while (curve.length && curve.at(-1)[0] >= (news.length ? news[0][0] : frame.step + 1)) curve.pop();
    curve.push(...news.filter(([, value]) => value !== null));
    if (curve.length > MOST_KEPT) curves[name] = curve.filter((_, index) => index % 2 === 0);
  }

  function showPlaying() {
    play.textContent = playing ? "Pause" : "Play";
    play.setAttribute("aria-label", play.textContent);
    back.disabled = playing || !frame?.step;
    for (const button of [stepD, stepG, step, slow]) button.disabled = playing || !frame;
    play.disabled = !frame;
  }

  function tell() {
    said.textContent = NUMBERS.map(([name, read, label, text]) => [label, text(read(frame))]).filter(([, text]) => text !== "–").map(([label, text]) => `${label} ${text}`).join(", ");
  }

  function redraw() {
    if (!frame || panel.hidden) return;
    if (walk.isOpen()) walk.showAgain();
    else draw(frame, null);
    chart(losses, [{ label: "D", color: "real", points: curves.loss_d }, { label: "G", color: "fake", points: curves.loss_g }]);
    chart(qualities, [{ label: "accuracy", color: "third", points: curves.accuracy, range: [0, 1] }, { label: "distance, log", color: "fourth", points: curves.distance, range: [null, null], logarithmic: true }]);
  }

  function draw(shown, lit) {
    const hidden = new Set([...layers].filter(([, { box }]) => !box.checked).map(([name]) => name));
    const toLearn = isDrawn() && (frame.data !== "drawn" || drawn.length !== learned);
    const scales = drawing.draw(shown.real instanceof Float32Array ? shown : decoded(shown), { hidden, lit: toLearn ? [] : lit, drawn: toLearn ? drawn : [] });
    scale.textContent = `D's output from ${scales.low.toFixed(3)} to ${scales.high.toFixed(3)} in view${scales.longest ? `; longest arrow ${scales.longest.toPrecision(2)}` : ""}${pace.text}`;
    canvas.setAttribute("aria-label", `The plane with real points, fakes, D's output, G's grid and arrows. ${isDrawn() ? "Draw with the mouse, or move with the arrow keys and put points with Space. " : ""}${said.textContent}`);
  }

  // ---- drawing with the mouse, a finger, or the keyboard
  const isDrawn = () => fields.get("data")?.value === "drawn";

  function drew() {
    drawBar.hidden = !isDrawn();
    canvas.tabIndex = isDrawn() ? 0 : -1;
    canvas.setAttribute("role", isDrawn() ? "application" : "img");
    canvas.classList.toggle("drawing", isDrawn());
    learn.disabled = !drawn.length;
    count.textContent = drawn.length ? `${drawn.length.toLocaleString("en")} points` : "Draw in the picture, or go there with Tab: arrow keys and Space.";
    drawing.cursor = isDrawn() && document.activeElement === canvas ? (drawing.cursor ?? [0, 0]) : null;
    redraw();
  }

  function point(at) {
    if (drawn.length < 5000 && at.every((value) => Math.abs(value) <= setup.view)) drawn.push(at);
    drew();
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (!isDrawn()) return;
    canvas.setPointerCapture(event.pointerId);
    point(drawing.place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (isDrawn() && event.buttons) for (const each of event.getCoalescedEvents()) point(drawing.place(each));
  });
  canvas.addEventListener("focus", drew);
  canvas.addEventListener("blur", drew);
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!isDrawn() || !(move || event.key === " ")) return;
    event.preventDefault();
    event.stopPropagation();
    if (move) drawing.cursor = drawing.cursor.map((value, axis) => Math.max(-1.2, Math.min(1.2, value + 0.05 * move[axis])));
    else drawn.push([...drawing.cursor]);
    drew();
  });

  // ---- keys, where nothing else takes them
  document.addEventListener("keydown", (event) => {
    if (panel.hidden || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.target.closest("input, select, textarea")) return;
    if (event.key === " " && event.target.closest("button, summary, [tabindex]")) return;
    const pressed = { " ": play, b: back, d: stepD, g: stepG, s: step, w: slow }[event.key.toLowerCase()];
    if (pressed && !pressed.disabled) {
      event.preventDefault();
      pressed.click();
    } else {
      walk.key(event);
    }
  });

  addEventListener("theme", redraw);
  new ResizeObserver(redraw).observe(canvas);
  send({ do: "hello" });
  showPlaying();

  return {
    receive,
    hidden: () => { resume = playing; if (playing) toggle(false); },
    shown: () => { if (resume && frame) { resume = false; toggle(true); } redraw(); },
  };
}
