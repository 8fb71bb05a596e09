"""Show candidates and real images in rows.

Needs matplotlib: ``pip install "synthselect[report]"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agents.report.plotting import literal, new_figure
from synthselect_env import FeatureBank, Selection
from synthselect_env.data import image_grid
from synthselect_env.data.dataset import Dataset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 2
"""White pixels between the images of a row."""
ID_LENGTH = 18
"""Characters of an id that fit under an image."""


class ImageRow(NamedTuple):
    """A row of images.

    :param title: text above the row
    :param dataset: dataset of the images
    :param positions: positions of the images in the dataset, int (m,)
    """

    title: str
    dataset: Dataset
    positions: np.ndarray


def kept_rows(
    bank: FeatureBank, selection: Selection, seed: int = 0, columns: int = 16
) -> list[ImageRow]:
    """Return two rows per class: random kept and random discarded candidates.

    :param bank: bank of the candidates
    :param selection: kept candidates
    :param seed: random seed of the draw
    :param columns: images per row
    """
    rng = np.random.default_rng(seed)
    candidates = bank.candidates
    rows = []
    for label, name in enumerate(bank.classes):
        for kept, kind in ((True, "kept"), (False, "discarded")):
            members = np.flatnonzero((candidates.labels == label) & (selection.mask == kept))
            title = f"{name}, {kind}: {len(members):,}"
            rows.append(ImageRow(title, candidates, _draw(members, columns, rng)))
    return rows


def real_rows(bank: FeatureBank, seed: int = 0, columns: int = 16) -> list[ImageRow]:
    """Return two rows per class: random real training images and random candidates.

    :param bank: bank of the images
    :param seed: random seed of the draw
    :param columns: images per row
    """
    rng = np.random.default_rng(seed)
    rows = []
    for label, name in enumerate(bank.classes):
        for dataset, kind in ((bank.train, "real"), (bank.candidates, "candidates")):
            members = np.flatnonzero(dataset.labels == label)
            title = f"{name}, {kind}: {len(members):,}"
            rows.append(ImageRow(title, dataset, _draw(members, columns, rng)))
    return rows


def wanted_rows(bank: FeatureBank, selection: Selection, columns: int = 8) -> list[ImageRow]:
    """Return two rows per class: candidates with highest and lowest scores.

    The most extreme score comes first. Equal scores are ordered by position.

    :param bank: bank of the candidates
    :param selection: selection with the scores
    :param columns: images per row
    """
    rows = []
    for label, name in enumerate(bank.classes):
        members = np.flatnonzero(bank.candidates.labels == label)
        for sign, kind in ((-1, "most wanted"), (1, "least wanted")):
            order = members[np.argsort(sign * selection.scores[members], kind="stable")]
            rows.append(ImageRow(f"{name}, {kind}", bank.candidates, order[:columns]))
    return rows


def kept_and_discarded(
    bank: FeatureBank, selection: Selection, seed: int = 0, columns: int = 16
) -> Figure:
    """Plot random kept and discarded candidates of each class (the paper's Fig. 2 and 3).

    :param bank: bank with the candidates' images
    :param selection: kept candidates
    :param seed: random seed of the draw
    :param columns: images per row
    :raises ValueError: if the bank has no images
    :raises ImportError: if matplotlib is not installed
    """
    return _plot_rows(bank, kept_rows(bank, selection, seed, columns), columns)


def real_and_candidates(bank: FeatureBank, seed: int = 0, columns: int = 16) -> Figure:
    """Plot random real training images and candidates of each class.

    :param bank: bank with images
    :param seed: random seed of the draw
    :param columns: images per row
    :raises ValueError: if the bank has no images
    :raises ImportError: if matplotlib is not installed
    """
    return _plot_rows(bank, real_rows(bank, seed, columns), columns)


def most_and_least_wanted(bank: FeatureBank, selection: Selection, columns: int = 8) -> Figure:
    """Plot each class's candidates with the highest and the lowest scores.

    Scores and the ends of the ids stand under the images.

    :param bank: bank with the candidates' images
    :param selection: selection with the scores
    :param columns: images per row
    :raises ValueError: if the bank has no images
    :raises ImportError: if matplotlib is not installed
    """
    return _plot_rows(bank, wanted_rows(bank, selection, columns), columns, selection)


def _draw(members: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw up to ``count`` members without replacement, in order of position."""
    return np.sort(rng.choice(members, min(count, len(members)), replace=False))


def _plot_rows(
    bank: FeatureBank, rows: Sequence[ImageRow], columns: int, scored: Selection | None = None
) -> Figure:
    """Plot rows of images, with scores and ids of a selection."""
    for row in rows:
        if row.dataset.images is None:
            name = "train" if row.dataset is bank.train else "candidates"
            raise ValueError(f"{bank.source}: {name}/images is missing; there is nothing to plot")

    # The figure's size, in inches: images, a title per row, and a caption under each image.
    height, width = (bank.candidates if len(bank.candidates) else bank.train).image_size
    inches = 1.1 if scored else 0.72
    title_height = 0.26
    caption_height = 0.28 if scored else 0.0
    row_height = inches * height / width + title_height + caption_height
    figure = new_figure(inches * columns, row_height * len(rows))

    for axes, row in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows):
        axes.set_title(literal(row.title), loc="left", fontsize=9, pad=2)
        axes.set_axis_off()
        axes.imshow(_row_pixels(row, columns, (height, width)), interpolation="nearest")
        if scored:
            _write_captions(axes, row, scored, (height, width))
    return figure


def _row_pixels(row: ImageRow, columns: int, size: tuple[int, int]) -> np.ndarray:
    """Return a row as one image, with blanks up to the number of columns."""
    images = np.full((columns, *size, 3), 255, np.uint8)
    if len(row.positions):
        images[: len(row.positions)] = row.dataset.subset(row.positions).pixels(size)
    border = GAP // 2
    frame = ((border, border), (border, border), (0, 0))
    return np.pad(image_grid(images, columns, GAP), frame, constant_values=255)


def _write_captions(axes: Axes, row: ImageRow, scored: Selection, size: tuple[int, int]) -> None:
    height, width = size
    for place, position in enumerate(row.positions):
        name = scored.ids[position]
        # File names differ at their ends.
        end = name if len(name) <= ID_LENGTH else f"…{name[1 - ID_LENGTH :]}"
        axes.text(
            (place + 0.5) * (width + GAP),
            height + GAP + 1,
            literal(f"{scored.scores[position]:.3g}\n{end}"),
            ha="center",
            va="top",
            fontsize=7,
        )
