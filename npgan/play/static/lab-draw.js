// The lab's picture and its curves, on canvases.
import { color, element } from "./dom.js";

const LONG = 0.16; // of the view: an arrow as long as 19 of 20 are at most
const LONGEST = 2; // times that: the rest are cut

// As many pixels as the screen shows. Returns the context, with the size in CSS pixels.
function sized(canvas) {
  const box = canvas.getBoundingClientRect();
  const ratio = devicePixelRatio || 1;
  const [width, height] = [Math.max(box.width, 1), Math.max(box.height, 1)];
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// .draw(arrays, {hidden, lit, drawn}) returns the scales; .place(event) is where in the plane the pointer is; .cursor [x, y] or null.
export function picture(canvas) {
  const small = element("canvas");
  const it = { view: 1, cursor: null, draw, place };
  return it;

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [(2 * (event.clientX - box.left)) / box.width - 1, 1 - (2 * (event.clientY - box.top)) / box.height].map((value) => value * it.view);
  }

  function draw({ real, fake, arrows, ground, grid }, { hidden, lit, drawn }) {
    const { context, width, height } = sized(canvas);
    const x = (value) => ((value / it.view + 1) * width) / 2;
    const y = (value) => ((1 - value / it.view) * height) / 2;
    const strength = (name) => (lit === null || lit.includes(name) ? 1 : 0.12);
    const shown = (name, make) => {
      if (hidden.has(name)) return;
      context.globalAlpha = strength(name);
      make();
      context.globalAlpha = 1;
    };
    const dots = (points, hue, radius) => {
      context.fillStyle = hue;
      context.beginPath();
      for (let i = 0; i < points.length; i += 2) {
        const [across, down] = [x(points[i]), y(points[i + 1])];
        context.moveTo(across + radius, down);
        context.arc(across, down, radius, 0, 2 * Math.PI);
      }
      context.fill();
    };
    const [low, high] = [Math.min(...ground), Math.max(...ground)];
    shown("ground", () => drawGround(context, width, height, ground));
    shown("grid", () => drawGrid(context, x, y, grid));
    const dot = Math.max(1.3, width / 300);
    shown("real", () => dots(real, color("real"), dot));
    const lengths = [];
    for (let i = 0; i < arrows.length; i += 2) lengths.push(Math.hypot(arrows[i], arrows[i + 1]));
    const sorted = lengths.filter(Number.isFinite).sort((a, b) => a - b);
    shown("arrows", () => drawArrows(context, x, y, fake, arrows, lengths, sorted[Math.floor(0.95 * sorted.length)] || 1));
    shown("fake", () => dots(fake, color("fake"), dot));
    dots(drawn.flat(), color("ink"), dot);
    if (it.cursor) {
      context.strokeStyle = color("ink");
      context.beginPath();
      const [left, top] = [x(it.cursor[0]), y(it.cursor[1])];
      context.moveTo(left - 9, top);
      context.lineTo(left + 9, top);
      context.moveTo(left, top - 9);
      context.lineTo(left, top + 9);
      context.stroke();
    }
    return { low, high, longest: sorted.at(-1) };
  }

  // Real's color where D's output is above ½, fake's below, the stronger the farther from ½ it is in this view.
  function drawGround(context, width, height, ground) {
    const [rows, columns] = ground.shape;
    const image = new ImageData(columns, rows);
    const [above, below, middle] = [rgb(color("real")), rgb(color("fake")), rgb(color("card"))];
    const reach = Math.max(...ground.map((p) => Math.abs(p - 0.5)), 1e-9);
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1) {
        const p = (ground[row * columns + column] - 0.5) / reach;
        const hue = p > 0 ? above : below;
        const part = 0.55 * Math.abs(p);
        const at = 4 * ((rows - 1 - row) * columns + column);
        for (let channel = 0; channel < 3; channel += 1) image.data[at + channel] = middle[channel] + part * (hue[channel] - middle[channel]);
        image.data[at + 3] = 255;
      }
    }
    small.width = columns;
    small.height = rows;
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = true;
    context.drawImage(small, 0, 0, width, height);
  }

  function drawGrid(context, x, y, grid) {
    const lines = grid.shape[0];
    context.strokeStyle = color("third");
    context.lineWidth = 0.8;
    context.beginPath();
    for (let line = 0; line < lines; line += 1) {
      for (const at of [(i) => line * lines + i, (i) => i * lines + line]) {
        for (let i = 0; i < lines; i += 1) {
          const [left, top] = [x(grid[2 * at(i)]), y(grid[2 * at(i) + 1])];
          if (i) context.lineTo(left, top);
          else context.moveTo(left, top);
        }
      }
    }
    context.stroke();
  }

  function drawArrows(context, x, y, fake, arrows, lengths, usual) {
    context.strokeStyle = color("ink");
    context.globalAlpha *= 0.55;
    context.lineWidth = 0.8;
    context.beginPath();
    lengths.forEach((length, index) => {
      const times = (LONG * it.view * Math.min(1, (LONGEST * usual) / length)) / usual;
      const [fromX, fromY] = [fake[2 * index], fake[2 * index + 1]];
      const [left, top] = [x(fromX + times * arrows[2 * index]), y(fromY + times * arrows[2 * index + 1])];
      const angle = Math.atan2(top - y(fromY), left - x(fromX));
      const head = Math.min(4, 0.4 * Math.hypot(top - y(fromY), left - x(fromX)));
      context.moveTo(x(fromX), y(fromY));
      context.lineTo(left, top);
      for (const turn of [2.6, -2.6]) {
        context.moveTo(left, top);
        context.lineTo(left + head * Math.cos(angle + turn), top + head * Math.sin(angle + turn));
      }
    });
    context.stroke();
  }
}

