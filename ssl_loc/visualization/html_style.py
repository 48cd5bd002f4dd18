"""The style sheet of the report: system fonts, one column, tables and wide pictures that scroll on a phone."""

from __future__ import annotations

CSS = """
:root { --ink:#1d232b; --soft:#5b6673; --line:#e3e7ec; --back:#ffffff; --band:#f6f8fa; --accent:#0072b2;
  --best:#00694c; --mark:#fff8e6; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --ink:#e4e8ed; --soft:#9aa5b1; --line:#333b45; --back:#14181d; --band:#1d232b; --accent:#6bb5e8;
    --best:#4fd0a5; --mark:#3a321c; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 28px 24px 72px; }
header { border-bottom: 1px solid var(--line); padding-bottom: 14px; margin-bottom: 20px; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 44px 0 10px; letter-spacing: -.005em; scroll-margin-top: 12px; }
p { margin: 8px 0 12px; max-width: 74ch; overflow-wrap: anywhere; }
.soft { color: var(--soft); font-size: .925rem; }
nav { display: flex; flex-wrap: wrap; gap: 6px 8px; margin: 0 0 8px; }
nav a { color: var(--accent); text-decoration: none; font-size: .9rem; padding: 3px 10px; border: 1px solid var(--line);
  border-radius: 999px; background: var(--band); }
nav a:hover, nav a:focus { border-color: var(--accent); }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; margin: 12px 0 18px; }
/* A shadow at the right edge while there is more to scroll to; the first layer moves with the content and hides it. */
div.scroll { background: linear-gradient(to left, var(--back) 40%, transparent) right / 40px 100% no-repeat local,
  radial-gradient(farthest-side at 100% 50%, rgba(90,105,120,.45), transparent) right / 14px 100% no-repeat scroll; }
/* A picture would hide that shadow; multiplied with what is behind it, it shows it and stays as it is elsewhere. */
figure.wide .scroll { isolation: isolate; margin: 0; border: 1px solid var(--line); border-radius: 6px;
  background: linear-gradient(to left, #fff 40%, transparent) right / 60px 100% no-repeat local,
    linear-gradient(to left, rgba(40,50,60,.6), transparent) right / 28px 100% no-repeat scroll, #fff; }
figure.wide img { mix-blend-mode: multiply; border: 0; border-radius: 0; }
.tall { max-height: 34rem; overflow-y: auto; border: 1px solid var(--line); border-radius: 6px; }
.tall thead th { position: sticky; top: 0; }
table { border-collapse: collapse; font-size: .925rem; font-variant-numeric: tabular-nums; min-width: 320px; }
p.caption { margin: 18px 0 -4px; font-weight: 600; font-size: .95rem; overflow-wrap: anywhere; }
tr.marked td, tr.marked td:first-child { background: var(--mark); }
tr.muted td { color: var(--soft); font-style: italic; }
th, td { padding: 6px 14px 6px 10px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; background: var(--band); vertical-align: bottom; min-width: 4.5em;
  max-width: 10em; }
td.num, th.num { text-align: right; }
td.num { white-space: nowrap; }
td { overflow-wrap: anywhere; }
/* Words break in narrow columns only as the last resort: a table rather scrolls. */
td:not(.num) { min-width: 9.5em; }
td.long { min-width: 26em; }
td:first-child { font-weight: 500; overflow-wrap: normal; min-width: 7.5em; }
/* The names stay in sight while the numbers scroll. */
th:first-child, td:first-child { position: sticky; left: 0; z-index: 1; }
td:first-child { background: var(--back); }
.tall thead th { z-index: 2; } .tall thead th:first-child { z-index: 3; }
td.best { font-weight: 700; color: var(--best); }
figure { margin: 16px 0 26px; }
figure img { display: block; max-width: 100%; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: 6px; }
figure.wide img { min-width: var(--least); }
div.gallery { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start; margin: 16px 0 8px; }
.gallery figure { margin: 0; max-width: calc((100% - 14px * (var(--columns) - 1)) / var(--columns)); }
figcaption { color: var(--soft); font-size: .9rem; margin-top: 8px; max-width: 84ch; }
details { margin: 8px 0 14px; border: 1px solid var(--line); border-radius: 6px; padding: 8px 12px;
  background: var(--band); }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font: .8rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  margin: 8px 0 2px; }
footer { margin-top: 56px; border-top: 1px solid var(--line); padding-top: 12px; color: var(--soft);
  font-size: .85rem; }
@media (max-width: 640px) {
  main { padding: 18px 16px 56px; } body { font-size: 15px; } h1 { font-size: 1.4rem; } h2 { margin-top: 34px; }
  th, td { padding: 5px 10px 5px 6px; } .gallery figure { max-width: 100%; }
}
@media print {
  :root { --ink:#000; --soft:#444; --line:#ccc; --back:#fff; --band:#f6f8fa; --accent:#0072b2; --best:#00694c;
    --mark:#fff8e6; color-scheme: light; }
  nav { display: none; } main { max-width: none; padding: 0; } body { font-size: 11pt; }
  .scroll { overflow: visible; max-height: none; } table { font-size: 9pt; min-width: 0; }
  th, td { position: static !important; padding: 3pt 6pt; }
  td.long { min-width: 0; }
  figure, tr { break-inside: avoid; } h2, p.caption { break-after: avoid; } figure.wide img { min-width: 0; }
}
"""
