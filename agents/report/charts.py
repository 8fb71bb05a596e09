"""Training runs, comparisons and selections as charts.  Needs matplotlib: ``pip install "synthselect[report]"``."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agents.evaluation.comparison import Comparison
from agents.report.flaw_detection import discovery, flaw_detection_metrics
from agents.report.plotting import COLOURS, DISCARDED, KEPT, POOL, literal, panels
from synthselect_env import FeatureBank, Selection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_DISTANCE = 1e-4
"""Smaller distances are shown as this one; a logarithmic axis has no zero."""
MAP_POINTS = 5000
"""Real images and candidates on the map, at most; more would be one blot, and cost a minute."""
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "p", "h", "*")
CURVES = {
    "rollout/ep_rew_mean": "reward of an episode",
    "validation/log_likelihood": "validation log-likelihood",
    "rollout/selected": "selection rate",
    "train/entropy_loss": "entropy of an action, nats",
    "train/entropy_of_a_decision": "entropy of a decision, nats",
    "validation/accuracy": "validation accuracy",
    "validation/auc": "validation AUC",
}
"""Columns of a run's ``metrics.csv`` that are drawn, and what they are."""


def read_history(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a run's ``metrics.csv``.

    :param path: the file
    :return: name to (rows,), NaN where a cell is empty or no number
    """

    def number(cell: str | None) -> float:
        try:
            return float(cell or "nan")
        except ValueError:
            return float("nan")

    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    return {name: np.array([number(row[name]) for row in rows]) for name in reader.fieldnames or ()}


def learning_curves(history: Mapping[str, np.ndarray], n_candidates: int) -> Figure:
    """What a training run recorded, a panel a quantity: each update, and the moving average over a twentieth of the run.

    :param history: of :func:`read_history`; which of :data:`CURVES` it has is what is drawn
    :param n_candidates: size of the pool, of which the selection rate is a share
    :raises ValueError: when it has none of them
    """
    drawn = [name for name in CURVES if name in history and np.isfinite(history[name]).any()]
    if not drawn:
        raise ValueError(
            f"history has no row of {', '.join(CURVES)}; is it a metrics.csv that SelectionMetrics wrote?"
        )
    figure, axes = panels(len(drawn), 4.6, 2.5)
    for panel, name in zip(axes, drawn):
        values = history[name] / n_candidates if name == "rollout/selected" else history[name]
        values = -values if name == "train/entropy_loss" else values
        known = np.isfinite(values)
        steps, values = (
            history.get("time/total_timesteps", np.arange(1.0, len(values) + 1))[known],
            values[known],
        )
        window = np.ones(max(1, len(values) // 20))
        average = np.convolve(values, window, "same") / np.convolve(
            np.ones(len(values)), window, "same"
        )
        panel.plot(steps, values, color=POOL, linewidth=0.8, alpha=0.7)
        panel.plot(steps, average, color=KEPT, linewidth=1.8)
        panel.set_title(CURVES[name], loc="left", fontsize=10)
        panel.ticklabel_format(useOffset=False)
        panel.locator_params(axis="x", nbins=5)
        panel.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        if panel in axes[-2:]:
            panel.set_xlabel(
                "environment steps" if "time/total_timesteps" in history else "updates"
            )
    return figure


def gap_chart(comparison: Comparison) -> Figure:
    """Validation and test accuracy of each selector, and the gap between them in points: what was gained on validation images only.

    :param comparison: mean over its rounds
    """
    names = comparison.selectors
    figure, (axes,) = panels(1, 5.2, 0.34 * len(names) + 1.1)
    for row, name in enumerate(names):
        outcomes = comparison.of(name)
        valid, test = (
            100 * np.array([figures["accuracy"] for figures in split])
            for split in ([o.valid for o in outcomes], [o.test for o in outcomes])
        )
        axes.plot([valid.mean(), test.mean()], [row, row], color=POOL, linewidth=1.5, zorder=1)
        for values, colour, label in ((valid, DISCARDED, "validation"), (test, KEPT, "test")):
            axes.scatter(
                values, [row] * len(values), s=14, color=colour, alpha=0.35, linewidths=0, zorder=2
            )
            axes.scatter(
                values.mean(), row, s=48, color=colour, label=label if row == 0 else None, zorder=3
            )
        edge = max(*valid, *test)
        gap = f"{valid.mean() - test.mean():+.1f}".replace("-", "−")
        axes.annotate(gap, (edge, row), (9, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(names)), [literal(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.12)  # room for the gaps
    axes.set_xlabel("accuracy, %")
    axes.grid(axis="x", color=POOL, alpha=0.25)
    figure.legend(frameon=False, fontsize=9, ncols=2, loc="outside upper right")
    return figure


def selection_rates(bank: FeatureBank, comparison: Comparison) -> Figure:
    """Share of each class's candidates that each selector keeps, mean over rounds.

    :param bank: whose candidates were selected from
    :param comparison: whose selections
    """
    names, classes = comparison.selectors, bank.classes
    thickness = 0.8 / len(classes)
    figure, (axes,) = panels(1, 5.2, (0.16 * len(classes) + 0.16) * len(names) + 1.1)
    for label, (title, colour) in enumerate(zip(classes, _cycle(len(classes)))):
        members = bank.candidates.labels == label
        rates = [
            100
            * float(
                np.mean(
                    [
                        o.selection.mask[members].mean() if members.any() else 0
                        for o in comparison.of(name)
                    ]
                )
            )
            for name in names
        ]
        places = np.arange(len(names)) + (label - (len(classes) - 1) / 2) * thickness
        hatch = "" if label < len(COLOURS) - 1 else "//"  # colours begin again
        axes.barh(places, rates, 0.9 * thickness, color=colour, hatch=hatch, label=literal(title))
        for place, rate in zip(places, rates):
            axes.annotate(
                f"{rate:.0f}",
                (rate, place),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    axes.set_yticks(range(len(names)), [literal(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 105)
    axes.set_xlabel("candidates kept, %")
    figure.legend(
        frameon=False,
        fontsize=9,
        ncols=max(1, min(4, 60 // max(map(len, classes)))),
        loc="outside upper right",
    )
    return figure


def centroid_histogram(bank: FeatureBank, selections: Mapping[str, Selection]) -> Figure:
    """Distances to the class centroid of the pool and of selections from it (the paper's Fig. 4), a panel a class.

    The axis is logarithmic: most candidates lie within a hundredth of their centroid, and what matters is how far the rest is.

    :param bank: the bank
    :param selections: name to selection
    :raises ImportError: without matplotlib
    """
    figure, axes = panels(len(bank.classes), 4.6, 3.4)
    distance = bank.centroid_distances
    for label, (panel, name) in enumerate(zip(axes, bank.classes)):
        members = bank.candidates.labels == label
        panel.set_title(literal(name), fontsize=10)
        panel.set_xlabel("cosine distance to the class centroid")
        panel.set_ylabel("candidates" if label % 2 == 0 else "")
        if not members.any():
            continue
        shown = np.maximum(distance, LEAST_DISTANCE)
        edges = np.geomspace(shown[members].min(), shown[members].max() * 1.001, 41).tolist()
        panel.hist(shown[members], edges, color=POOL, alpha=0.35, label=f"pool ({members.sum():,})")
        for colour, (title, selection) in zip(_cycle(len(selections)), selections.items()):
            kept = members & selection.mask
            panel.hist(
                shown[kept],
                edges,
                histtype="step",
                linewidth=1.6,
                color=colour,
                label=f"{literal(title)} ({kept.sum():,})",
            )
        panel.set_xscale("log")
        ticks = np.geomspace(
            edges[0], edges[-1], 4
        )  # the axis's own would overlap where it spans less than a decade or two
        panel.minorticks_off()
        panel.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        panel.set_ylim(top=1.25 * panel.get_ylim()[1])  # room for the legend
        panel.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")
    return figure


def principal_plane(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two directions of largest variance.

    :param features: (n, d) with d of 2 or more
    :return: directions (d, 2), each with its largest entry positive, and the shares of the variance that they hold (2,)
    """
    variances, directions = np.linalg.eigh(np.cov(features, rowvar=False))  # ascending
    plane = directions[:, :-3:-1]
    return plane * np.sign(plane[np.abs(plane).argmax(0), [0, 1]]), variances[:-3:-1] / max(
        variances.sum(), 1e-12
    )


def feature_map(bank: FeatureBank, selection: Selection, seed: int = 0) -> Figure:
    """Real training images, kept and discarded candidates in the plane of the features' first two principal components, a marker a class.

    :param bank: with two features or more
    :param selection: what was kept
    :param seed: of the draw where there are more than :data:`MAP_POINTS`
    """
    rng = np.random.default_rng(seed)
    real, drawn = (
        np.sort(rng.permutation(len(split))[:MAP_POINTS]) for split in (bank.train, bank.candidates)
    )
    real_rows, rows = (
        bank.train.features[real].astype(np.float64),
        bank.candidates.features[drawn].astype(np.float64),
    )
    everything = np.concatenate([real_rows, rows])
    plane, shares = principal_plane(everything)
    real_rows, rows = (part - everything.mean(0) for part in (real_rows, rows))
    figure, axes = panels(2, 4.6, 4.0)
    groups = [
        (selection.mask[drawn], KEPT, "kept"),
        (~selection.mask[drawn], DISCARDED, "discarded"),
    ]
    for panel, (members, colour, title) in zip(axes, groups):
        for label, name in enumerate(bank.classes):
            marker = MARKERS[label % len(MARKERS)]
            backdrop = real_rows[bank.train.labels[real] == label] @ plane
            places = rows[members & (bank.candidates.labels[drawn] == label)] @ plane
            # thousands of points: as pixels they take a tenth of the space that they take as shapes
            panel.scatter(
                backdrop[:, 0],
                backdrop[:, 1],
                s=14,
                marker=marker,
                color=POOL,
                alpha=0.3,
                linewidths=0,
                rasterized=True,
                zorder=1,
            )
            panel.scatter(
                places[:, 0],
                places[:, 1],
                s=11,
                marker=marker,
                color=colour,
                alpha=0.5,
                linewidths=0,
                rasterized=True,
                zorder=2,
            )
            panel.scatter([], [], s=30, marker=marker, color=colour, label=literal(name))
        panel.scatter([], [], s=30, color=POOL, label="real")
        panel.set_title(f"{title} ({members.sum():,})", fontsize=10)
        panel.set_xlabel(f"first component ({100 * shares[0]:.0f} % of the variance)")
        panel.set_ylabel(f"second component ({100 * shares[1]:.0f} %)" if panel is axes[0] else "")
        panel.legend(frameon=False, fontsize=8, loc="best")
    axes[1].sharex(axes[0])
    axes[1].sharey(axes[0])
    axes[0].autoscale()
    return figure


def discovery_curve(selections: Mapping[str, Selection], flaw: np.ndarray) -> Figure:
    """Share of the sound candidates that is found by inspecting candidates in the order of their scores; a dot at what was kept.

    :param selections: name to selection
    :param flaw: int (n,), 0 for a sound candidate
    """
    sound = flaw == 0
    figure, (axes,) = panels(1, 5.2, 4.0)
    inspected = np.arange(len(sound) + 1)
    axes.plot(
        inspected,
        np.minimum(inspected / sound.sum(), 1),
        color=POOL,
        linewidth=1,
        linestyle=":",
        label="every sound one first",
    )
    axes.plot(
        inspected,
        inspected / len(sound),
        color=POOL,
        linewidth=1,
        linestyle="--",
        label="in any order",
    )
    for colour, (name, selection) in zip(_cycle(len(selections)), selections.items()):
        figures = flaw_detection_metrics(selection, flaw)
        axes.plot(
            inspected,
            discovery(selection.scores, sound),
            color=colour,
            linewidth=1.8,
            label=f"{literal(name)} (AUC {figures['AUC']:.2f})",
        )
        axes.scatter(selection.count, figures["recall"], s=40, color=colour, zorder=3)
    axes.set_xlabel("candidates inspected")
    axes.set_ylabel("share of the sound ones found")
    axes.xaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    axes.set_xlim(0, len(sound))
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def _cycle(n: int) -> list[str]:
    """n colours for series."""
    return [COLOURS[1 + i % (len(COLOURS) - 1)] for i in range(n)]
