"""A comparison and a selection as one HTML file that needs nothing else.  Needs matplotlib: ``pip install "synthselect[report]"``."""

from __future__ import annotations

import base64
import io
import platform
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from agents.evaluation.comparison import Comparison
from agents.report import charts, image_rows
from agents.report.flaw_detection import flaw_detection_metrics
from agents.report.plotting import COLOURS, ON_DARK, save_figure
from agents.report.tables import (
    comparison_cells,
    comparison_latex,
    comparison_markdown,
    comparison_table,
    comparison_title,
    drawn_again,
    recommendation,
    spread,
)
from synthselect_env import FeatureBank, Selection
from synthselect_env.data import decode
from synthselect_env.data.flaws import FLAWS
from synthselect_env.storage import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TILE = 96
"""Side of a square with as many pixels as a image in the report has at most: PCam's patches stay as they are."""
JPEG_QUALITY = 85
TILES = 12
"""Images drawn a row, as many as a desktop shows side by side."""
WANTED = 10
"""Most and least wanted candidates shown a class, which are wider for their ids."""
PHONE = 400
"""Width in pixels below which a chart shrinks to the screen."""
PACKAGES = ("synthselect", "torch", "numpy", "gymnasium", "stable-baselines3", "matplotlib")
"""Whose versions a report states when the configuration doesn't."""

SERIES = [
    " ".join(f"--series-{i}: {colour};" for i, colour in enumerate(colours))
    for colours in (COLOURS, ON_DARK)
]
STYLE = (
    f":root {{ {SERIES[0]} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {SERIES[1]} }} }}"
)
STYLE += """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6470; --page: #f6f7f9; --card: #ffffff; --line: #d9dde3; --mark: #eef3fb;
  --add: #1f7a4d; --leave: #b3364a; --undecided: #9a6b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #a2abb8; --page: #111418; --card: #191d23; --line: #333a44;
  --mark: #222c3b; --add: #55c28a; --leave: #f0788a; --undecided: #e0b04c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main, header, footer { max-width: 1040px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 24px; }
h1 { font-size: 1.3rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 0 0 8px; }
h3 { font-size: 1rem; margin: 16px 0 6px; }
p { margin: 8px 0; max-width: 75ch; }
nav { font-size: 0.9rem; margin: 8px 0 0; display: flex; flex-wrap: wrap; gap: 2px 14px; }
nav a { color: var(--series-1); text-decoration: none; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 16px; margin: 16px 0; }
.soft { color: var(--soft); font-size: 0.9rem; }
.recommendation { border-left: 6px solid var(--undecided); }
.recommendation.add { border-left-color: var(--add); }
.recommendation.leave { border-left-color: var(--leave); }
.recommendation > p:first-child { font-size: 1.25rem; line-height: 1.35; font-weight: 600; margin-top: 0; }
.wide { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
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
svg.chart { display: block; height: auto; width: 100%; fill: currentColor; stroke-linejoin: round; stroke-linecap: butt; }
.tiles { display: flex; flex-wrap: wrap; gap: 6px; list-style: none; margin: 0; padding: 0; }
.tiles li { font-size: 0.72rem; line-height: 1.25; color: var(--soft); overflow-wrap: anywhere; }
.tiles img { display: block; width: 72px; height: auto; border-radius: 3px; }
.tiles.named li, .tiles.named img { width: 91px; }
.tiles b { color: var(--ink); }
pre { overflow-x: auto; font-size: 0.82rem; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
footer { padding-bottom: 32px; }
"""


