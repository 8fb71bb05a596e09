from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from synthselect_env.data.flaws import FLAWS, FlawPlan, plan_flaws


def pictures(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random colour fields with sharp dark discs, as nuclei on stroma."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    images = np.empty((n, 48, 48, 3), np.uint8)
    for i in range(n):
        image = rng.uniform([200, 130, 180], [240, 180, 220]) * np.ones((48, 48, 1))
        for cy, cx in rng.uniform(0, 48, (12, 2)):
            image[(y - cy) ** 2 + (x - cx) ** 2 < 9] = [90, 50, 130]
        images[i] = image
    return images, np.arange(n) % 2


def plant(
    images: np.ndarray, labels: np.ndarray, n_classes: int, shares: dict[str, float], seed: int
) -> tuple[FlawPlan, np.ndarray]:
    plan = plan_flaws(labels, n_classes, shares, seed)
    return plan, plan.spoil(np.arange(len(labels)), images[plan.source])


SHARES = {"wrong label": 0.25, "blur and noise": 0.25, "wrong stain": 0.25}


def test_shares_and_truth() -> None:
    images, labels = pictures()
    planted, spoilt = plant(images, labels, 2, SHARES, seed=0)
    assert np.bincount(planted.flaw, minlength=6).tolist() == [10, 10, 10, 10, 0, 0]
    changed = (spoilt != images).any((1, 2, 3))
    assert (changed == np.isin(planted.flaw, (2, 3))).all()
    assert ((planted.labels != labels) == (planted.flaw == 1)).all()


def test_same_seed_same_flaws() -> None:
    images, labels = pictures()
    (first, spoilt), (second, again), (other, _) = (
        plant(images, labels, 2, SHARES, seed=s) for s in (0, 0, 1)
    )
    assert (
        (spoilt == again).all()
        and (first.labels == second.labels).all()
        and (first.flaw == second.flaw).all()
    )
    assert (first.flaw != other.flaw).any()
    some = np.array([31, 2, 17])
    assert (
        first.spoil(some, images[first.source[some]]) == spoilt[some]
    ).all()  # whichever others are asked for


def test_blur_takes_edges_and_stain_takes_colours() -> None:
    images, labels = pictures()
    planted, spoilt = plant(images, labels, 2, SHARES, seed=0)

    def likeness(a: np.ndarray, b: np.ndarray) -> float:
        return np.corrcoef(a.ravel(), b.ravel())[0, 1]

    blurred, stained = planted.flaw == 2, planted.flaw == 3
    for before, after in zip(images[blurred], spoilt[blurred]):
        soft = np.asarray(Image.fromarray(before).filter(ImageFilter.GaussianBlur(1.5)))
        assert likeness(after, soft) > likeness(after, before)
    shift = np.abs(spoilt[stained].mean((1, 2)) - images[stained].mean((1, 2))).max(1)
    assert (shift > 5).all()


def test_near_duplicates_are_like_another_picture_of_their_class() -> None:
    images, labels = pictures()
    planted, spoilt = plant(images, labels, 2, {"near duplicate": 0.2}, seed=0)
    for i in np.flatnonzero(planted.flaw == FLAWS.index("near duplicate")):
        twin = [np.corrcoef(spoilt[i][4:-4, 4:-4].ravel(), im[4 + dy : 44 + dy, ::-1][:, 4 + dx : 44 + dx].ravel())[0, 1]
                for im in images[(planted.flaw == 0) & (labels == labels[i])] for dy in range(-2, 3) for dx in range(-2, 3)]  # fmt: skip
        assert max(twin) > 0.99 and (spoilt[i] != images[i]).any()


def test_wrong_labels_are_another_class() -> None:
    images, _ = pictures()
    labels = np.arange(40) % 4
    planted, _ = plant(images, labels, 4, {"wrong label": 1.0}, seed=0)
    assert (planted.labels != labels).all() and set(planted.labels) == {0, 1, 2, 3}


def test_tears_show_the_slide_and_keep_the_rest() -> None:
    images, labels = pictures()
    planted, spoilt = plant(images, labels, 2, {"torn": 0.5}, seed=0)
    for before, after in zip(
        images[planted.flaw == FLAWS.index("torn")], spoilt[planted.flaw == FLAWS.index("torn")]
    ):
        glass = (after == int(np.percentile(before, 99))).all(-1)
        assert 0.1 < glass.mean() < 0.6
        for row, torn, gap in zip(
            before, after, glass
        ):  # what is left of a row is a part of it, in its order
            assert {tuple(p) for p in torn[~gap]} <= {tuple(p) for p in row}


@pytest.mark.parametrize(
    ("shares", "message"),
    [({"burnt": 0.1}, "unknown flaw burnt"), ({"wrong label": 1.2}, "add up to at most 1")],
)
def test_errors(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_flaws(pictures()[1], 2, shares, seed=0)
