// A run's digits: its samples along the time line, one image large with −∂L/∂pixels, latent space, curves.
import { chart, number, svg } from "./digits-chart.js";
import { array, element } from "./dom.js";

export const title = "Digits";

const SIDE = 28;
const PLAY_MS = 500; // a moment of the time line
const WALK_MS = 60, WALK_STEPS = 40; // from one point to the next

export function start(panel, send) {
  let constants = null; // from the server, once
  let run = null;
  let moment = -1; // index of the one shown
  let follows = true; // to the newest, as the run goes on
  let look = null; // its samples
  let point = { start: 0, end: 1, t: 0, path: "circle", directions: "first-layer", sliders: [] };
  let showsChange = false;
  let timer = null; // of the time line or of the walk

  // --- one request at a time, and of each kind only the newest

  const wanted = new Set();
  let asked = null; // the one that is on its way

  function ask(show) {
    wanted.add(show);
    next();
  }

  function next() {
    panel.setAttribute("aria-busy", Boolean(asked || wanted.size));
    if (asked || !wanted.size) return;
    const [show] = wanted;
    wanted.delete(show);
    asked = { show, step: run.moments[moment].step, ...(show !== "samples" && { point }) };
    send(asked);
  }

  // --- elements

  const badge = element("span", { class: "badge" });
  const line = element("span");
  const settings = element("p", { class: "small" });
  const notes = element("ul", { class: "notes" });
  const problem = element("p", { class: "bad", role: "alert" });

  const tiles = Array.from({ length: 64 }, (_, index) => {
    const canvas = element("canvas", { width: SIDE, height: SIDE });
    const meter = element("span");
    const button = element(
      "button",
      { type: "button", "aria-pressed": false, tabindex: index ? -1 : 0, onclick: () => choose(index), onkeydown: (event) => walkTiles(event, index) },
      canvas,
      element("span", { class: "meter", "aria-hidden": "true" }, meter),
    );
    return { button, canvas, meter };
  });
  const grid = element("div", { class: "samples", role: "group", "aria-label": "Samples of the fixed noise" }, ...tiles.map((tile) => tile.button));
  const showsPixels = radio("digits-view", "samples", true, () => view(false));
  const showsWanted = radio("digits-view", "−∂L/∂pixels", false, () => view(true));
  const lookNote = element("p", { class: "small" });
  const drawnWith = element("p", { class: "small" });

  const playButton = element("button", { type: "button", onclick: play }, "Play");
  const newestButton = element("button", { type: "button", onclick: () => turn(run.moments.length - 1) }, "Newest");
  const timeLine = element("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Time line", oninput: () => turn(Number(timeLine.value)) });
  const ticks = svg("svg", { class: "ticks", viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  const where = element("p", { class: "numbers" });

  const large = element("canvas", { width: SIDE, height: SIDE, role: "img" });
  const largeChange = element("canvas", { width: SIDE, height: SIDE, role: "img" });
  const largeTitle = element("figcaption");
  const facts = { verdict: element("dd"), loss: element("dd"), slope: element("dd"), length: element("dd") };
  const lengthName = element("dt");
  const latentNote = element("p", { class: "small" });

  const directions = element("select", { "aria-label": "Directions", onchange: () => move({ directions: directions.value, sliders: [] }) });
  const directionsNote = element("p", { class: "small" });
  const sliders = element("div", { class: "sliders" });
  const resetButton = element("button", { type: "button", onclick: () => move({ sliders: [] }) }, "Reset sliders");

  const from = element("input", { type: "number", min: 1, "aria-label": "From sample", onchange: () => ends(from.value, to.value) });
  const to = element("input", { type: "number", min: 1, "aria-label": "To sample", onchange: () => ends(from.value, to.value) });
  const randomButton = element("button", { type: "button", onclick: () => ends(from.value, 1 + random()) }, "Random target");
  const walkButton = element("button", { type: "button", onclick: walk }, "Random walk");
  const way = element("input", { type: "range", min: 0, max: 1, step: "any", value: 0, "aria-label": "Way from the first to the second", oninput: () => move({ t: Number(way.value) }) });
  const wayValue = element("output");
  const strips = element("div");

  const losses = chart("Losses, mean of each epoch", "epoch", [{ label: "loss of D", color: "real" }, { label: "loss of G", color: "fake" }]);
  const outputs = chart("What D says, mean of each epoch", "epoch", [{ label: "D(real)", color: "real" }, { label: "D(fake)", color: "fake" }]);

  panel.append(
    element("p", {}, badge, line),
    settings, notes, problem,
    element(
      "div", { class: "columns" },
      element(
        "div", { class: "column" },
        element(
          "div", { class: "card" },
          element("h2", {}, "Samples of the fixed noise"),
          element("div", { class: "row", role: "radiogroup", "aria-label": "What to show of each sample" }, showsPixels.label, showsWanted.label),
          grid, where,
          element("div", { class: "row" }, playButton, timeLine, newestButton),
          ticks, lookNote, drawnWith,
        ),
        element("div", { class: "card charts" }, losses.figure, outputs.figure),
      ),
      element(
        "div", { class: "column" },
        element(
          "div", { class: "card" },
          element("h2", {}, "One image"),
          element(
            "div", { class: "two" },
            element("figure", {}, large, largeTitle),
            element("figure", {}, largeChange, element("figcaption", {}, "−∂L/∂pixels: how D wants it changed")),
          ),
          legend(),
          element(
            "dl", {},
            element("div", {}, element("dt", {}, "D says"), facts.verdict),
            element("div", {}, element("dt", {}, "L, G's loss"), facts.loss),
            element("div", {}, element("dt", {}, "‖∂L/∂pixels‖"), facts.slope),
            element("div", {}, lengthName, facts.length),
          ),
          latentNote,
        ),
        element(
          "div", { class: "card" },
          element("h2", {}, "From one to another"),
          element("div", { class: "row" }, element("label", {}, "From ", from), element("label", {}, "to ", to), randomButton, walkButton),
          element("div", { class: "row" }, way, wayValue),
          strips,
        ),
        element(
          "div", { class: "card" },
          element("h2", {}, "Along directions of latent space"),
          element("div", { class: "row" }, directions, resetButton),
          sliders, directionsNote,
        ),
      ),
    ),
  );

  function legend() {
    const bar = element("canvas", { width: 255, height: 1, "aria-hidden": "true" });
    bar.dataset.legend = "";
    return element("p", { class: "legend-bar" }, element("span", {}, "darker"), bar, element("span", {}, "brighter would lower G's loss"));
  }

  function radio(name, text, checked, onchange) {
    const input = element("input", { type: "radio", name, checked, onchange });
    return { input, label: element("label", {}, input, ` ${text}`) };
  }

  // --- what the server tells

  function setUp(told) {
    constants = { ...told, palette: array(told.palette) };
    from.max = to.max = constants.points;
    for (const bar of panel.querySelectorAll("canvas[data-legend]")) paint(bar, Uint8Array.from({ length: 255 }, (_, level) => level), constants.palette);
    for (const name of Object.keys(constants.directions)) directions.append(element("option", { value: name }, { "first-layer": "G's first layer", dimensions: "dimensions of z" }[name] ?? name));
    for (let index = 0; index < constants.sliders; index += 1) {
      const value = element("output");
      const input = element("input", { type: "range", min: -constants.farthest, max: constants.farthest, step: "any", value: 0, "aria-label": `Direction ${index + 1}`, oninput: () => slide(index, Number(input.value)) });
      sliders.append(element("label", {}, String(index + 1), input, value));
    }
    for (const [name, words] of Object.entries(constants.paths)) {
      const buttons = Array.from({ length: constants.strip }, (_, index) => {
        const canvas = element("canvas", { width: SIDE, height: SIDE });
        const t = index / (constants.strip - 1);
        return element("button", { type: "button", "aria-pressed": false, "aria-label": `${name}, ${index + 1} of ${constants.strip}`, onclick: () => { stop(); move({ t, path: name }); } }, canvas);
      });
      const choice = radio("digits-path", words, name === point.path, () => move({ path: name }));
      strips.append(choice.label, element("div", { class: "strip", role: "group", "aria-label": words }, ...buttons));
      strips.lastChild.dataset.path = name;
      choice.input.value = name;
    }
  }

  function attach(news) {
    const before = run && run.moments[moment];
    run = news.moments.length ? news : { ...news, moments: run.moments }; // the server says that nothing is left
    badge.textContent = run.status;
    badge.className = `badge ${{ training: "good", unreadable: "bad" }[run.status] ?? "soft"}`;
    line.textContent = run.line;
    settings.replaceChildren(element("code", {}, run.name), ` ${run.settings}`);
    notes.replaceChildren(...run.notes.map((note) => element("li", {}, note)));
    drawnWith.textContent = `Drawn with ${run.drawn_with}.${run.status === "training" ? " At the newest moment the page follows the run." : ""}`;
    lengthName.textContent = `‖z‖ (usual: ${Math.sqrt(run.latent_dim).toFixed(1)})`;
    timeLine.max = run.moments.length - 1;
    mark();
    const same = before ? run.moments.findIndex((each) => each.step === before.step && each.stamp === before.stamp) : -1;
    const shown = follows || same < 0 ? newest() : same;
    go(shown, shown !== same);
  }

  // Who is at latent space is not taken to a picture, which has no networks.
  function newest() {
    const exploring = timer?.walking || point.t > 0 || point.sliders.length > 0;
    const index = exploring ? run.moments.findLastIndex((each) => each.checkpoint) : -1;
    return index < 0 ? run.moments.length - 1 : index;
  }

  function mark() {
    const last = Math.max(1, run.moments.length - 1);
    ticks.replaceChildren(...run.moments.map(({ checkpoint }, index) => svg("rect", { class: checkpoint ? "" : "picture", x: (1000 * index) / last - 2, y: checkpoint ? 0 : 5, width: 4, height: checkpoint ? 10 : 5 })));
  }

  // --- the time line

  function turn(index) {
    follows = index === run.moments.length - 1;
    go(index);
  }

  function go(index, anew = true) {
    moment = index;
    timeLine.value = index;
    const { step, epoch, checkpoint } = run.moments[index];
    const at = epoch === null ? "" : `epoch ${Number(epoch.toFixed(2))}, `;
    where.textContent = `${at}step ${step.toLocaleString("en")}: ${checkpoint ? "a checkpoint" : "a picture that training left"} (${index + 1} of ${run.moments.length})`;
    timeLine.setAttribute("aria-valuetext", where.textContent);
    newestButton.disabled = index === run.moments.length - 1;
    const curves = run.curves;
    losses.draw(curves.epoch, [curves.loss_d, curves.loss_g], epoch);
    outputs.draw(curves.epoch, [curves.d_real, curves.d_fake], epoch);
    for (const control of [directions, resetButton, from, to, randomButton, walkButton, way, ...sliders.querySelectorAll("input"), ...strips.querySelectorAll("button, input")]) control.disabled = !checkpoint;
    if (!anew) return;
    problem.textContent = "";
    look = null;
    wanted.clear();
    ask("samples");
    move({});
    if (checkpoint) ask("strips");
    else if (timer?.walking) stop();
  }

  function play() {
    if (timer) return stop();
    if (moment === run.moments.length - 1) turn(0);
    playButton.textContent = "Pause";
    timer = { id: setInterval(() => {
      if (asked) return; // the page shows each moment
      if (moment === run.moments.length - 1) stop();
      else turn(moment + 1);
    }, PLAY_MS) };
  }

  function stop() {
    clearInterval(timer?.id);
    timer = null;
    playButton.textContent = "Play";
    walkButton.textContent = "Random walk";
  }

  // --- the samples

  function view(change) {
    showsChange = change;
    drawSamples();
  }

  function drawSamples() {
    if (!look) return;
    const { verdicts, losses: each } = look;
    tiles.forEach(({ button, canvas, meter }, index) => {
      const shown = showsChange && look.change.length ? look.change : look.pixels;
      paint(canvas, shown.subarray(index * SIDE * SIDE, (index + 1) * SIDE * SIDE), shown === look.change ? constants.palette : null);
      const says = verdicts.length ? `: D says ${number(verdicts[index])}, L ${number(each[index])}` : "";
      button.setAttribute("aria-label", `Sample ${index + 1}${says}`);
      button.title = `Sample ${index + 1}${says}`;
      meter.style.width = verdicts.length ? `${100 * verdicts[index]}%` : "0";
    });
    lookNote.textContent = look.note || `D says, as the bar under each sample: ${run.verdict}.`;
  }

  function walkTiles(event, index) {
    const to = { ArrowRight: index + 1, ArrowLeft: index - 1, ArrowDown: index + 8, ArrowUp: index - 8, Home: 0, End: 63 }[event.key];
    if (to === undefined || to < 0 || to > 63) return;
    event.preventDefault();
    tiles[to].button.focus();
    choose(to);
  }

  function choose(index) {
    stop();
    point = { ...point, sliders: [] };
    ends(index + 1, point.end + 1);
  }

  // --- one image and latent space

  function ends(first, second) {
    const within = (value) => Math.min(constants.points, Math.max(1, Math.round(Number(value)) || 1)) - 1;
    point = { ...point, start: within(first), end: within(second), t: 0 };
    if (run.moments[moment].checkpoint) ask("strips");
    move({});
  }

  function move(change) {
    point = { ...point, ...change };
    from.value = point.start + 1;
    to.value = point.end + 1;
    way.value = point.t;
    wayValue.textContent = point.t.toFixed(2);
    directionsNote.textContent = constants.directions[point.directions];
    tiles.forEach(({ button }, index) => {
      button.setAttribute("aria-pressed", index === point.start);
      button.tabIndex = index === Math.min(point.start, 63) ? 0 : -1;
    });
    for (const strip of strips.querySelectorAll("[data-path]")) {
      [...strip.children].forEach((button, index) => button.setAttribute("aria-pressed", strip.dataset.path === point.path && Math.abs(point.t * (constants.strip - 1) - index) < 0.5));
    }
    for (const input of strips.querySelectorAll("input")) input.checked = input.value === point.path;
    if (run.moments[moment].checkpoint) ask("latent");
    else drawPicture();
  }

  function slide(index, value) {
    stop();
    move({ sliders: [...point.sliders.filter(([each]) => each !== index), [index, value]] });
  }

  const random = () => Math.floor(Math.random() * constants.points);

  function walk() {
    if (timer) return stop();
    if (point.t >= 1 || point.start === point.end) ends(point.end + 1, 1 + random());
    walkButton.textContent = "Stop";
    timer = { walking: true, id: setInterval(() => {
      if (asked) return;
      if (point.t < 1) move({ t: Math.min(1, point.t + 1 / WALK_STEPS) });
      else ends(point.end + 1, 1 + random());
    }, WALK_MS) };
  }

  function drawLatent({ latent, coordinates, length }) {
    const pixels = array(latent.pixels), change = array(latent.change);
    drawOne(pixels, change, latent.verdicts[0], latent.losses[0], latent.slopes[0], latent.note);
    facts.length.textContent = number(length);
    [...sliders.children].forEach((label, index) => {
      const [input, value] = [label.querySelector("input"), label.querySelector("output")];
      label.hidden = index >= coordinates.length;
      if (label.hidden) return;
      if (input !== document.activeElement) input.value = coordinates[index];
      value.textContent = coordinates[index].toFixed(2).replace("-", "−");
    });
  }

  function drawPicture() {
    if (!look || point.start > 63) return;
    drawOne(look.pixels.subarray(point.start * SIDE * SIDE, (point.start + 1) * SIDE * SIDE), null, NaN, NaN, NaN, "A picture has no networks: choose a moment with a checkpoint for −∂L/∂pixels and latent space.");
    facts.length.textContent = "–";
  }

  function drawOne(pixels, change, verdict, loss, slope, note) {
    const name = point.t === 0 && !point.sliders.length ? `sample ${point.start + 1}` : "between and beside samples";
    paint(large, pixels, null);
    large.setAttribute("aria-label", `The image: ${name}`);
    largeTitle.textContent = name[0].toUpperCase() + name.slice(1);
    if (change?.length) paint(largeChange, change, constants.palette);
    else largeChange.getContext("2d").clearRect(0, 0, SIDE, SIDE);
    largeChange.setAttribute("aria-label", change?.length ? "−∂L/∂pixels of the image" : "no −∂L/∂pixels here");
    facts.verdict.textContent = number(verdict);
    facts.loss.textContent = number(loss);
    facts.slope.textContent = number(slope);
    latentNote.textContent = note;
  }

  function drawStrips(told) {
    for (const strip of strips.querySelectorAll("[data-path]")) {
      const pixels = array(told[strip.dataset.path]);
      [...strip.children].forEach((button, index) => paint(button.firstChild, pixels.subarray(index * SIDE * SIDE, (index + 1) * SIDE * SIDE), null));
    }
  }

  // Levels, as gray or in the palette's colors.
  function paint(canvas, levels, palette) {
    const image = new ImageData(canvas.width, canvas.height);
    levels.forEach((level, index) => {
      const color = palette ? palette.subarray(3 * level, 3 * level + 3) : [level, level, level];
      image.data.set([...color, 255], 4 * index);
    });
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  function receive(message) {
    if (message.constants) return setUp(message.constants);
    if ("run" in message) {
      if (message.run) attach(message.run);
      else panel.replaceChildren(element("p", {}, "This part shows a run, while it trains or afterwards: ", element("code", {}, "npgan play RUN")));
      return;
    }
    const current = asked?.step === run?.moments[moment].step; // or the page has moved on meanwhile
    asked = null;
    if (message.error && current) problem.textContent = message.error;
    else if (message.samples && current) {
      look = { ...message.samples, pixels: array(message.samples.pixels), change: array(message.samples.change) };
      drawSamples();
      if (!run.moments[moment].checkpoint) move({});
    } else if (message.latent && current) drawLatent(message);
    else if (message.strips && current) drawStrips(message.strips);
    next();
  }

  send({ show: "run" });
  return { receive, hidden: stop };
}
