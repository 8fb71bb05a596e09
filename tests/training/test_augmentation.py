from __future__ import annotations

import pytest
import torch

from synthselect_env.training.augmentation import AUGMENTATIONS, colour_jitter, dihedral


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("size", [(12, 12), (12, 8)])
def test_augmentations_are_seeded_and_stay_in_range(name: str, size: tuple[int, int]) -> None:
    images = torch.rand(6, 3, *size, generator=torch.Generator().manual_seed(0))
    augmentation = AUGMENTATIONS[name]
    draws = [augmentation.draw((6,), torch.Generator().manual_seed(1)) for _ in range(2)]
    first, again = (augmentation.apply(images, *drawn) for drawn in draws)
    assert torch.equal(first, again) and first.shape == images.shape
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(first, images) == (name == "none")


def test_a_batch_of_many_is_drawn_as_it_is_applied() -> None:
    flips, colours = AUGMENTATIONS["histology"].draw((5, 4), torch.Generator().manual_seed(0))
    assert flips.shape == colours.shape == (5, 3, 4)
    assert 0.3 < flips.float().mean() < 0.7 and 0.8 <= colours.min() < colours.max() <= 1.2
    never, still = AUGMENTATIONS["none"].draw((5, 4), torch.Generator().manual_seed(0))
    assert not never.any() and (still == 1).all()


def test_each_image_gets_its_own_change() -> None:
    """The first is mirrored, the second turned upside down and brighter, the third untouched."""
    images = torch.rand(3, 3, 4, 4) * 0.5
    flips = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    colours = torch.ones(3, 3)
    colours[0, 1] = 1.5
    changed = AUGMENTATIONS["histology"].apply(images, flips, colours)
    assert torch.allclose(changed[0], images[0].flip(2))
    assert torch.allclose(changed[1], images[1].flip(1) * 1.5)
    assert torch.allclose(changed[2], images[2])


@pytest.mark.parametrize("change", [dihedral, colour_jitter])
def test_changes_by_a_generator(change) -> None:
    images = torch.rand(6, 3, 12, 8)
    first, again = (change(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first, images)


@pytest.mark.parametrize(("size", "views"), [((12, 12), 8), ((12, 8), 4)])
def test_views_are_all_positions(size: tuple[int, int], views: int) -> None:
    images = torch.rand(3, 3, *size)
    shown = AUGMENTATIONS["histology"].views(images)
    assert len(shown) == views and torch.equal(shown[0], images)
    assert len({view.numpy().tobytes() for view in shown}) == views
