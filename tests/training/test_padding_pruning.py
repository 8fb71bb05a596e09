"""A trimmed network against the whole one: the same outputs, the same gradients, the same network after training."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from synthselect_env.training.padding_pruning import used_kernel_range, without_padding_weights


def brute_force(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> tuple[int, int] | None:
    """Weights with a gradient when every pixel counts."""
    weight = torch.zeros(1, 1, kernel, dtype=torch.float64, requires_grad=True)
    pixels = torch.arange(1, size + 1, dtype=torch.float64).reshape(1, 1, -1)
    torch.conv1d(pixels, weight, stride=stride, padding=padding, dilation=dilation).sum().backward()
    used = np.flatnonzero(weight.grad.numpy())
    return (int(used[0]), int(used[-1]) + 1) if len(used) else None


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
def test_weights_that_meet_pixels(kernel: int, dilation: int, stride: int) -> None:
    cases = [
        (n, p)
        for n in range(1, 9)
        for p in range(kernel * dilation)
        if n + 2 * p >= dilation * (kernel - 1) + 1
    ]
    for size, padding in cases:
        assert used_kernel_range(size, kernel, stride, padding, dilation) == brute_force(
            size, kernel, stride, padding, dilation
        ), (size, padding)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (5, 4)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_one_convolution(size: tuple[int, int], stride: int, dilation: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    convolution = nn.Conv2d(
        4, 6, 3, stride, padding=dilation, dilation=dilation, groups=groups
    ).double()
    entry = nn.Conv2d(3, 4, 1).double()
    network = nn.Sequential(entry, convolution)
    pictures = torch.randn(2, 3, *size, dtype=torch.float64, generator=generator)
    whole = network(pictures)
    before = convolution.weight.detach().clone()
    with without_padding_weights(network, size):
        kernel = convolution.kernel_size
        assert torch.allclose(network(pictures), whole, rtol=0, atol=1e-12)
    assert convolution.kernel_size == (3, 3) and convolution.padding == (dilation, dilation)
    assert torch.equal(convolution.weight, before)
    if dilation == 1:
        assert kernel == tuple({1: 1, 2: 2 if stride == 2 else 3}.get(n, 3) for n in size)


@pytest.mark.parametrize(
    "architecture", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x0_5"]
)
def test_training_ends_with_the_same_network(architecture: str) -> None:
    torch.manual_seed(0)
    whole = torchvision.models.get_model(architecture, weights=None, num_classes=3).double()
    small = copy.deepcopy(whole)
    generator = torch.Generator().manual_seed(0)
    pictures, labels = (
        torch.rand(3, 8, 3, 32, 32, generator=generator),
        torch.randint(0, 3, (3, 8), generator=generator),
    )

    def train(network: nn.Module) -> int:
        optimizer = torch.optim.SGD(network.parameters(), 0.01)
        for step in range(3):
            torch.manual_seed(step)  # dropout
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(pictures[step].double()), labels[step]).backward()
            optimizer.step()
        return sum(p.numel() for p in network.parameters())

    size_of_whole = train(whole)
    with without_padding_weights(small, (32, 32)):
        assert train(small) < size_of_whole
    assert sum(p.numel() for p in small.parameters()) == size_of_whole
    for name, value in whole.state_dict().items():
        assert torch.allclose(small.state_dict()[name], value, rtol=0, atol=1e-8), (
            name
        )  # rounding grows over the steps


def test_pictures_of_another_size_keep_what_they_meet() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1))
    large = torch.rand(1, 3, 4, 4)
    expected = network(large)
    with without_padding_weights(network, (1, 1), (4, 4)):
        assert torch.equal(network(large), expected)
    with without_padding_weights(network, (1, 1)):
        assert network[0].weight.shape == (2, 3, 1, 1)
        network[0].weight.data += 1
    assert network[0].weight.shape == (2, 3, 3, 3)


def test_whole_again_after_an_error() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1))
    with pytest.raises(RuntimeError, match="stopped"), without_padding_weights(network, (1, 1)):
        raise RuntimeError("stopped")
    assert network[0].weight.shape == (2, 3, 3, 3) and network(torch.rand(1, 3, 5, 5)).shape == (
        1,
        2,
        5,
        5,
    )
