"""Selections as images.  Needs matplotlib: ``pip install "synthselect[report]"``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from agents.report.plotting import literal, new_figure
from synthselect_env import FeatureBank, Selection
from synthselect_env.data import decode
from synthselect_env.data.dataset import Dataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Strip = tuple[str, Dataset, np.ndarray]
"""A row of images: its title, and which images of which split."""


def _drawn(members: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return np.sort(rng.choice(members, min(count, len(members)), replace=False))


def kept_strips(
    bank: FeatureBank, selection: Selection, seed: int = 0, columns: int = 16
) -> list[Strip]:
    """Random kept and discarded candidates of each class.

    :param bank: the bank
    :param selection: what was kept
    :param seed: of the draw
    :param columns: images a row
    """
    rng, strips = np.random.default_rng(seed), []
    for label, name in enumerate(bank.classes):
        for kept in (True, False):
            members = np.flatnonzero((bank.candidates.labels == label) & (selection.mask == kept))
            title = f"{name}, {'kept' if kept else 'discarded'}: {len(members):,}"
            strips.append((title, bank.candidates, _drawn(members, columns, rng)))
    return strips


def real_strips(bank: FeatureBank, seed: int = 0, columns: int = 16) -> list[Strip]:
    """Random real training images and candidates of each class.

    :param bank: the bank
    :param seed: of the draw
    :param columns: images a row
    """
    rng, strips = np.random.default_rng(seed), []
    for label, name in enumerate(bank.classes):
        for split, kind in ((bank.train, "real"), (bank.candidates, "candidates")):
            members = np.flatnonzero(split.labels == label)
            strips.append(
                (f"{name}, {kind}: {len(members):,}", split, _drawn(members, columns, rng))
            )
    return strips


def wanted_strips(bank: FeatureBank, selection: Selection, columns: int = 8) -> list[Strip]:
    """The candidates of each class with the highest scores, best first, and with the lowest, worst first; ties by position.

    :param bank: the bank
    :param selection: whose scores
    :param columns: images a row
    """
    strips = []
    for label, name in enumerate(bank.classes):
        members = np.flatnonzero(bank.candidates.labels == label)
        for sign, kind in ((-1, "most wanted"), (1, "least wanted")):
            order = members[np.argsort(sign * selection.scores[members], kind="stable")]
            strips.append((f"{name}, {kind}", bank.candidates, order[:columns]))
    return strips


def kept_and_discarded(
    bank: FeatureBank, selection: Selection, seed: int = 0, columns: int = 16
) -> Figure:
    """Kept and discarded candidates of each class, a random row each (the paper's Fig. 2 and 3).

    :param bank: must hold candidates' images
    :param selection: what was kept
    :param seed: of the draw
    :param columns: images a row
    :raises ValueError: when the bank has no images
    :raises ImportError: without matplotlib
    """
    return _strips(bank, kept_strips(bank, selection, seed, columns), columns)


def real_and_candidates(bank: FeatureBank, seed: int = 0, columns: int = 16) -> Figure:
    """Real training images and candidates of each class, a random row each.

    :param bank: must hold images
    :param seed: of the draw
    :param columns: images a row
    :raises ValueError: when the bank has no images
    :raises ImportError: without matplotlib
    """
    return _strips(bank, real_strips(bank, seed, columns), columns)


def most_and_least_wanted(bank: FeatureBank, selection: Selection, columns: int = 8) -> Figure:
    """The candidates with the highest and the lowest scores of each class, with the scores and the ends of their ids.

    :param bank: must hold candidates' images
    :param selection: whose scores
    :param columns: images a row
    :raises ValueError: when the bank has no images
    :raises ImportError: without matplotlib
    """
    return _strips(bank, wanted_strips(bank, selection, columns), columns, selection)


def _strips(
    bank: FeatureBank, strips: Sequence[Strip], columns: int, named: Selection | None = None
) -> Figure:
    """A figure with a row of images a strip, each image with score and id where a selection names them."""
    for _, split, _ in strips:
        if split.images is None:
            name = "train" if split is bank.train else "candidates"
            raise ValueError(
                f"{bank.source}: {name}/images is missing; there is nothing to picture"
            )
    tall, wide = (bank.candidates if len(bank.candidates) else bank.train).image_size
    size, caption = (1.1, 0.28) if named else (0.72, 0.0)
    figure = new_figure(
        size * columns, (size * tall / wide + 0.26 + caption) * len(strips)
    )  # a strip of images, and its title
    for axes, (title, split, positions) in zip(
        figure.subplots(len(strips), 1, squeeze=False)[:, 0], strips
    ):
        axes.set_title(literal(title), loc="left", fontsize=9, pad=2)
        axes.set_axis_off()
        # white all around, and where there are too few, so that all strips have one scale
        padded = np.full((columns, tall + 2, wide + 2, 3), 255, np.uint8)
        if len(positions):
            padded[: len(positions), 1:-1, 1:-1] = decode(split.images[positions], (tall, wide))  # type: ignore[index]
        axes.imshow(np.concatenate(list(padded), axis=1), interpolation="nearest")
        if named:
            for place, i in enumerate(positions):
                text = f"{named.scores[i]:.3g}\n{_end(named.ids[i])}"
                axes.text(
                    (place + 0.5) * (wide + 2),
                    tall + 3,
                    literal(text),
                    ha="center",
                    va="top",
                    fontsize=7,
                )
    return figure


def _end(name: str, length: int = 18) -> str:
    """The end of a name, where file names differ."""
    return name if len(name) <= length else f"…{name[1 - length :]}"
