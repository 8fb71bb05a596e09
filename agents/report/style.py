"""Style sheet of the report, for light and dark screens."""

from __future__ import annotations

from collections.abc import Sequence

from agents.report.plotting import COLOURS, ON_DARK


def _series(colours: Sequence[str]) -> str:
    """Return CSS variables of the charts' colours."""
    return " ".join(f"--series-{i}: {colour};" for i, colour in enumerate(colours))


SERIES = f"""
:root {{ {_series(COLOURS)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_series(ON_DARK)} }} }}
"""
"""Colours of the charts' series; :func:`~agents.report.html_parts.inline_svg` refers to them."""

PAGE = """
:root {
  color-scheme: light dark;
  --ink: #1b1f24; --soft: #5b6470;
  --page: #f6f7f9; --card: #ffffff; --line: #d9dde3; --mark: #eef3fb;
  --add: #1f7a4d; --leave: #b3364a; --undecided: #9a6b00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e9ee; --soft: #a2abb8;
    --page: #111418; --card: #191d23; --line: #333a44; --mark: #222c3b;
    --add: #55c28a; --leave: #f0788a; --undecided: #e0b04c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main, header, footer { max-width: 1040px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 24px; }
footer { padding-bottom: 32px; }
h1 { font-size: 1.3rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 0 0 8px; }
h3 { font-size: 1rem; margin: 16px 0 6px; }
p { margin: 8px 0; max-width: 75ch; }
nav { font-size: 0.9rem; margin: 8px 0 0; display: flex; flex-wrap: wrap; gap: 2px 14px; }
nav a { color: var(--series-1); text-decoration: none; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 16px; margin: 16px 0;
}
pre {
  overflow-x: auto; font-size: 0.82rem; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0;
}
.soft { color: var(--soft); font-size: 0.9rem; }
.wide { overflow-x: auto; -webkit-overflow-scrolling: touch; }

.recommendation { border-left: 6px solid var(--undecided); }
.recommendation.add { border-left-color: var(--add); }
.recommendation.leave { border-left-color: var(--leave); }
.recommendation > p:first-child {
  font-size: 1.25rem; line-height: 1.35; font-weight: 600; margin-top: 0;
}

table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td {
  padding: 5px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
}
th:first-child, td:first-child { text-align: left; }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 500; }
tr.ours { background: var(--mark); }
tr.ours th { font-weight: 700; }
table.facts { width: 100%; }
table.facts th { white-space: normal; overflow-wrap: break-word; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }

figure { margin: 12px 0; }
figcaption { font-size: 0.9rem; color: var(--soft); margin-bottom: 4px; max-width: 75ch; }
svg.chart {
  display: block; height: auto; width: 100%;
  fill: currentColor; stroke-linejoin: round; stroke-linecap: butt;
}

.images { display: flex; flex-wrap: wrap; gap: 6px; list-style: none; margin: 0; padding: 0; }
.images li {
  font-size: 0.72rem; line-height: 1.25; color: var(--soft); overflow-wrap: anywhere;
}
.images img { display: block; width: 72px; height: auto; border-radius: 3px; }
.images.named li, .images.named img { width: 91px; }
.images b { color: var(--ink); }
"""
"""Layout and colours of the page."""

STYLE = SERIES + PAGE
"""The whole style sheet."""
