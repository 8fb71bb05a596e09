"""Plot training runs, comparisons and selections.

Needs matplotlib: ``pip install "synthselect[report]"``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.evaluation import Comparison
from agents.report.flaw_detection import discovery, flaw_detection_metrics
from agents.report.plotting import DISCARDED, KEPT, POOL, literal, panels, series_colours
from synthselect_env import FeatureBank, Selection
from synthselect_env.data.dataset import Dataset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIN_DISTANCE = 1e-4
"""Smaller distances are shown as this one; a logarithmic axis has no zero."""
DISTANCE_BINS = 40
"""Bins of the histogram of distances."""
MAP_POINTS = 5000
"""Largest number of real images, and of candidates, on the map. More would be one blot."""
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "p", "h", "*")
"""Marker of each class on the map."""
CURVES = {
    "rollout/ep_rew_mean": "reward of an episode",
    "validation/log_likelihood": "validation log-likelihood",
    "rollout/selected": "selection rate",
    "train/entropy_loss": "entropy of an action, nats",
    "train/entropy_of_a_decision": "entropy of a decision, nats",
    "validation/accuracy": "validation accuracy",
    "validation/auc": "validation AUC",
}
"""Columns of a run's ``metrics.csv`` that are plotted, and their titles."""
STEPS = "time/total_timesteps"
"""Column of a run's ``metrics.csv`` with the environment steps."""


def read_history(path: str | Path) -> dict[str, np.ndarray]:
    """Read the columns of a run's ``metrics.csv``.

    :param path: file to read
    :return: column name to values (rows,), NaN where a cell is empty or not a number
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


def recorded_curves(history: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of the :data:`CURVES` that a history has values of.

    :param history: columns of :func:`read_history`
    """
    return [name for name in CURVES if name in history and np.isfinite(history[name]).any()]


def learning_curves(history: Mapping[str, np.ndarray], n_candidates: int) -> Figure:
    """Plot what a training run recorded, one panel per quantity.

    Each update is shown, and the moving average over a twentieth of the run.

    :param history: columns of :func:`read_history`; those in :data:`CURVES` are plotted
    :param n_candidates: size of the pool, of which the selection rate is a share
    :raises ValueError: if the history has none of them
    :raises ImportError: if matplotlib is not installed
    """
    names = recorded_curves(history)
    if not names:
        raise ValueError(
            f"history has no row of {', '.join(CURVES)}; "
            "is it a metrics.csv that SelectionMetrics wrote?"
        )
    figure, axes = panels(len(names), 4.6, 2.5)
    for panel, name in zip(axes, names):
        # Values of the column in the panel's unit, where there are some.
        column = history[name]
        known = np.isfinite(column)
        steps = history.get(STEPS, np.arange(1.0, len(column) + 1))[known]
        values = column[known]
        if name == "rollout/selected":
            values = values / n_candidates
        elif name == "train/entropy_loss":
            values = -values

        # Curves and axes.
        panel.plot(steps, values, color=POOL, linewidth=0.8, alpha=0.7)
        panel.plot(steps, _moving_average(values), color=KEPT, linewidth=1.8)
        panel.set_title(CURVES[name], loc="left", fontsize=10)
        panel.ticklabel_format(useOffset=False)
        panel.locator_params(axis="x", nbins=5)
        panel.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        if panel in axes[-2:]:
            panel.set_xlabel("environment steps" if STEPS in history else "updates")
    return figure