// Curves over the steps: [{label, color, points: [[step, value], …], range: [low, high], logarithmic}]. A curve with a range has a
// scale of its own, whose null ends are the data's; the others share one.
export function chart(canvas, lines) {
  const { context, width, height } = sized(canvas);
  const [left, right, top, bottom] = [8, 8, 22, 18];
  const lastStep = Math.max(1, ...lines.map(({ points }) => points.at(-1)?.[0] ?? 0));
  const shared = ends(lines.filter(({ range }) => !range).flatMap(({ points }) => points));
  context.font = "12px system-ui, sans-serif";
  context.strokeStyle = color("line");
  context.strokeRect(left, top, width - left - right, height - top - bottom);
  context.fillStyle = color("soft");
  context.fillText("0", left, height - 4);
  context.textAlign = "right";
  context.fillText(`step ${lastStep.toLocaleString("en")}`, width - right, height - 4);
  context.textAlign = "left";
  let words = left;
  const told = [];
  for (const { label, color: hue, points, range, logarithmic } of lines) {
    const own = range ? ends(points) : shared;
    const [low, high] = [range?.[0] ?? own[0], range?.[1] ?? own[1]];
    const scale = (value) => (logarithmic ? Math.log(Math.max(value, 1e-12)) : value);
    const span = scale(high) - scale(low) || 1;
    context.strokeStyle = context.fillStyle = color(hue);
    context.lineWidth = 1.2;
    context.beginPath();
    points.forEach(([step, value], index) => {
      const across = left + (step / lastStep) * (width - left - right);
      const down = top + ((scale(high) - scale(value)) / span) * (height - top - bottom);
      if (index) context.lineTo(across, down);
      else context.moveTo(across, down);
    });
    context.stroke();
    const text = points.length ? `${label} ${low.toPrecision(2)} to ${high.toPrecision(2)}` : label;
    context.fillText(text, words, top - 8);
    words += context.measureText(text).width + 14;
    if (points.length) told.push(`${label}, last ${points.at(-1)[1].toPrecision(4)}`);
  }
  canvas.setAttribute("aria-label", told.length ? `Curves over ${lastStep} steps: ${told.join("; ")}` : "Curves: no steps yet");
}

function ends(points) {
  let [low, high] = [Infinity, -Infinity];
  for (const [, value] of points) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return low <= high ? [low, high] : [0, 1];
}