def write_report(
    path: str | Path,
    bank: FeatureBank,
    comparison: Comparison,
    ours: str,
    *,
    selection: Selection | None = None,
    history: Mapping[str, np.ndarray] | None = None,
    configuration: Mapping[str, object] | None = None,
    others: Sequence[Comparison] = (),
    seed: int = 0,
) -> Path:
    """Write what a selection is worth and what it looks like: one HTML file without references to anything outside.

    :param path: an .html file; or a directory, for ``report.html``, each figure as PNG and SVG in ``figures``, and each comparison as CSV,
        LaTeX, Markdown and text in ``tables``
    :param bank: what was selected from
    :param comparison: what the recommendation is about; must have "none" and ``ours``
    :param ours: name of the selector in question
    :param selection: the candidates in question; None for those of the first round
    :param history: of :func:`~agents.report.charts.read_history`, where there was a training run
    :param configuration: JSON-able facts on how the selection was made, e.g. a run's ``config.json``
    :param others: comparisons under other classifiers, a table each
    :param seed: of the images that are drawn
    :return: the HTML file
    :raises ValueError: when "none" or ``ours`` was not compared, or the selection is not of this bank
    :raises ImportError: without matplotlib
    """
    path = Path(path)
    selection = (
        comparison.of(ours)[0].selection
        if selection is None and ours in comparison.selectors
        else selection
    )
    decision, sentence = recommendation(
        comparison, ours, selection
    )  # before anything costly: it refuses what cannot be judged
    assert selection is not None
    if len(selection) != len(bank.candidates):
        raise ValueError(
            f"the selection is of {len(selection):,} candidates, {bank.source} has {len(bank.candidates):,}"
        )
    drawn = _charts(bank, comparison, ours, selection, history, seed)
    page = _page(
        bank, comparison, ours, selection, (decision, sentence), drawn, configuration, others, seed
    )
    file = path if path.suffix.lower() in (".html", ".htm") else path / "report.html"
    if file != path:
        for name, figure in (drawn | _picture_figures(bank, selection, seed)).items():
            save_figure(figure, path / "figures" / f"{name}.png")
            save_figure(figure, path / "figures" / f"{name}.svg")
        taken: Counter[str] = Counter()
        for judged in (comparison, *others):
            name = f"comparison-{re.sub(r'[^A-Za-z0-9_.-]+', '-', judged.classifier)}"
            taken[name] += 1  # one architecture may have been trained in two ways
            stem = path / "tables" / (name if taken[name] == 1 else f"{name}-{taken[name]}")
            judged.save(stem.with_name(f"{stem.name}.csv"))
            for suffix, form in (
                ("tex", comparison_latex),
                ("md", comparison_markdown),
                ("txt", comparison_table),
            ):
                with atomic_write(stem.with_name(f"{stem.name}.{suffix}")) as temporary:
                    temporary.write_text(f"{form(judged)}\n", encoding="utf-8")
    with atomic_write(file) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return file


def _ranks(selection: Selection) -> bool:
    """Whether the scores say more than that all candidates are alike."""
    return len(selection) > 1 and np.ptp(selection.scores) > 0


def _charts(
    bank: FeatureBank,
    comparison: Comparison,
    ours: str,
    selection: Selection,
    history: Mapping[str, np.ndarray] | None,
    seed: int,
) -> dict[str, Figure]:
    """The charts that there is something to draw in, by file name."""
    rivals = [
        name for name in ("centroid", "random") if name in comparison.selectors and name != ours
    ]
    beside = {ours: selection} | {name: comparison.of(name)[0].selection for name in rivals[:1]}
    drawn = {
        "gap": charts.gap_chart(comparison),
        "selection_rates": charts.selection_rates(bank, comparison),
        "centroid_distances": charts.centroid_histogram(bank, beside),
    }
    if history and any(
        np.isfinite(history[name]).any() for name in charts.CURVES if name in history
    ):
        drawn["learning_curves"] = charts.learning_curves(history, len(bank.candidates))
    if bank.n_features > 1 and len(bank.candidates):
        drawn["feature_map"] = charts.feature_map(bank, selection, seed)
    if bank.candidates.flaw is not None and (bank.candidates.flaw == 0).any():
        ranked = {ours: selection} | {
            n: comparison.of(n)[0].selection
            for n in comparison.selectors
            if n not in (ours, "random", "oracle")
        }
        ranked = {name: one for name, one in ranked.items() if _ranks(one)}
        if ranked:
            drawn["discovery_curve"] = charts.discovery_curve(ranked, bank.candidates.flaw)
    return drawn


def _picture_figures(bank: FeatureBank, selection: Selection, seed: int) -> dict[str, Figure]:
    """The strips of images as figures, by file name; none where the bank has no images."""
    drawn = {}
    if bank.candidates.images is not None:
        drawn["kept_and_discarded"] = image_rows.kept_and_discarded(bank, selection, seed)
        if bank.train.images is not None:
            drawn["real_and_candidates"] = image_rows.real_and_candidates(bank, seed)
        if _ranks(selection):
            drawn["most_and_least_wanted"] = image_rows.most_and_least_wanted(bank, selection)
    return drawn


