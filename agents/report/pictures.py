"""Selections as pictures.  Needs matplotlib: ``pip install "synthselect[report]"``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from synthselect_env import FeatureBank, Selection
from synthselect_env.data import decode
from synthselect_env.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_DISTANCE = 1e-4
"""Smaller distances are shown as this one; a logarithmic axis has no zero."""
COLOURS = ("#8a8a8a", "#3b6fb6", "#d1495b", "#2e8b57", "#b8860b")


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure  # not pyplot: no global state, no display
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "synthselect[report]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def kept_and_discarded(bank: FeatureBank, selection: Selection, seed: int = 0, columns: int = 16) -> Figure:
    """Kept and discarded candidates of each class, a random row each (the paper's Fig. 2 and 3).

    :param bank: must hold candidates' pictures
    :param selection: what was kept
    :param seed: of the draw
    :param columns: pictures a row
    :raises ValueError: when the bank has no pictures
    :raises ImportError: without matplotlib
    """
    if bank.candidates.images is None:
        raise ValueError(f"{bank.source}: candidates/images is missing; there is nothing to picture")
    rng = np.random.default_rng(seed)
    rows = [(name, i, kept) for i, name in enumerate(bank.classes) for kept in (True, False)]
    tall, wide = decode(bank.candidates.images[:1]).shape[1:3]
    figure = _figure(0.72 * columns, (0.72 * tall / wide + 0.26) * len(rows))  # a strip of pictures, and its title
    strips = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, (name, label, kept) in zip(strips, rows):
        members = np.flatnonzero((bank.candidates.labels == label) & (selection.mask == kept))
        drawn = np.sort(rng.choice(members, min(columns, len(members)), replace=False))
        axes.set_title(f"{name}, {'kept' if kept else 'discarded'}: {len(members):,}", loc="left", fontsize=9, pad=2)
        axes.set_axis_off()
        if len(drawn):
            tiles = decode(bank.candidates.images[drawn])
            blank = np.full((columns - len(tiles), *tiles.shape[1:]), 255, np.uint8)
            padded = np.pad(np.concatenate([tiles, blank]), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
            axes.imshow(np.concatenate(list(padded), axis=1), interpolation="nearest")
    return figure


def centroid_histogram(bank: FeatureBank, selections: Mapping[str, Selection]) -> Figure:
    """Distances to the class centroid of the pool and of selections from it (the paper's Fig. 4), a panel a class.

    The axis is logarithmic: most candidates lie within a hundredth of their centroid, and what matters is how far the rest is.

    :param bank: the bank
    :param selections: name to selection
    :raises ImportError: without matplotlib
    """
    figure = _figure(4.6 * len(bank.classes), 3.4)
    panels = figure.subplots(1, len(bank.classes), squeeze=False)[0]
    for label, (axes, name) in enumerate(zip(panels, bank.classes)):
        members = bank.candidates.labels == label
        distance = bank.centroid_distances
        shown = np.maximum(distance, LEAST_DISTANCE)
        edges = np.geomspace(shown[members].min(), shown[members].max() * 1.001, 41)
        axes.hist(shown[members], edges, color=COLOURS[0], alpha=0.35, label=f"pool ({members.sum():,})")
        for colour, (title, selection) in zip(COLOURS[1:], selections.items()):
            kept = members & selection.mask
            axes.hist(shown[kept], edges, histtype="step", linewidth=1.6, color=colour, label=f"{title} ({kept.sum():,})")
        axes.set(title=name, xscale="log", xlabel="cosine distance to the class centroid", ylabel="candidates" if label == 0 else None)
        ticks = np.geomspace(edges[0], edges[-1], 4)  # the axis's own would overlap where it spans less than a decade or two
        axes.minorticks_off()
        axes.set_xticks(ticks, [f"{tick:.1g}" for tick in ticks])
        axes.set_ylim(top=1.25 * axes.get_ylim()[1])  # room for the legend
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as the format that the path's suffix names."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
