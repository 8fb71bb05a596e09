from __future__ import annotations

import numpy as np
import pytest

from synthselect_env.data import apportion, draw_per_class, split_by_group

LABELS = np.repeat([0, 1], [10, 20])


def test_draw_per_class() -> None:
    drawn = draw_per_class(LABELS, (4, 7), seed=3)
    assert np.bincount(LABELS[drawn]).tolist() == [4, 7]
    assert (np.diff(drawn) > 0).all()  # increasing, none twice
    assert np.array_equal(drawn, draw_per_class(LABELS, (4, 7), seed=3))
    assert not np.array_equal(drawn, draw_per_class(LABELS, (4, 7), seed=4))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((11, 1), "class 0 has 10 images, 11 were asked for"),
        ((4,), "1 counts were given, and the labels are of 2 classes"),
        ((4, -1), "-1 images of class 1 were asked for"),
    ],
)
def test_counts_that_cannot_be_drawn(counts: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_per_class(LABELS, counts, seed=0)


@pytest.mark.parametrize("total", [0, 1, 2, 10, 256, 2304])
def test_apportion(total: int) -> None:
    labels = np.repeat([0, 1, 2], [588, 411, 1])
    counts = apportion(labels, total)
    assert sum(counts) == total
    exact = total * np.array([0.588, 0.411, 0.001])
    assert np.abs(counts - exact).max() < 1


def test_groups_stay_together_and_parts_get_their_share_of_each_class() -> None:
    rng = np.random.default_rng(0)
    groups = np.array([f"patient {i}" for i in rng.integers(0, 60, 900)])
    labels = rng.integers(0, 3, 900)
    parts = split_by_group(groups, labels, {"a": 0.6, "b": 0.4}, seed=0)
    everything = np.sort(np.concatenate([parts["a"], parts["b"]]))
    assert np.array_equal(everything, np.arange(900))
    assert not set(groups[parts["a"]]) & set(groups[parts["b"]])
    shares = np.bincount(labels[parts["a"]]) / np.bincount(labels)
    assert np.abs(shares - 0.6).max() < 0.05


def test_no_part_is_empty() -> None:
    groups, labels = ["x"] * 8 + ["y", "z"], np.zeros(10, int)
    uneven = split_by_group(groups, labels, {"a": 0.15, "b": 0.05, "c": 0.8}, seed=0)
    assert [len(part) for part in uneven.values()] == [1, 1, 8]

    pairs, labels = [f"patient {i // 2}" for i in range(20)], np.arange(20) // 10
    patients = split_by_group(pairs, labels, {"a": 0.7, "b": 0.1, "c": 0.2}, seed=0)
    assert min(map(len, patients.values())) >= 2


@pytest.mark.parametrize(
    ("groups", "shares", "message"),
    [
        (["x", "y", "z"], (0.6, 0.6), "shares must be positive and add up to 1"),
        (["x", "y", "z"], (1.2, -0.2), "shares must be positive and add up to 1"),
        (["x", "y"], (0.5, 0.5), "2 groups were given for 3 labels"),
        (["x", "y", "y"], (0.5, 0.25, 0.25), "2 groups cannot be split into 3 parts"),
    ],
)
def test_splits_that_cannot_be_made(
    groups: list[str], shares: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        split_by_group(groups, np.array([0, 1, 1]), dict(zip("abc", shares)), seed=0)
