// The frame: one web socket, a tab for each part that the server has, light and dark.
import { element } from "./dom.js";

const tabs = document.getElementById("tabs");
const panels = document.getElementById("panels");
const connection = document.getElementById("connection");
const parts = new Map(); // name → {tab, panel, module, part}
let active = null;

const socket = new WebSocket(`ws://${location.host}${location.pathname}ws`);
socket.addEventListener("message", ({ data }) => {
  const { part: name, ...message } = JSON.parse(data);
  if (name === "page") list(message.parts);
  else parts.get(name)?.part?.receive(message);
});
socket.addEventListener("close", () => {
  connection.textContent = "npgan play has stopped: start it again and open the new address.";
  connection.hidden = false;
  panels.inert = true;
});

async function list(names) {
  for (const name of names) {
    const module = await import(`./${name}.js`);
    const style = element("link", { rel: "stylesheet", href: `${name}.css` });
    const styled = new Promise((done) => style.addEventListener("load", done));
    document.head.append(style);
    const tab = element(
      "button",
      { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`, onclick: () => open(name) },
      module.title,
    );
    const panel = element("section", { role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}`, hidden: true });
    tabs.append(tab);
    panels.append(panel);
    await styled;
    parts.set(name, { tab, panel, module, part: null });
  }
  connection.hidden = true;
  const wanted = location.hash.slice(1);
  if (parts.size) open(parts.has(wanted) ? wanted : names[0]);
}

function open(name) {
  if (name === active) return;
  parts.get(active)?.part?.hidden?.();
  active = name;
  for (const [each, { tab, panel }] of parts) {
    tab.setAttribute("aria-selected", each === name);
    tab.tabIndex = each === name ? 0 : -1;
    panel.hidden = each !== name;
  }
  const opened = parts.get(name);
  opened.part ??= opened.module.start(opened.panel, (message) => {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ part: name, ...message }));
  });
  opened.part.shown?.();
  history.replaceState(null, "", `#${name}`);
}

// As in the ARIA practices: arrows, Home and End move between tabs.
tabs.addEventListener("keydown", (event) => {
  const names = [...parts.keys()];
  const at = names.indexOf(active);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  open(names[(to + names.length) % names.length]);
  parts.get(active).tab.focus();
});

// Light and dark: the system's choice until the button is pressed. Canvases draw again on the event "theme".
const system = matchMedia("(prefers-color-scheme: dark)");
const button = document.getElementById("theme");

function theme(chosen) {
  document.documentElement.dataset.theme = chosen;
  button.textContent = chosen === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", `Switch to the ${chosen === "dark" ? "light" : "dark"} theme`);
  dispatchEvent(new Event("theme"));
}

const kept = () => localStorage.getItem("npgan-theme");
theme(kept() ?? (system.matches ? "dark" : "light"));
system.addEventListener("change", () => kept() ?? theme(system.matches ? "dark" : "light"));
button.addEventListener("click", () => {
  localStorage.setItem("npgan-theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  theme(kept());
});