def _page(
    bank: FeatureBank,
    comparison: Comparison,
    ours: str,
    selection: Selection,
    judgement: tuple[str, str],
    drawn: Mapping[str, Figure],
    configuration: Mapping[str, object] | None,
    others: Sequence[Comparison],
    seed: int,
) -> str:
    """The whole document."""
    sections: dict[str, tuple[str, str]] = {}  # anchor to title and content

    def chart(name: str, caption: str) -> str:
        return (
            f"<figure><figcaption>{escape(caption)}</figcaption>{inline_svg(drawn[name], name, caption)}</figure>"
            if name in drawn
            else ""
        )

    tables = [
        f"<h3>{escape(comparison_title(judged))}</h3>{html_table(comparison_cells(judged), ours)}"
        for judged in (comparison, *others)
    ]
    rounds = len(comparison.of(ours))
    note = f"Mean ± standard deviation over {rounds} rounds." if rounds > 1 else "One round."
    note += f" Gaps and gains are in points of accuracy; a gain's 95 % interval is a paired bootstrap over {drawn_again(comparison)}."
    gap = chart(
        "gap",
        "Accuracy on the validation split, which rewards are measured on, and on the test split, which decided nothing; beside them the "
        "gap in points. Pale dots are rounds.",
    )
    sections["comparison"] = (
        "Comparison",
        f"{''.join(tables)}<p class='soft'>{escape(note)}</p>{gap}",
    )
    if "learning_curves" in drawn:
        caption = "What the training run recorded: each update (grey), and its moving average."
        sections["learning"] = "Learning curves", chart("learning_curves", caption)
    sections["selection"] = (
        "What was kept",
        (
            chart(
                "selection_rates",
                "Share of each class's candidates that each selector keeps, mean over rounds.",
            )
            + chart(
                "centroid_distances",
                "How far candidates lie from the centroid of their class's real training features.",
            )
            + chart(
                "feature_map",
                "Candidates and real training pictures in the plane of their features' first two principal components.",
            )
        ),
    )
    real, kept = (
        image_rows.real_strips(bank, seed, TILES),
        image_rows.kept_strips(bank, selection, seed, TILES),
    )
    by_class = [
        strip for i in range(0, len(real), 2) for strip in (*real[i : i + 2], *kept[i : i + 2])
    ]
    if strips := _strips(by_class):
        sections["pictures"] = "Pictures", f"<p class='soft'>Drawn at random.</p>{strips}"
    if _ranks(selection):
        sections["wanted"] = (
            "Most and least wanted",
            (
                "<p class='soft'>The candidates of each class with the highest and the lowest scores, with their ids.</p>"
                + _strips(image_rows.wanted_strips(bank, selection, WANTED), selection)
            ),
        )
    if bank.candidates.flaw is not None:
        curve = chart(
            "discovery_curve",
            "Share of the sound candidates found by inspecting candidates in the order of their scores. A dot marks what was kept.",
        )
        sections["truth"] = (
            "Known truth",
            _truth(bank.candidates.flaw, comparison, ours, selection) + curve,
        )
    sections["bank"] = (
        "Bank",
        f"<pre>{escape(bank.describe().replace(bank.source, _source(bank)))}</pre>",
    )
    facts = [
        ["selector", ours],
        ["classifier", comparison.classifier],
        ["rounds", str(rounds)],
        *_flat(configuration or {}),
    ]
    if "versions" not in (configuration or {}):
        facts += _versions()
    sections["configuration"] = (
        "Configuration and versions",
        html_table([["", ""], *facts], kind="facts"),
    )

    decision, sentence = judgement
    links = "".join(
        f'<a href="#{anchor}">{escape(title)}</a>' for anchor, (title, _) in sections.items()
    )
    body = "".join(
        f'<section id="{anchor}"><h2>{escape(title)}</h2>{content}</section>'
        for anchor, (title, content) in sections.items()
    )
    first = selection is comparison.of(ours)[0].selection
    listed = (
        " Gains are means over rounds; the candidates shown are those of the first one."
        if rounds > 1 and first
        else ""
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(f'{ours} on {_source(bank)}')}</title><style>{STYLE}</style></head>\n<body><header>"
        f"<h1>Synthetic sample selection: {escape(ours)} on {escape(_source(bank))}</h1><nav>{links}</nav></header>\n<main>"
        f'<section class="recommendation {decision}"><p>{escape(sentence)}</p>'
        f"<p class='soft'>{escape(comparison_title(comparison))}.{listed}</p></section>\n{body}</main>\n"
        "<footer class='soft'>Made by SynthSelect after Ye, Xue et al., Synthetic Sample Selection via Reinforcement Learning, MICCAI 2020 "
        "(arXiv 2008.11331). Not a medical device.</footer></body></html>\n"
    )


def _source(bank: FeatureBank) -> str:
    """The bank's name, without the folders of the machine that it lay on."""
    return Path(bank.source).stem


