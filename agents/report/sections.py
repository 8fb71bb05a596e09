"""Sections of the report, with their charts, tables and images."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agents.evaluation import Comparison
from agents.report import charts, image_rows
from agents.report.flaw_detection import flaw_detection_metrics
from agents.report.html_parts import html_figure, html_image_rows, html_table
from agents.report.tables import comparison_cells, comparison_title, resampled_units, spread
from agents.selectors import is_random
from synthselect_env import FeatureBank, Selection
from synthselect_env.data.flaws import FLAWS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES_PER_ROW = 12
"""Images drawn per row, as many as a desktop shows side by side."""
WANTED_PER_ROW = 10
"""Most and least wanted candidates shown per class; they are wider for their ids."""
PACKAGES = ("synthselect", "torch", "numpy", "gymnasium", "stable-baselines3", "matplotlib")
"""Packages whose versions a report states if the configuration does not."""
CAPTIONS = {
    "gap": (
        "Accuracy on the validation split, which rewards are measured on, and on the test split, "
        "which decided nothing; beside them the gap in points. Pale dots are rounds."
    ),
    "learning_curves": (
        "What the training run recorded: each update (grey), and its moving average."
    ),
    "selection_rates": (
        "Share of each class's candidates that each selector keeps, mean over rounds."
    ),
    "centroid_distances": (
        "How far candidates lie from the centroid of their class's real training features."
    ),
    "feature_map": (
        "Candidates and real training images in the plane of their features' first two principal "
        "components."
    ),
    "discovery_curve": (
        "Share of the sound candidates found by inspecting candidates in the order of their "
        "scores. A dot marks what was kept."
    ),
}
"""Captions of the charts, by name."""


class Section(NamedTuple):
    """A section of the page.

    :param anchor: target of links to the section
    :param title: heading
    :param content: HTML below the heading
    """

    anchor: str
    title: str
    content: str


@dataclass(frozen=True)
class ReportContent:
    """Everything that a report shows.

    The fields are the parameters of :func:`~agents.report.html.write_report`.
    """

    bank: FeatureBank
    comparison: Comparison
    ours: str
    selection: Selection
    history: Mapping[str, np.ndarray] | None
    configuration: Mapping[str, object]
    others: Sequence[Comparison]
    seed: int

    @property
    def bank_name(self) -> str:
        """Name of the bank, without the folders of its file."""
        return Path(self.bank.source).stem

    @property
    def rounds(self) -> int:
        """Number of rounds of the comparison."""
        return len(self.comparison.of(self.ours))

    @cached_property
    def charts(self) -> dict[str, Figure]:
        """The charts that there are data for, by name."""
        return _charts(self)

    def chart(self, name: str) -> str:
        """Return a chart as HTML; empty without data for it.

        :param name: key of :data:`CAPTIONS`
        """
        if name not in self.charts:
            return ""
        return html_figure(self.charts[name], name, CAPTIONS[name])


def _charts(report: ReportContent) -> dict[str, Figure]:
    bank, comparison, ours = report.bank, report.comparison, report.ours
    figures = {
        "gap": charts.gap_chart(comparison),
        "selection_rates": charts.selection_rates(bank, comparison),
    }

    # Distances of the selection in question, beside those of one rival.
    names = comparison.selectors
    rivals = ["centroid"] * ("centroid" in names) + [name for name in names if is_random(name)]
    rivals = [name for name in rivals if name != ours]
    shown = {ours: report.selection}
    shown |= {name: comparison.of(name)[0].selection for name in rivals[:1]}
    figures["centroid_distances"] = charts.centroid_histogram(bank, shown)

    if report.history and charts.recorded_curves(report.history):
        n_candidates = len(bank.candidates)
        figures["learning_curves"] = charts.learning_curves(report.history, n_candidates)
    if bank.n_features > 1 and len(bank.candidates):
        figures["feature_map"] = charts.feature_map(bank, report.selection, report.seed)

    flaw = bank.candidates.flaw
    if flaw is not None and (flaw == 0).any():
        ranked = _ranked_selections(report)
        if ranked:
            figures["discovery_curve"] = charts.discovery_curve(ranked, flaw)
    return figures


def _ranked_selections(report: ReportContent) -> dict[str, Selection]:
    """Return the selections whose scores rank the candidates, ours first."""
    ours, comparison = report.ours, report.comparison
    names = [name for name in comparison.selectors if not is_random(name)]
    others = [name for name in names if name not in (ours, "oracle")]
    selections = {ours: report.selection}
    selections |= {name: comparison.of(name)[0].selection for name in others}
    return {name: selection for name, selection in selections.items() if _has_ranking(selection)}


def _has_ranking(selection: Selection) -> bool:
    """Return whether any two scores differ."""
    return len(selection) > 1 and np.ptp(selection.scores) > 0


def image_figures(report: ReportContent) -> dict[str, Figure]:
    """Return the rows of images as figures, by name.

    A bank without images has none.

    :param report: content of the report
    """
    bank, selection, seed = report.bank, report.selection, report.seed
    figures: dict[str, Figure] = {}
    if bank.candidates.images is None:
        return figures
    figures["kept_and_discarded"] = image_rows.kept_and_discarded(bank, selection, seed)
    if bank.train.images is not None:
        figures["real_and_candidates"] = image_rows.real_and_candidates(bank, seed)
    if _has_ranking(selection):
        figures["most_and_least_wanted"] = image_rows.most_and_least_wanted(bank, selection)
    return figures


def report_sections(report: ReportContent) -> list[Section]:
    """Return the sections that there is something to show in.

    :param report: content of the report
    """
    kept_charts = ("selection_rates", "centroid_distances", "feature_map")
    sections = [
        Section("comparison", "Comparison", _comparison(report)),
        Section("learning", "Learning curves", report.chart("learning_curves")),
        Section("selection", "What was kept", "".join(map(report.chart, kept_charts))),
        Section("images", "Images", _random_images(report)),
        Section("wanted", "Most and least wanted", _wanted(report)),
        Section("truth", "Known truth", _known_truth(report)),
        Section("bank", "Bank", _bank(report)),
        Section("configuration", "Configuration and versions", _configuration(report)),
    ]
    return [section for section in sections if section.content]


def _comparison(report: ReportContent) -> str:
    """Return a table per classifier, a note, and the gap chart."""
    tables = ""
    for comparison in (report.comparison, *report.others):
        table = html_table(comparison_cells(comparison), report.ours)
        tables += f"<h3>{escape(comparison_title(comparison))}</h3>{table}"
    rounds = report.rounds
    note = f"Mean ± standard deviation over {rounds} rounds." if rounds > 1 else "One round."
    note += (
        " Gaps and gains are in points of accuracy; a gain's 95 % interval is a paired bootstrap "
        f"over {resampled_units(report.comparison)}."
    )
    leaking = [o.selector for o in report.comparison.outcomes if o.leaks and not o.round]
    if leaking:
        note += (
            f" The labels of the validation images shaped what {', '.join(leaking)} chose, which looks "
            "too good on them, and is not recommended by them."
        )
    return f"{tables}<p class='soft'>{escape(note)}</p>{report.chart('gap')}"


def _random_images(report: ReportContent) -> str:
    """Return random images of each class: real, candidates, kept, discarded."""
    real = image_rows.real_rows(report.bank, report.seed, IMAGES_PER_ROW)
    kept = image_rows.kept_rows(report.bank, report.selection, report.seed, IMAGES_PER_ROW)
    rows = []
    for i in range(0, len(real), 2):  # two rows per class in each list
        rows += real[i : i + 2] + kept[i : i + 2]
    images = html_image_rows(rows)
    return f"<p class='soft'>Drawn at random.</p>{images}" if images else ""


def _wanted(report: ReportContent) -> str:
    """Return the candidates with the most extreme scores."""
    selection = report.selection
    if not _has_ranking(selection):
        return ""
    rows = image_rows.wanted_rows(report.bank, selection, WANTED_PER_ROW)
    return (
        "<p class='soft'>The candidates of each class with the highest and the lowest scores, "
        f"with their ids.</p>{html_image_rows(rows, selection)}"
    )


def _known_truth(report: ReportContent) -> str:
    """Return how well selectors find sound candidates, and the flaws that ours keeps."""
    flaw = report.bank.candidates.flaw
    if flaw is None:
        return ""
    table = html_table(_detection_rows(report.comparison, flaw), report.ours)
    kinds = html_table(_flaw_rows(report.selection, flaw))
    return (
        "<p class='soft'>The sound candidates are the ones to find; no selector but the oracle is "
        f"told which they are.</p>{table}<h3>What {escape(report.ours)} keeps</h3>{kinds}"
        f"{report.chart('discovery_curve')}"
    )


def _detection_rows(comparison: Comparison, flaw: np.ndarray) -> list[list[str]]:
    """Return heads, then one row per selector with its detection metrics."""
    rows = [["selection", "AUC of the scores", "precision", "recall", "F1"]]
    for name in comparison.selectors:
        outcomes = comparison.of(name)
        metrics = [flaw_detection_metrics(outcome.selection, flaw) for outcome in outcomes]
        row = [name]
        for metric in metrics[0]:
            values = np.array([one[metric] for one in metrics])
            row.append("–" if np.isnan(values).any() else spread(values, ".3f"))
        rows.append(row)
    return rows


def _flaw_rows(selection: Selection, flaw: np.ndarray) -> list[list[str]]:
    """Return heads, then one row per flaw with its kept candidates."""
    rows = [["candidates", "pool", "kept", "share"]]
    for kind in np.unique(flaw):
        members = flaw == kind
        pool = members.sum()
        kept = int((members & selection.mask).sum())
        title = FLAWS[kind] if 0 <= kind < len(FLAWS) else f"flaw {kind}"
        rows.append([title, f"{pool:,}", f"{kept:,}", f"{100 * kept / pool:.0f} %"])
    return rows


def _bank(report: ReportContent) -> str:
    description = report.bank.describe().replace(report.bank.source, report.bank_name)
    return f"<pre>{escape(description)}</pre>"


def _configuration(report: ReportContent) -> str:
    """Return the configuration and the versions of packages as a table."""
    facts = [
        ["selector", report.ours],
        ["classifier", report.comparison.classifier],
        ["rounds", str(report.rounds)],
        *_flat(report.configuration),
    ]
    if "versions" not in report.configuration:
        facts += _versions()
    return html_table([["", ""], *facts], kind="facts")


def _flat(facts: Mapping[str, object], prefix: str = "") -> Iterator[list[str]]:
    """Yield nested facts as rows of name and value."""
    for key, value in facts.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list | tuple):
            yield [name, ", ".join(map(str, value))]
        else:
            yield [name, str(value)]


def _versions() -> Iterator[list[str]]:
    """Yield versions of Python and of packages as name and value."""
    yield ["versions.python", platform.python_version()]
    for package in PACKAGES:
        try:
            yield [f"versions.{package}", version(package)]
        except PackageNotFoundError:
            continue
