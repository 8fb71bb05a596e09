from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.report import kept_and_discarded, most_and_least_wanted, real_and_candidates
from synthselect_env import FeatureBank, Selection

pytest.importorskip("matplotlib")


@pytest.fixture
def selection(toy: FeatureBank) -> Selection:
    """Three candidates of the first class, and all but one of the second."""
    n = len(toy.candidates)
    first = toy.candidates.labels == 0
    rank = np.where(first, np.cumsum(first), np.cumsum(~first))
    mask = np.where(first, rank <= 3, rank != 1)
    return Selection.of(toy, mask, np.random.default_rng(0).normal(size=n), "mine")


def test_rows_are_filled_with_white(toy: FeatureBank, selection: Selection) -> None:
    columns = 5
    kept, discarded, *_, few = kept_and_discarded(toy, selection, columns=columns).axes
    left, right = toy.classes
    assert kept.get_title(loc="left") == f"{left}, kept: 3"
    assert few.get_title(loc="left") == f"{right}, discarded: 1"

    height, width = toy.candidates.image_size
    pixels = np.asarray(kept.images[0].get_array())
    assert pixels.shape == (height + 2, columns * (width + 2), 3)
    images = toy.candidates.pixels()[selection.mask & (toy.candidates.labels == 0)]
    for i, image in enumerate(images):
        start = i * (width + 2) + 1
        assert np.array_equal(pixels[1:-1, start : start + width], image)
    assert (pixels[:, 3 * (width + 2) :] == 255).all()
    assert discarded.images[0].get_array().shape == pixels.shape


def test_most_wanted_stand_first_with_score_and_id(toy: FeatureBank, selection: Selection) -> None:
    axes = most_and_least_wanted(toy, selection, columns=3).axes
    assert len(axes) == 4
    members = np.flatnonzero(toy.candidates.labels == 0)
    order = members[np.argsort(-selection.scores[members])]
    for panel, expected in ((axes[0], order[:3]), (axes[1], order[::-1][:3])):
        texts = [text.get_text() for text in panel.texts]
        assert texts == [f"{selection.scores[i]:.3g}\n{selection.ids[i]}" for i in expected]


def test_long_ids_are_cut_at_the_front(toy: FeatureBank, selection: Selection) -> None:
    ids = tuple(f"a/very/long/folder/image-{i:03}.png" for i in range(len(selection)))
    axes = most_and_least_wanted(toy, replace(selection, ids=ids), columns=2).axes
    for text in axes[0].texts:
        _, end = text.get_text().split("\n")
        assert end.startswith("…") and end.endswith(".png") and len(end) == 18


def test_bank_without_images_is_refused(toy: FeatureBank, selection: Selection) -> None:
    bare = replace(toy, train=replace(toy.train, images=None))
    kept_and_discarded(bare, selection)
    with pytest.raises(ValueError, match="train/images is missing; there is nothing to plot"):
        real_and_candidates(bare)
