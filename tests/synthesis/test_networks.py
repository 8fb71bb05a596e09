from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from synthselect_env.synthesis.networks import (
    CircularPad,
    Discriminator,
    Generator,
    ResidualBlock,
)


@pytest.mark.parametrize("size", [(4, 5), (1, 1), (1, 3)])
def test_circular_pad_equals_torchs(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    ours, theirs = CircularPad.apply(x), F.pad(x, (1, 1, 1, 1), mode="circular")
    assert torch.equal(ours, theirs)
    weights = torch.randn_like(theirs)
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (ours, theirs)]
    assert torch.allclose(*gradients)


def test_moved_noise_moves_the_image() -> None:
    """No place of the canvas differs from another: noise moved by cells changes nothing else."""
    torch.manual_seed(0)
    network = Generator((48, 64), 2, 4, 8).eval()
    z, labels = torch.randn(3, network.latent_length), torch.tensor([0, 1, 0])
    vector, *noises = z.split([network.latent, *network.noise_lengths], dim=1)
    moved = []
    for noise, (h, w) in zip(noises, [network.grid, *network.noise_sizes]):
        cell = h // network.grid[0]
        moved.append(noise.view(3, -1, h, w).roll((cell, 2 * cell), (2, 3)).flatten(1))
    with torch.no_grad():
        image = network(z, labels)
        again = network(torch.cat([vector, *moved], 1), labels)
    expected = image.roll((16, 32), (2, 3))
    assert torch.allclose(expected, again, atol=1e-5)
    assert (image - expected).abs().mean() > 0.01


def test_heads_see_standardised_features() -> None:
    torch.manual_seed(0)
    judge = Discriminator(2, 4, 4)
    images = torch.rand(64, 3, 32, 32) * 2 - 1
    judge.calibrate(images)
    with torch.no_grad():
        for head, features in zip(judge.heads, judge.maps(images)):
            mixed = head.mix(features)
            assert torch.allclose(mixed.mean((0, 2, 3)), torch.zeros(8), atol=1e-4)
            assert torch.allclose(mixed.std((0, 2, 3)), torch.ones(8), atol=1e-3)


def test_repetition_is_seen_and_halves_do_not_mix() -> None:
    """The coarsest head alone knows how images of a group differ."""
    torch.manual_seed(0)
    judge = Discriminator(2, 4, 4)
    one, other = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    labels = torch.tensor([0, 1, 0, 1])
    with torch.no_grad():
        judge.calibrate(one)
        judge(one, labels)
        judge.eval()  # spectral norms stand still
        both = judge(torch.cat([one, other]), labels.repeat(2))
        alone = judge(one, labels)
        repeated = judge(one[:1].repeat(4, 1, 1, 1), labels[:1].repeat(4))
    assert all(torch.allclose(b[:4], a, atol=1e-5) for a, b in zip(alone, both))
    same = [torch.allclose(r[0], a[0], atol=1e-5) for r, a in zip(repeated, alone)]
    assert same == [True] * 5 + [False]


def test_narrow_networks_have_the_gradient_of_a_strided_shortcut() -> None:
    """A strided convolution in the shortcut corrupts memory on some processors."""
    torch.manual_seed(0)
    block = ResidualBlock(4, 8).double().eval()
    x = torch.randn(2, 4, 6, 9, dtype=torch.float64, requires_grad=True)
    every_second = x[:, :, ::2, ::2].detach().requires_grad_()
    expected = F.conv2d(x, block.shortcut[0].weight, stride=2)
    assert torch.allclose(block.shortcut[0](every_second), expected)
    assert block(x).shape == (2, 8, 3, 5)
    assert torch.autograd.gradcheck(block.shortcut, every_second)
