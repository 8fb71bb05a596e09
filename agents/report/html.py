"""Write a report: one HTML file that needs nothing else.

Needs matplotlib: ``pip install "synthselect[report]"``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agents.evaluation import Comparison
from agents.report.plotting import save_figure
from agents.report.sections import ReportContent, image_figures, report_sections
from agents.report.style import STYLE
from agents.report.tables import (
    comparison_latex,
    comparison_markdown,
    comparison_table,
    comparison_title,
    recommendation,
)
from synthselect_env import FeatureBank, Selection
from synthselect_env.storage import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>Synthetic sample selection: {title}</h1><nav>{links}</nav></header>
<main>
<section class="recommendation {decision}"><p>{sentence}</p><p class='soft'>{note}</p></section>
{sections}
</main>
<footer class='soft'>Made by SynthSelect after Ye, Xue et al., Synthetic Sample Selection via \
Reinforcement Learning, MICCAI 2020 (arXiv 2008.11331). Not a medical device.</footer>
</body>
</html>
"""
"""The page. What is filled in is HTML."""
TABLE_FORMATS = {"tex": comparison_latex, "md": comparison_markdown, "txt": comparison_table}
"""Formats in which a comparison is saved beside its CSV, by suffix."""


def write_report(
    path: str | Path,
    bank: FeatureBank,
    comparison: Comparison,
    ours: str | None = None,
    *,
    selection: Selection | None = None,
    history: Mapping[str, np.ndarray] | None = None,
    configuration: Mapping[str, object] | None = None,
    others: Sequence[Comparison] = (),
    seed: int = 0,
) -> Path:
    """Write what a selection is worth to one HTML file.

    The file refers to nothing outside itself.

    :param path: an .html file, or a directory. A directory gets ``report.html``, each figure as
        PNG and SVG in ``figures``, and each comparison as CSV, LaTeX, Markdown and text in
        ``tables``
    :param bank: bank of the candidates
    :param comparison: comparison that the recommendation is about, with "none" among its selectors
    :param ours: name of the selector in question; None for
        :meth:`~agents.evaluation.Comparison.recommended`
    :param selection: candidates in question; None for those of the first round
    :param history: columns of :func:`~agents.report.charts.read_history`, if there was a training
        run
    :param configuration: JSON-able facts about the making of the selection, e.g. a run's
        ``config.json``
    :param others: comparisons under other classifiers, one table each
    :param seed: random seed of the images that are drawn
    :return: the HTML file
    :raises ValueError: if "none" or ``ours`` was not compared, or the selection is not of this bank
    :raises ImportError: if matplotlib is not installed
    """
    path = Path(path)

    # Refuse what cannot be judged before anything costly.
    decision, sentence = recommendation(comparison, ours, selection)
    ours = ours or comparison.recommended()
    if selection is None:
        selection = comparison.of(ours)[0].selection
    if len(selection) != len(bank.candidates):
        raise ValueError(
            f"the selection is of {len(selection):,} candidates, "
            f"{bank.source} has {len(bank.candidates):,}"
        )

    content = ReportContent(
        bank, comparison, ours, selection, history, configuration or {}, others, seed
    )
    page = _page(content, decision, sentence)
    if path.suffix.lower() in (".html", ".htm"):
        file = path
    else:
        file = path / "report.html"
        _save_figures(path / "figures", content.charts | image_figures(content))
        _save_tables(path / "tables", (comparison, *others))
    with atomic_write(file) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return file


def _page(content: ReportContent, decision: str, sentence: str) -> str:
    """Return the whole document."""
    links, body = [], []
    for anchor, title, inside in report_sections(content):
        links.append(f'<a href="#{anchor}">{escape(title)}</a>')
        body.append(f'<section id="{anchor}"><h2>{escape(title)}</h2>{inside}</section>')

    comparison, ours = content.comparison, content.ours
    note = f"{comparison_title(comparison)}."
    if content.rounds > 1 and content.selection is comparison.of(ours)[0].selection:
        note += " Gains are means over rounds; the candidates shown are those of the first one."
    return TEMPLATE.format(
        title=escape(f"{ours} on {content.bank_name}"),
        style=STYLE,
        links="".join(links),
        decision=decision,
        sentence=escape(sentence),
        note=escape(note),
        sections="\n".join(body),
    )


def _save_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Save each figure as PNG and as SVG."""
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
        save_figure(figure, folder / f"{name}.svg")


def _save_tables(folder: Path, comparisons: Sequence[Comparison]) -> None:
    """Save each comparison in all formats, under the name of its classifier."""
    uses: Counter[str] = Counter()
    for comparison in comparisons:
        classifier = re.sub(r"[^A-Za-z0-9_.-]+", "-", comparison.classifier)
        stem = f"comparison-{classifier}"
        uses[stem] += 1
        if uses[stem] > 1:  # one architecture may have been trained in two ways
            stem = f"{stem}-{uses[stem]}"
        comparison.save(folder / f"{stem}.csv")
        for suffix, form in TABLE_FORMATS.items():
            with atomic_write(folder / f"{stem}.{suffix}") as temporary:
                temporary.write_text(f"{form(comparison)}\n", encoding="utf-8")
