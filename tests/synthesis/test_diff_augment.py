from __future__ import annotations

import torch

from synthselect_env.synthesis.diff_augment import augment, crop


def test_augmentation_is_seeded_and_differentiable() -> None:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out, again = (augment(images, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(out, again)
    assert out.shape == images.shape
    assert not torch.equal(out, augment(images, torch.Generator().manual_seed(1)))
    out.square().sum().backward()
    assert (images.grad.abs().sum((1, 2, 3)) > 0).all()


def test_parts_are_cut_from_all_places_alike() -> None:
    canvas = torch.arange(6 * 8).view(1, 1, 6, 8).repeat(4000, 3, 1, 1)
    parts = crop(canvas, (4, 5), torch.Generator().manual_seed(0))
    first = parts[:, 0, 0, 0]
    assert torch.equal(parts - first.view(-1, 1, 1, 1), canvas[:, :, :4, :5])
    places, counts = first.unique(return_counts=True)
    assert places.tolist() == [8 * y + x for y in range(3) for x in range(4)]
    assert counts.min() > 4000 / 12 * 0.75


def test_a_part_of_the_whole_size_is_the_whole() -> None:
    canvas = torch.arange(6 * 8).view(1, 1, 6, 8).repeat(2, 3, 1, 1)
    assert torch.equal(crop(canvas, (6, 8), torch.Generator()), canvas)
