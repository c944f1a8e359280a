// Elements from text and attributes; nothing is ever parsed as HTML. (The policy forbids style attributes: set element.style.)

// element("button", {class: "x", "aria-label": "Play", onclick: f}, "text", child, …): a value of false or null leaves the attribute out.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// The array behind {"shape": […], "type": "float32", "data": base64} of play/arrays.py: a typed array with .shape.
export function array({ shape, type, data }) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const values = { float32: Float32Array, uint8: Uint8Array }[type];
  return Object.assign(new values(bytes.buffer), { shape });
}

// What a canvas draws with: the page's colors as they are now, by the name of the CSS variable.
export function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
