// Curves as SVG: they take the page's colors as they change, and say in words what they show.
import { element } from "./dom.js";

const WIDTH = 480, HEIGHT = 190, LEFT = 46, RIGHT = 10, TOP = 8, BOTTOM = 34;

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function number(value) {
  return Number.isFinite(value) ? value.toPrecision(4).replaceAll("-", "−") : "–";
}

// Round numbers within [low, high], at most six, no closer than ``least``.
function ticks(low, high, least = 0) {
  const rough = Math.max(least, (high - low) / 5);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((each) => each * power >= rough * 0.999);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(6)));
}

// curves: [{label, color}], a color being one of page.css. Returns {figure, draw}:
// draw(x, ys, mark) takes the x (whole numbers are labeled), for each curve its y, and the x of a vertical line or null; the legend tells the values there.
export function chart(title, xLabel, curves) {
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const values = curves.map(() => element("b", { class: "numbers" }));
  const legend = curves.map(({ label, color }, index) => {
    const line = svg("svg", { viewBox: "0 0 20 4", width: 20, height: 4, "aria-hidden": "true" }, svg("path", { d: "M0 2H20" }));
    line.style.setProperty("--hue", `var(--${color})`);
    return element("span", {}, line, ` ${label} `, values[index]);
  });
  const figure = element("figure", { class: "chart" }, element("figcaption", {}, title), picture, element("p", { class: "legend" }, ...legend));

  function draw(x, ys, mark) {
    picture.replaceChildren();
    const at = mark === null ? x.length - 1 : Math.max(0, x.findLastIndex((each) => each <= mark));
    const now = ys.map((y) => number(y[at]));
    values.forEach((value, index) => { value.textContent = x.length ? now[index] : ""; });
    const told = curves.map(({ label }, index) => `${label} ${now[index]}`).join(", ");
    picture.setAttribute("aria-label", x.length ? `${title}; at ${xLabel} ${x[at]}: ${told}` : `${title}: nothing yet`);
    if (!x.length) {
      picture.append(svg("text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "no epoch is done yet"));
      return;
    }
    const all = ys.flat().filter(Number.isFinite);
    const left = Math.min(x[0], mark ?? x[0]), right = Math.max(x.at(-1), mark ?? x[0], left + 1);
    let low = Math.min(...all), high = Math.max(...all);
    const room = 0.05 * (high - low || 1);
    [low, high] = [low - room, high + room];
    const across = (value) => LEFT + ((value - left) / (right - left)) * (WIDTH - LEFT - RIGHT);
    const up = (value) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    for (const tick of ticks(low, high)) {
      picture.append(
        svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: up(tick), y2: up(tick) }),
        svg("text", { x: LEFT - 6, y: up(tick) + 4, "text-anchor": "end" }, String(tick).replace("-", "−")),
      );
    }
    for (const tick of ticks(left, right, 1)) {
      picture.append(svg("text", { x: across(tick), y: HEIGHT - 18, "text-anchor": "middle" }, tick.toLocaleString("en")));
    }
    picture.append(svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 3, "text-anchor": "end" }, xLabel));
    if (mark !== null) picture.append(svg("line", { class: "mark", x1: across(mark), x2: across(mark), y1: TOP, y2: HEIGHT - BOTTOM }));
    curves.forEach(({ color }, index) => {
      const points = x.map((each, place) => [across(each), up(ys[index][place])]).filter(([, y]) => Number.isFinite(y));
      const path = points.map(([px, py]) => `${px.toFixed(1)} ${py.toFixed(1)}`).join("L");
      const drawn = points.length > 1
        ? svg("path", { d: `M${path}` })
        : svg("circle", { cx: points[0]?.[0] ?? -9, cy: points[0]?.[1] ?? -9, r: 3 });
      drawn.style.setProperty("--hue", `var(--${color})`);
      picture.append(drawn);
    });
  }
  return { figure, draw };
}
