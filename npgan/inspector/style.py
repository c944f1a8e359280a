"""The page's style sheet and its one script: light and dark by the reader's setting, one column on a phone."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --page: #fbfaf7; --card: #ffffff; --ink: #1d2129; --soft: #5c6470; --line: #dcdfe4;
  --link: #0b62b0; --good: #14713d; --bad: #b3261e; --code: #f2f2ee; --accent: #0f6a8b;
  --c0: #c2410c; --c1: #0369a1; --c2: #15803d; --c3: #9333ea; --c4: #b45309; --c5: #0f766e; --c6: #be123c;
  --c7: #475569; }
@media (prefers-color-scheme: dark) { :root { --page: #14161a; --card: #1c1f25; --ink: #e6e8ec; --soft: #a0a8b4;
  --line: #333943;
  --link: #79b8ff; --good: #5fd08f; --bad: #ff8a80; --code: #111317; --accent: #63c5e6;
  --c0: #fb923c; --c1: #38bdf8; --c2: #4ade80; --c3: #c084fc; --c4: #fbbf24; --c5: #2dd4bf; --c6: #fb7185;
  --c7: #94a3b8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.25rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; color: var(--accent); }
p { max-width: 42rem; } a { color: var(--link); } .soft { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin: 1rem 0; }
button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: .4rem; padding: .3rem .8rem; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(max(8rem, 22%), 1fr)); gap: .6rem;
  margin: 1rem 0; }
dl.facts div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .75rem; }
dt { font-size: .8rem; color: var(--soft); } dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
details { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; margin: .35rem 0; }
summary { cursor: pointer; padding: .55rem .75rem; display: flex; flex-wrap: wrap; gap: .1rem .75rem;
  align-items: baseline; }
summary::marker, summary::-webkit-details-marker { display: none; content: ""; }
summary .n { color: var(--soft); min-width: 1.6rem; text-align: right; font-variant-numeric: tabular-nums; }
summary b { min-width: 11rem; } summary .math { flex: 1 1 14rem; font-size: .98rem; }
.mark { margin-left: auto; } .good { color: var(--good); } .bad { color: var(--bad); font-weight: bold; }
.inside { padding: 0 .9rem .9rem; border-top: 1px solid var(--line); }
.math { font-family: "STIX Two Math", "Cambria Math", "Noto Serif", "DejaVu Serif", Georgia,
  serif; }
.formula { font-size: 1.2rem; margin: .8rem 0 .4rem; } .math i { padding-right: .03em; } sub { line-height: 0;
  font-size: .72em; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .2rem .7rem .2rem 0; text-align: right; white-space: nowrap; } th { color: var(--soft);
  font-weight: normal; }
th:first-child, td:first-child { text-align: left; } tbody tr { border-top: 1px solid var(--line); }
tbody th { text-align: left; padding-top: .8rem; color: var(--accent); font-weight: bold; }
pre { background: var(--code); border-radius: .4rem; padding: .6rem .75rem; overflow-x: auto;
  font: .82rem/1.5 ui-monospace, monospace; }
pre .n { color: var(--soft); user-select: none; } code { font: .88em ui-monospace, monospace;
  overflow-wrap: anywhere; }
figure { margin: 1rem 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .75rem; }
figcaption { font-weight: 600; margin-bottom: .4rem; } figure > svg { width: 100%; height: auto; display: block; }
figure > svg.bars { max-width: 36rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 0 1rem; }
svg text { fill: var(--soft); font: 13px system-ui, sans-serif; } .grid { stroke: var(--line); }
  .curve { fill: none; stroke: var(--hue); stroke-width: 2; }
.dashed { stroke-dasharray: 6 4; } .legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .85rem; }
.key { display: inline-block; width: 1.2rem; border-top: 3px solid var(--hue); margin-right: .35rem; vertical-align: middle; }
.key.dashed { border-top-style: dashed; } .dot { stroke-width: 0; fill: var(--hue); }
.c0 { --hue: var(--c0); } .c1 { --hue: var(--c1); } .c2 { --hue: var(--c2); } .c3 { --hue: var(--c3); }
.c4 { --hue: var(--c4); } .c5 { --hue: var(--c5); } .c6 { --hue: var(--c6); } .c7 { --hue: var(--c7); }
.of-d { fill: var(--c1); } .of-g { fill: var(--c2); }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem; }
.pairs figure { margin: 0; } .pairs .two { display: flex; gap: .4rem; } .pixels { flex: 1; width: 50%;
  height: auto; display: block; }
.toy pre { white-space: pre; }
@media (max-width: 40rem) { table { font-size: .74rem; } th, td { padding-right: .4rem; } summary b { min-width: 0;
  } summary code { display: none; } summary .math { flex-basis: 100%; order: 9; } }
"""

SCRIPT = """
document.getElementById("open").addEventListener("click", (event) => {
  const all = document.querySelectorAll("details.op");
  const open = ![...all].every((each) => each.open);
  for (const each of all) each.open = open;
  event.target.textContent = open ? "Close all operations" : "Open all operations";
});
"""