def html_table(
    rows: Sequence[Sequence[str]], ours: str | None = None, kind: str = "figures"
) -> str:
    """A table that scrolls where the screen is narrow.

    :param rows: heads of the columns, then the rows; empty heads are left out
    :param ours: name of the row to set off
    :param kind: class of the table
    """
    head = (
        f"<thead><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in rows[0])}</tr></thead>"
        if any(rows[0])
        else ""
    )
    lines = []
    for row in rows[1:]:
        mark = ' class="ours"' if row[0] == ours else ""
        lines.append(
            f"<tr{mark}><th>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        )
    return f'<div class="wide"><table class="{kind}">{head}<tbody>{"".join(lines)}</tbody></table></div>'


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """A figure as SVG for the middle of an HTML file: transparent, black as the text's colour, series in the page's colours.

    :param figure: whatever is black on it, and the :data:`~agents.report.plotting.COLOURS`, follow the page
    :param name: unique in the page
    :param label: what it shows, for those who don't see it
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", dpi=150, transparent=True, metadata={"Date": None})
    svg = re.sub(
        r"<metadata>.*?</metadata>",
        "",
        buffer.getvalue()[buffer.getvalue().index("<svg") :],
        flags=re.DOTALL,
    )
    svg = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL
    )  # it would hold for the whole page
    svg = re.sub(r'(<g) id="[^"]*"', r"\1", svg)  # figure_1, axes_1: in every figure
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg).replace("xlink:href", "href")
    svg = re.sub(
        r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg
    )  # no wider than the font that the layout was made with
    svg = svg.replace("stroke: #000000", "stroke: currentColor")
    for i, colour in enumerate(COLOURS):
        svg = svg.replace(f": {colour}", f": var(--series-{i})")
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    # in points; at as many pixels, or a little fewer, text is still legible: wider charts scroll on a phone
    wide = float(box[1].split()[2])
    size = f"min-width: {wide if wide > PHONE else 0:.0f}px; max-width: {1.6 * wide:.0f}px"
    start = f'<svg class="chart" role="img" aria-label="{escape(label)}" viewBox="{box[1]}" style="{size}">'
    return f'<div class="wide">{re.sub(r"<svg[^>]*>", lambda _: start, svg, count=1).strip()}</div>'


def data_uri(picture: np.ndarray) -> str:
    """A image as a JPEG in a data URI.

    :param image: uint8 (h, w, 3)
    """
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _strips(strips: Sequence[image_rows.Strip], named: Selection | None = None) -> str:
    """Rows of images; where the bank has none, of the names and scores that stand under them."""
    parts = []
    for title, split, positions in strips:
        if split.images is None and named is None:
            continue
        tiles: Sequence[np.ndarray | None] = [None] * len(positions)
        if split.images is not None and len(positions):
            tall, wide = split.image_size
            scale = min(1.0, TILE / (tall * wide) ** 0.5)
            tiles = list(
                decode(
                    split.images[positions],
                    (max(1, round(scale * tall)), max(1, round(scale * wide))),
                )
            )  # type: ignore[index]
        items = "".join(_tile(image_grid, int(i), named) for image_grid, i in zip(tiles, positions))
        kind = "tiles named" if named else "tiles"
        parts.append(f'<h3>{escape(title)}</h3><ul class="{kind}">{items}</ul>')
    return "".join(parts)


def _tile(image_grid: np.ndarray | None, position: int, named: Selection | None) -> str:
    picture = "" if image_grid is None else f'<img alt="" src="{data_uri(image_grid)}">'
    caption = (
        ""
        if named is None
        else f"<b>{named.scores[position]:.3g}</b> {escape(named.ids[position])}"
    )
    return f"<li>{picture}{caption}</li>"


def _truth(flaw: np.ndarray, comparison: Comparison, ours: str, selection: Selection) -> str:
    """How well each selector finds the sound candidates, and how many of each flaw ours keeps."""
    rows = [["selection", "AUC of the scores", "precision", "recall", "F1"]]
    for name in comparison.selectors:
        figures = [
            flaw_detection_metrics(outcome.selection, flaw) for outcome in comparison.of(name)
        ]
        columns = [np.array([one[key] for one in figures]) for key in figures[0]]
        rows.append(
            [
                name,
                *("–" if np.isnan(column).any() else spread(column, ".3f") for column in columns),
            ]
        )
    kinds = [["candidates", "pool", "kept", "share"]]
    for kind in np.unique(flaw):
        members = flaw == kind
        kept = int((members & selection.mask).sum())
        title = FLAWS[kind] if 0 <= kind < len(FLAWS) else f"flaw {kind}"
        kinds.append(
            [title, f"{members.sum():,}", f"{kept:,}", f"{100 * kept / members.sum():.0f} %"]
        )
    return (
        "<p class='soft'>The sound candidates are the ones to find; no selector but the oracle is told which they are.</p>"
        f"{html_table(rows, ours)}<h3>What {escape(ours)} keeps</h3>{html_table(kinds)}"
    )


def _flat(facts: Mapping[str, object], prefix: str = "") -> Iterator[list[str]]:
    """Nested facts as rows of name and value."""
    for key, value in facts.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield [
                name,
                ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value),
            ]


def _versions() -> Iterator[list[str]]:
    yield ["versions.python", platform.python_version()]
    for package in PACKAGES:
        try:
            yield [f"versions.{package}", version(package)]
        except PackageNotFoundError:
            continue
