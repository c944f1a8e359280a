// Mend the backward: the list, what is to be read, an editor, and what the gradient checker says of what was typed.
import { element } from "./dom.js";

export const title = "Mend the backward";

const INDENT = "    ";
const TOKEN = /("""[\s\S]*?"""|"[^"\n]*"|'[^'\n]*'|#[^\n]*)|\b(def|return|if|else|for|in|is|not|and|or|None|True|False|lambda|while|raise|import|from)\b/g;

export function start(panel, send) {
  let rows = [];
  let puzzle = null; // the one that is open
  let told = 0; // hints of it
  let checking = false;
  const kept = (number) => `npgan-puzzle-${number}`; // what was typed, as long as this tab of the browser is open

  // ---- the list
  const count = element("p", { class: "soft", id: "puzzles-count" });
  const list = element("ol", { class: "list", "aria-label": "Puzzles" });

  // ---- the puzzle
  const heading = element("h2", { id: "puzzles-heading", tabindex: -1 });
  const formula = element("p", { class: "formula" });
  const above = element("pre", { class: "code", tabindex: 0, "aria-label": "To be read: what the function is the backward of" });
  const numbers = element("pre", { class: "lines", "aria-hidden": "true" });
  const editor = element("textarea", {
    id: "puzzles-editor", spellcheck: "false", autocomplete: "off", autocapitalize: "off", wrap: "off",
    "aria-describedby": "puzzles-keys", oninput: typed, onkeydown: key, onscroll: () => { numbers.scrollTop = editor.scrollTop; },
  });
  const press = (id, text, order, more = {}) => element("button", { type: "button", id: `puzzles-${id}`, onclick: order, ...more }, text);
  const check = press("check", "Check", run, { class: "main", "aria-keyshortcuts": "Control+Enter", title: "Ctrl+Enter" });
  const hint = press("hint", "Hint", () => send({ do: "hint", number: puzzle.number, which: told }));
  const afresh = press("afresh", "Start afresh", () => { write(puzzle.broken); editor.focus(); });
  const ask = press("solution", "Solution", () => confirm(confirmation.hidden), { "aria-expanded": "false", "aria-controls": "puzzles-confirmation" });
  const next = press("next", "Next puzzle", () => open(rows[puzzle.number % rows.length].number, true));
  const show = press("show", "Show the solution", () => { confirm(false); send({ do: "solution", number: puzzle.number }); });
  const not = press("not", "Not yet", () => { confirm(false); ask.focus(); });
  const confirmation = element("div", { class: "card bar", id: "puzzles-confirmation", role: "group", "aria-label": "Solution", hidden: true },
    element("span", {}, "The textbook's own function is the answer. Show it?"), show, not);

  // ---- what is said of it
  const hints = element("ul", { class: "hints", "aria-live": "polite", "aria-label": "Hints" });
  const line = element("p", { class: "verdict", id: "puzzles-verdict", role: "status" });
  const findings = element("div", { class: "findings", id: "puzzles-findings" });
  const solution = element("div", { class: "findings", id: "puzzles-answer", hidden: true });
  const wrong = element("p", { class: "bad", id: "puzzles-error", role: "alert", hidden: true });

  panel.append(
    element("nav", { "aria-label": "Puzzles" }, count, list),
    element("article", { "aria-labelledby": "puzzles-heading" },
      heading, formula,
      element("h3", {}, "Above it, to be read"), above,
      element("h3", {}, element("label", { for: "puzzles-editor" }, "To be mended")),
      element("div", { class: "editor" }, numbers, editor),
      element("p", { class: "soft", id: "puzzles-keys" }, "Ctrl+Enter checks. Tab indents, Shift+Tab takes back; Esc, then Tab leaves the editor. All names of the function's module are there, such as np."),
      element("div", { class: "bar" }, check, hint, ask, afresh, next),
      confirmation, wrong, line, findings, hints, solution));

  // Comments, strings and keywords in colors of their own.
  function code(text) {
    const parts = [];
    let from = 0;
    for (const found of text.matchAll(TOKEN)) {
      parts.push(text.slice(from, found.index), element("span", { class: found[1] ? "string" : "keyword" }, found[0]));
      from = found.index + found[0].length;
    }
    return [...parts, text.slice(from)];
  }

  function open(number, focus = false) {
    sessionStorage.setItem("npgan-puzzle", number);
    if (focus) heading.dataset.focus = "yes";
    send({ do: "open", number });
  }

  function opened(message) {
    puzzle = message;
    told = 0;
    editor.maxLength = puzzle.largest;
    heading.textContent = `${puzzle.number}. ${puzzle.function}`;
    formula.textContent = puzzle.formula.replace(/(\S)\n(?=\S)/g, "$1 ");
    above.replaceChildren(...code(puzzle.above));
    write(sessionStorage.getItem(kept(puzzle.number)) ?? puzzle.broken);
    for (const each of [hints, findings]) each.replaceChildren();
    line.textContent = "";
    solution.hidden = wrong.hidden = true;
    next.classList.remove("main");
    confirm(false);
    showList();
    showButtons();
    if (heading.dataset.focus) heading.focus();
    delete heading.dataset.focus;
  }

  function showList() {
    const solved = rows.filter((row) => row.title !== null).length;
    count.textContent = `${solved} of ${rows.length} solved`;
    const focused = document.activeElement?.dataset?.number;
    list.replaceChildren(...rows.map((row) => element("li", {},
      element("button", { type: "button", "data-number": row.number, "aria-current": row.number === puzzle?.number && "true", title: row.title, onclick: () => open(row.number, true) },
        element("span", { class: "number" }, `${row.number}`), element("span", { class: "name" }, row.name),
        element("span", { class: "good" }, row.title === null ? "" : element("span", { "aria-hidden": "true" }, "✓"), row.title === null ? "" : element("span", { class: "unseen" }, "solved"))))));
    if (focused) list.querySelector(`[data-number="${focused}"]`).focus();
    const current = list.querySelector("[aria-current]");
    if (current) list.scrollTop = current.offsetTop - list.offsetTop - list.clientHeight / 3;
  }

  function showButtons() {
    check.textContent = checking ? "Checking …" : "Check";
    check.disabled = checking || !puzzle;
    for (const button of [ask, afresh, next]) button.disabled = !puzzle;
    hint.disabled = !puzzle || told >= puzzle.hints;
    hint.textContent = told ? "Another hint" : "Hint";
  }

  function confirm(asked) {
    confirmation.hidden = !asked;
    ask.setAttribute("aria-expanded", asked);
    if (asked) not.focus();
  }

  // ---- the editor
  function write(text) {
    editor.value = text;
    typed();
  }

  function typed() {
    if (puzzle) sessionStorage.setItem(kept(puzzle.number), editor.value);
    const lines = editor.value.split("\n").length;
    numbers.textContent = Array.from({ length: lines }, (_, index) => index + 1).join("\n");
    editor.rows = Math.min(Math.max(lines + 1, 6), 30);
  }

  let leave = false; // Esc was pressed: Tab is the browser's again
  editor.addEventListener("blur", () => { leave = false; });

  function key(event) {
    if (event.key === "Escape") leave = true;
    if (event.isComposing || event.ctrlKey || event.altKey || event.metaKey || !["Tab", "Enter"].includes(event.key)) return;
    if (event.key === "Tab" && leave) return;
    event.preventDefault();
    leave = false;
    const { selectionStart: from, selectionEnd: to, value } = editor;
    const first = value.lastIndexOf("\n", from - 1) + 1;
    if (event.key === "Enter") {
      const before = value.slice(first, from);
      insert(from, to, `\n${before.match(/^ */)[0]}${/:\s*$/.test(before) ? INDENT : ""}`);
    } else if (from === to && !event.shiftKey) {
      insert(from, to, INDENT);
    } else {
      const end = value.indexOf("\n", Math.max(to - 1, from));
      const last = end < 0 ? value.length : end;
      const lines = value.slice(first, last).split("\n").map((each) => (event.shiftKey ? each.replace(/^ {1,4}/, "") : INDENT + each)).join("\n");
      const at = Math.max(first, from - (last - first - lines.length));
      if (lines !== value.slice(first, last)) insert(first, last, lines);
      if (from === to) editor.setSelectionRange(at, at);
      else editor.setSelectionRange(first, first + lines.length);
    }
  }

  // By the command, and not by setting the value, so that Ctrl+Z takes it back.
  function insert(from, to, text) {
    editor.setSelectionRange(from, to);
    if (!document.execCommand(text ? "insertText" : "delete", false, text)) editor.setRangeText(text, from, to, "end");
    typed();
  }

  // ---- the check
  function run() {
    if (checking || !puzzle) return;
    checking = true;
    wrong.hidden = true;
    line.textContent = "Checking …";
    line.className = "verdict soft";
    findings.replaceChildren();
    showButtons();
    send({ do: "check", number: puzzle.number, text: editor.value });
  }

  function checked({ solved, line: text, diagnoses, printed }, bug) {
    line.textContent = solved ? text : `Not yet: ${text}`;
    line.className = `verdict ${solved ? "good" : "bad"}`;
    findings.replaceChildren(
      ...(printed ? [element("h3", {}, "It printed"), element("pre", {}, printed)] : []),
      ...diagnoses.map(finding),
      ...(bug ? [element("p", {}, `It was: ${bug}.`)] : []));
    next.classList.toggle("main", solved);
  }

  function finding({ op, found, worst, hint, where, source }) {
    const facts = [["worst", worst], ["hint", hint], ["where", where], ["formula", source?.formula], ["source", source && `${source.file}:${source.line}`]];
    return element("section", { class: "card finding", "aria-label": `npgan.${op}` },
      element("h3", {}, `npgan.${op}`), element("p", {}, element("strong", {}, found)),
      element("dl", {}, ...facts.filter(([, text]) => text).flatMap(([name, text]) => [element("dt", {}, name), element("dd", { class: name }, text)])),
      source ? element("pre", { tabindex: 0, "aria-label": "The code" }, ...source.code.flatMap(([number, text]) => [element("span", { class: "at" }, `${number}`.padStart(4)), `  ${text}\n`])) : "");
  }

  function receive(message) {
    if (message.error) {
      wrong.textContent = message.error;
      wrong.hidden = false;
      checking = false;
      if (line.textContent === "Checking …") line.textContent = "";
      showButtons();
    } else if (message.list) {
      rows = message.list;
      showList();
      const last = rows.find((row) => `${row.number}` === sessionStorage.getItem("npgan-puzzle"));
      if (!puzzle) open((last ?? rows.find((row) => row.title === null) ?? rows[0]).number);
    } else if (message.puzzle) {
      opened(message.puzzle);
    } else if (message.verdict) {
      checking = false;
      if (message.number === puzzle?.number) checked(message.verdict, message.title);
      showButtons();
    } else if (message.number === puzzle?.number && message.hint) {
      told += 1;
      hints.append(element("li", {}, message.hint));
      showButtons();
    } else if (message.number === puzzle?.number && message.solution) {
      solution.replaceChildren(element("h3", { id: "puzzles-own", tabindex: -1 }, "The textbook's own"), element("pre", { class: "code", tabindex: 0, "aria-labelledby": "puzzles-own" }, ...code(message.solution)));
      solution.hidden = false;
      solution.firstChild.focus();
    }
  }

  panel.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      run();
    }
  });
  showButtons();
  return { receive, shown: () => send({ do: "list" }) };
}
