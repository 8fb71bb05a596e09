"""Test the generator benchmark's measures on arrays with known answers."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def quality(import_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return import_benchmark("generator_quality")


def pictures(n: int, seed: int, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "turn",
    [
        lambda x: x,
        lambda x: x[:, ::-1],
        lambda x: np.rot90(x, axes=(1, 2)),
        lambda x: x.swapaxes(1, 2),
    ],
)
def test_copies_are_flagged_in_any_orientation(
    quality: ModuleType, turn: Callable[[np.ndarray], np.ndarray]
) -> None:
    train, held_out, fresh = pictures(40, 0), pictures(200, 1), pictures(60, 2)
    noisy = np.clip(
        train[:20] + np.random.default_rng(3).normal(0, 4, train[:20].shape), 0, 255
    ).astype(np.uint8)
    generated = np.concatenate([turn(noisy), fresh])
    found = quality.memorisation(*(quality.thumbnails(x) for x in (generated, held_out, train)))
    assert (found.nearest[:20] == np.arange(20)).all() and found.generated[
        :20
    ].max() < 0.03 < found.generated[20:].min()
    assert all(20 / 80 <= share < 20 / 80 + 0.08 for share in found.shares)
    assert (
        found.train.min() > 0.1
    )  # a training image is not its own neighbour, in whatever orientation


def test_blank_pictures_are_near_only_in_plain_distance(quality: ModuleType) -> None:
    train, held_out = pictures(40, 0), pictures(100, 1)
    for i, shade in enumerate((240, 241)):
        train[i] = shade
    blank = np.full((1, 16, 16, 3), 242, np.uint8) + np.random.default_rng(0).integers(
        0, 3, (1, 16, 16, 3), dtype=np.uint8
    )
    forms = [
        quality.thumbnails(x) for x in (np.concatenate([blank, train[10:11]]), held_out, train)
    ]
    plain = quality.memorisation(*forms)
    relative = quality.over_contrast(plain, *(form[0] for form in forms))
    assert plain.shares[0] == 1 and relative.shares[0] == 0.5 and relative.generated[1] < 1e-9


def test_fresh_pictures_are_not_flagged(quality: ModuleType) -> None:
    found = quality.memorisation(
        *(quality.thumbnails(pictures(n, seed)) for n, seed in ((500, 0), (500, 1), (50, 2)))
    )
    assert found.shares[0] < 0.04


def test_identical_sets_have_no_distance(quality: ModuleType) -> None:
    features = np.random.default_rng(0).normal(size=(30, 5))
    same = np.repeat(features[:1], 30, axis=0)
    found = quality.frechet_against_floor(same, same, same, draws=2)
    assert found["generated"] == found["real"] == found["train"] == pytest.approx([0, 0], abs=1e-9)
    assert found["n"] == [15]


def test_floor_and_shift(quality: ModuleType) -> None:
    rng = np.random.default_rng(0)
    real, train, generated = (
        rng.normal(size=(400, 5)),
        rng.normal(size=(300, 5)),
        rng.normal(size=(250, 5)) + [2, 0, 0, 0, 0],
    )
    found = quality.frechet_against_floor(generated, real, train, draws=4)
    assert found["n"] == [200] and np.mean(found["generated"]) == pytest.approx(4, rel=0.2)
    assert max(found["real"] + found["train"]) < 0.2
    assert found == quality.frechet_against_floor(generated, real, train, draws=4)


def test_stratified(quality: ModuleType) -> None:
    labels = np.repeat([0, 1], [100, 30])
    chosen = quality.stratified(labels, np.array([0.4, 0.6]))
    assert np.bincount(labels[chosen]).tolist() == [20, 30]
    assert len(quality.stratified(labels, np.array([100, 30]) / 130)) == 130


def test_orientations(quality: ModuleType) -> None:
    assert len({form.tobytes() for form in quality.orientations(pictures(1, 0))}) == 8
    tall = quality.orientations(pictures(1, 0, (32, 16)))
    assert len(tall) == 4 and all(form.shape == (1, 32, 16, 3) for form in tall)
    assert len(quality.thumbnails(pictures(2, 0, (32, 16)))) == 4


def test_mean_std(quality: ModuleType) -> None:
    assert quality.mean_std([1.0, 3.0]) == "2.000 ± 1.414" and quality.mean_std([0.5]) == "0.500"
    assert quality.markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