def _moving_average(values: np.ndarray) -> np.ndarray:
    """Return the average over a twentieth of the values around each one."""
    window = np.ones(max(1, len(values) // 20))
    sums = np.convolve(values, window, "same")
    counts = np.convolve(np.ones(len(values)), window, "same")
    return sums / counts


def gap_chart(comparison: Comparison) -> Figure:
    """Plot validation and test accuracy of each selector, and their gap.

    The gap is in points. It is what was gained on validation images only.

    :param comparison: comparison to show; large dots are means over its rounds
    :raises ImportError: if matplotlib is not installed
    """
    names = comparison.selectors
    figure, (axes,) = panels(1, 5.2, 0.34 * len(names) + 1.1)
    for row, name in enumerate(names):
        # Accuracies in percent, one value per round.
        outcomes = comparison.of(name)
        valid = 100 * np.array([outcome.valid["accuracy"] for outcome in outcomes])
        test = 100 * np.array([outcome.test["accuracy"] for outcome in outcomes])

        # A line from mean to mean, a pale dot per round, a large one for the mean.
        axes.plot([valid.mean(), test.mean()], [row, row], color=POOL, linewidth=1.5, zorder=1)
        for values, colour, split in ((valid, DISCARDED, "validation"), (test, KEPT, "test")):
            pale: dict[str, Any] = {"color": colour, "alpha": 0.35, "linewidths": 0}
            axes.scatter(values, [row] * len(values), s=14, zorder=2, **pale)
            label = split if row == 0 else None
            axes.scatter(values.mean(), row, s=48, color=colour, label=label, zorder=3)

        # The gap, to the right of all dots.
        gap = f"{valid.mean() - test.mean():+.1f}".replace("-", "−")
        edge = max(*valid, *test)
        _annotate(axes, gap, (edge, row), offset=9, size=9)
    _label_selectors(axes, names)
    axes.margins(x=0.12)  # room for the gaps
    axes.set_xlabel("accuracy, %")
    axes.grid(axis="x", color=POOL, alpha=0.25)
    figure.legend(frameon=False, fontsize=9, ncols=2, loc="outside upper right")
    return figure


def selection_rates(bank: FeatureBank, comparison: Comparison) -> Figure:
    """Plot the share of each class that each selector keeps.

    Shares are means over rounds.

    :param bank: bank of the candidates
    :param comparison: comparison with the selections
    :raises ImportError: if matplotlib is not installed
    """
    names = comparison.selectors
    n_classes = len(bank.classes)
    thickness = 0.8 / n_classes
    height = (0.16 * n_classes + 0.16) * len(names) + 1.1
    figure, (axes,) = panels(1, 5.2, height)

    # One bar per class and selector; the bars of a selector stand together.
    colours = series_colours(n_classes)
    for label, (title, colour) in enumerate(zip(bank.classes, colours)):
        members = bank.candidates.labels == label
        rates = [_selection_rate(comparison, name, members) for name in names]
        places = np.arange(len(names)) + (label - (n_classes - 1) / 2) * thickness
        hatch = "//" if colour in colours[:label] else ""  # colours begin again
        style: dict[str, Any] = {"color": colour, "hatch": hatch, "label": literal(title)}
        axes.barh(places, rates, 0.9 * thickness, **style)
        for place, rate in zip(places, rates):
            _annotate(axes, f"{rate:.0f}", (rate, place), offset=3, size=8)

    _label_selectors(axes, names)
    axes.set_xlim(0, 105)
    axes.set_xlabel("candidates kept, %")
    # Long names stand below each other.
    ncols = max(1, min(4, 60 // max(map(len, bank.classes))))
    figure.legend(frameon=False, fontsize=9, ncols=ncols, loc="outside upper right")
    return figure


def _selection_rate(comparison: Comparison, name: str, members: np.ndarray) -> float:
    """Return the percentage of members that a selector keeps over its rounds."""
    if not members.any():
        return 0.0
    masks = [outcome.selection.mask for outcome in comparison.of(name)]
    return 100 * float(np.mean([mask[members].mean() for mask in masks]))


def _label_selectors(axes: Axes, names: list[str]) -> None:
    """Label a chart's rows with the selectors' names, from the top."""
    axes.set_yticks(range(len(names)), [literal(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def _annotate(axes: Axes, text: str, place: tuple[float, float], offset: int, size: int) -> None:
    """Write text to the right of a place, ``offset`` points away."""
    away = (offset, 0)
    axes.annotate(text, place, away, textcoords="offset points", va="center", fontsize=size)


def centroid_histogram(bank: FeatureBank, selections: Mapping[str, Selection]) -> Figure:
    """Plot distances to the class centroid of the pool and of selections.

    This is the paper's Fig. 4, one panel per class. The axis is logarithmic, because most
    candidates lie close to their centroid and what matters is how far the rest is.

    :param bank: bank of the candidates
    :param selections: selections by name
    :raises ImportError: if matplotlib is not installed
    """
    figure, axes = panels(len(bank.classes), 4.6, 3.4)
    distances = np.maximum(bank.centroid_distances, MIN_DISTANCE)
    for label, (panel, name) in enumerate(zip(axes, bank.classes)):
        panel.set_title(literal(name), fontsize=10)
        panel.set_xlabel("cosine distance to the class centroid")
        panel.set_ylabel("candidates" if label % 2 == 0 else "")
        members = bank.candidates.labels == label
        if members.any():
            _plot_distances(panel, distances, members, selections)
    return figure


def _plot_distances(
    panel: Axes, distances: np.ndarray, members: np.ndarray, selections: Mapping[str, Selection]
) -> None:
    """Plot one class's distances, of its pool and of each selection."""
    pool = distances[members]
    edges = np.geomspace(pool.min(), pool.max() * 1.001, DISTANCE_BINS + 1).tolist()
    panel.hist(pool, edges, color=POOL, alpha=0.35, label=f"pool ({members.sum():,})")
    for colour, (title, selection) in zip(series_colours(len(selections)), selections.items()):
        kept = members & selection.mask
        outline: dict[str, Any] = {"histtype": "step", "linewidth": 1.6, "color": colour}
        panel.hist(distances[kept], edges, label=f"{literal(title)} ({kept.sum():,})", **outline)

    # matplotlib's own ticks would overlap where the axis spans less than a decade or two.
    panel.set_xscale("log")
    panel.minorticks_off()
    ticks = np.geomspace(edges[0], edges[-1], 4)
    panel.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    panel.set_ylim(top=1.25 * panel.get_ylim()[1])  # room for the legend
    panel.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")


def principal_plane(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two directions of largest variance.

    :param features: feature vectors (n, d), d of 2 or more
    :return: directions (d, 2), each with its largest entry positive, and their shares of the
        variance (2,)
    """
    variances, directions = np.linalg.eigh(np.cov(features, rowvar=False))  # ascending
    plane = directions[:, :-3:-1]  # (d, d) -> (d, 2), the largest first
    largest_entries = plane[np.abs(plane).argmax(0), [0, 1]]
    shares = variances[:-3:-1] / max(variances.sum(), 1e-12)
    return plane * np.sign(largest_entries), shares


def feature_map(bank: FeatureBank, selection: Selection, seed: int = 0) -> Figure:
    """Plot real images and candidates by their first two principal components.

    Kept and discarded candidates have a panel each, and each class a marker of its own.

    :param bank: bank with at least two features
    :param selection: kept candidates
    :param seed: random seed of the draw where there are more than :data:`MAP_POINTS`
    :raises ImportError: if matplotlib is not installed
    """
    # Draw the images that are shown.
    rng = np.random.default_rng(seed)
    real = _draw_points(bank.train, rng)
    drawn = _draw_points(bank.candidates, rng)
    real_features = bank.train.features[real].astype(np.float64)
    features = bank.candidates.features[drawn].astype(np.float64)

    # Project them: (n, d) -> (n, 2).
    everything = np.concatenate([real_features, features])
    plane, shares = principal_plane(everything)
    centre = everything.mean(0)
    real_places = (real_features - centre) @ plane
    places = (features - centre) @ plane

    # One panel for the kept candidates, one for the discarded ones, real images behind both.
    figure, axes = panels(2, 4.6, 4.0)
    real_labels = bank.train.labels[real]
    labels = bank.candidates.labels[drawn]
    kept = selection.mask[drawn]
    groups = [(kept, KEPT, "kept"), (~kept, DISCARDED, "discarded")]
    for panel, (members, colour, title) in zip(axes, groups):
        for label, name in enumerate(bank.classes):
            marker = MARKERS[label % len(MARKERS)]
            in_front = places[members & (labels == label)]
            _scatter(panel, real_places[real_labels == label], marker, POOL, 14, 0.3, zorder=1)
            _scatter(panel, in_front, marker, colour, 11, 0.5, zorder=2)
            panel.scatter([], [], s=30, marker=marker, color=colour, label=literal(name))
        panel.scatter([], [], s=30, color=POOL, label="real")
        panel.set_title(f"{title} ({members.sum():,})", fontsize=10)
        panel.set_xlabel(f"first component ({100 * shares[0]:.0f} % of the variance)")
        panel.legend(frameon=False, fontsize=8, loc="best")
    axes[0].set_ylabel(f"second component ({100 * shares[1]:.0f} %)")
    axes[1].sharex(axes[0])
    axes[1].sharey(axes[0])
    axes[0].autoscale()
    return figure


def _draw_points(dataset: Dataset, rng: np.random.Generator) -> np.ndarray:
    """Return random positions of up to :data:`MAP_POINTS` images, in ascending order."""
    return np.sort(rng.permutation(len(dataset))[:MAP_POINTS])


def _scatter(
    panel: Axes, places: np.ndarray, marker: str, colour: str, size: int, alpha: float, zorder: int
) -> None:
    """Plot places (n, 2) as pixels; thousands of shapes would be large."""
    panel.scatter(
        places[:, 0],
        places[:, 1],
        s=size,
        marker=marker,
        color=colour,
        alpha=alpha,
        linewidths=0,
        rasterized=True,
        zorder=zorder,
    )


def discovery_curve(selections: Mapping[str, Selection], flaw: np.ndarray) -> Figure:
    """Plot the share of sound candidates found against candidates inspected.

    Candidates are inspected in order of their scores. A dot marks what a selection kept.

    :param selections: selections by name
    :param flaw: kind of flaw per candidate, int (n,); 0 for a sound candidate
    :raises ImportError: if matplotlib is not installed
    """
    sound = flaw == 0
    n = len(sound)
    inspected = np.arange(n + 1)
    figure, (axes,) = panels(1, 5.2, 4.0)

    # The best order there is, and a random one.
    ideal = np.minimum(inspected / sound.sum(), 1)
    thin: dict[str, Any] = {"color": POOL, "linewidth": 1}
    axes.plot(inspected, ideal, linestyle=":", label="every sound one first", **thin)
    axes.plot(inspected, inspected / n, linestyle="--", label="in any order", **thin)

    for colour, (name, selection) in zip(series_colours(len(selections)), selections.items()):
        metrics = flaw_detection_metrics(selection, flaw)
        found = discovery(selection.scores, sound)
        label = f"{literal(name)} (AUC {metrics['AUC']:.2f})"
        axes.plot(inspected, found, color=colour, linewidth=1.8, label=label)
        axes.scatter(selection.count, metrics["recall"], s=40, color=colour, zorder=3)
    axes.set_xlabel("candidates inspected")
    axes.set_ylabel("share of the sound ones found")
    axes.xaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    axes.set_xlim(0, n)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure
