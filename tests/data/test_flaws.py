from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from synthselect_env.data.flaws import FLAWS, FlawPlan, plan_flaws

SHARES = {"wrong label": 0.25, "blur and noise": 0.25, "wrong stain": 0.25}
LABELS = np.arange(40) % 2


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Flat random colours with sharp dark discs, as nuclei on stroma."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    images = np.empty((40, 48, 48, 3), np.uint8)
    for image in images:
        image[:] = rng.uniform([200, 130, 180], [240, 180, 220])
        for row, column in rng.uniform(0, 48, (12, 2)):
            image[(y - row) ** 2 + (x - column) ** 2 < 9] = [90, 50, 130]
    return images


def plant(
    images: np.ndarray, shares: dict[str, float], seed: int = 0
) -> tuple[FlawPlan, np.ndarray]:
    """Return a plan for all images, and all candidates."""
    plan = plan_flaws(LABELS, 2, shares, seed)
    return plan, plan.spoil(np.arange(40), images[plan.source])


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def test_shares_and_truth(images: np.ndarray) -> None:
    plan, spoilt = plant(images, SHARES)
    assert np.bincount(plan.flaw, minlength=6).tolist() == [10, 10, 10, 10, 0, 0]
    changed = (spoilt != images).any((1, 2, 3))
    assert (changed == np.isin(plan.flaw, (2, 3))).all()
    assert ((plan.labels != LABELS) == (plan.flaw == 1)).all()


def test_same_seed_same_flaws(images: np.ndarray) -> None:
    plan, spoilt = plant(images, SHARES)
    same, again = plant(images, SHARES)
    assert (same.flaw == plan.flaw).all() and (same.labels == plan.labels).all()
    assert (again == spoilt).all()
    other, _ = plant(images, SHARES, seed=1)
    assert (other.flaw != plan.flaw).any()


def test_a_candidate_is_the_same_whichever_others_are_asked_for(images: np.ndarray) -> None:
    plan, spoilt = plant(images, SHARES)
    some = np.array([31, 2, 17])
    assert (plan.spoil(some, images[plan.source[some]]) == spoilt[some]).all()


def test_blur_takes_edges(images: np.ndarray) -> None:
    plan, spoilt = plant(images, SHARES)
    blurred = plan.flaw == FLAWS.index("blur and noise")
    for before, after in zip(images[blurred], spoilt[blurred]):
        soft = np.asarray(Image.fromarray(before).filter(ImageFilter.GaussianBlur(1.5)))
        assert correlation(after, soft) > correlation(after, before)


def test_wrong_stain_takes_colours(images: np.ndarray) -> None:
    plan, spoilt = plant(images, SHARES)
    stained = plan.flaw == FLAWS.index("wrong stain")
    shift = spoilt[stained].mean((1, 2)) - images[stained].mean((1, 2))
    assert (np.abs(shift).max(1) > 5).all()


def test_near_duplicates_mirror_a_sound_image_of_their_class(images: np.ndarray) -> None:
    plan, spoilt = plant(images, {"near duplicate": 0.2})
    duplicates = np.flatnonzero(plan.flaw == FLAWS.index("near duplicate"))
    assert len(duplicates) == 8
    for i in duplicates:
        source = plan.source[i]
        assert source != i and plan.flaw[source] == 0 and LABELS[source] == LABELS[i]
        # The middle of the duplicate is found in its mirrored source, a few pixels away.
        mirrored, middle = images[source][:, ::-1], spoilt[i][4:-4, 4:-4]
        shifts = [(down, right) for down in range(9) for right in range(9)]
        found = [correlation(middle, mirrored[d : d + 40, r : r + 40]) for d, r in shifts]
        assert max(found) > 0.99


def test_wrong_labels_are_another_class() -> None:
    labels = np.arange(40) % 4
    plan = plan_flaws(labels, 4, {"wrong label": 1.0}, seed=0)
    assert (plan.labels != labels).all()
    assert set(plan.labels) == {0, 1, 2, 3}


def test_tears_show_the_slide_and_keep_the_rest(images: np.ndarray) -> None:
    plan, spoilt = plant(images, {"torn": 0.5})
    torn = plan.flaw == FLAWS.index("torn")
    for before, after in zip(images[torn], spoilt[torn]):
        glass = (after == int(np.percentile(before, 99))).all(-1)
        assert 0.1 < glass.mean() < 0.6
        for row_before, row_after, gap in zip(before, after, glass):
            colours = set(map(tuple, row_before))
            assert set(map(tuple, row_after[~gap])) <= colours


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"burnt": 0.1}, "unknown flaw burnt; there are wrong label, blur"),
        ({"wrong label": 1.2}, "add up to at most 1"),
        ({"torn": -0.1}, "must not be negative"),
    ],
)
def test_shares_that_cannot_be_planted(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_flaws(LABELS, 2, shares, seed=0)
