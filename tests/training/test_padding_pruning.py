"""A pruned network against the whole one: same outputs, same network after training."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from synthselect_env.training.padding_pruning import (
    minimal_kernel,
    used_kernel_range,
    without_padding_weights,
)


def range_with_gradient(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> tuple[int, int] | None:
    """Range of the weights that have a gradient when every pixel counts."""
    weight = torch.zeros(1, 1, kernel, dtype=torch.float64, requires_grad=True)
    pixels = torch.arange(1, size + 1, dtype=torch.float64).reshape(1, 1, -1)
    torch.conv1d(pixels, weight, stride=stride, padding=padding, dilation=dilation).sum().backward()
    used = np.flatnonzero(weight.grad.numpy())
    return (int(used[0]), int(used[-1]) + 1) if len(used) else None


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
def test_weights_that_meet_pixels(kernel: int, dilation: int, stride: int) -> None:
    for size in range(1, 9):
        for padding in range(kernel * dilation):
            if size + 2 * padding <= dilation * (kernel - 1):
                continue  # no output
            case = (size, kernel, stride, padding, dilation)
            assert used_kernel_range(*case) == range_with_gradient(*case), case


@pytest.mark.parametrize(
    ("sizes", "stride", "expected"),
    [
        ({1}, 1, (1, 2, 0)),  # the middle weight alone
        ({2}, 1, (0, 3, 1)),
        ({2}, 2, (1, 3, 0)),
        ({1, 4}, 1, (0, 3, 1)),  # what any of the sizes needs
    ],
)
def test_part_of_a_padded_kernel_of_three(
    sizes: set[int], stride: int, expected: tuple[int, int, int]
) -> None:
    assert minimal_kernel(sizes, 3, stride, padding=1, dilation=1) == expected


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (5, 4)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_one_convolution(size: tuple[int, int], stride: int, dilation: int, groups: int) -> None:
    torch.manual_seed(0)
    padded = nn.Conv2d(4, 6, 3, stride, padding=dilation, dilation=dilation, groups=groups)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), padded).double()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    expected, weight = network(images), padded.weight.detach().clone()
    with without_padding_weights(network, size):
        kernel = padded.kernel_size
        assert torch.allclose(network(images), expected, rtol=0, atol=1e-12)
    assert padded.kernel_size == (3, 3) and padded.padding == (dilation, dilation)
    assert torch.equal(padded.weight, weight)
    if dilation == 1:
        smaller = {1: 1, 2: 2 if stride == 2 else 3}
        assert kernel == tuple(smaller.get(n, 3) for n in size)


@pytest.mark.parametrize(
    "architecture", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x0_5"]
)
def test_training_ends_with_the_same_network(architecture: str) -> None:
    torch.manual_seed(0)
    whole = torchvision.models.get_model(architecture, weights=None, num_classes=3).double()
    pruned = copy.deepcopy(whole)
    images = torch.rand(2, 4, 3, 32, 32, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 4))

    def train(network: nn.Module) -> int:
        optimizer = torch.optim.SGD(network.parameters(), 0.01)
        for step in range(2):
            torch.manual_seed(step)  # dropout
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[step]), labels[step]).backward()
            optimizer.step()
        return sum(p.numel() for p in network.parameters())

    size_of_whole = train(whole)
    with without_padding_weights(pruned, (32, 32)):
        assert train(pruned) < size_of_whole
    assert sum(p.numel() for p in pruned.parameters()) == size_of_whole
    state = pruned.state_dict()
    for name, value in whole.state_dict().items():
        # Rounding grows over the steps.
        assert torch.allclose(state[name], value, rtol=0, atol=1e-8), name


def test_weights_that_any_image_size_needs_are_kept() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1))
    large = torch.rand(1, 3, 4, 4)
    expected = network(large)
    with without_padding_weights(network, (1, 1), (4, 4)):
        assert torch.equal(network(large), expected)
    with without_padding_weights(network, (1, 1)):
        assert network[0].weight.shape == (2, 3, 1, 1)
        network[0].weight.data += 1
    assert network[0].weight.shape == (2, 3, 3, 3)


@pytest.mark.parametrize("unusual", [{"padding_mode": "reflect"}, {"padding": "same"}], ids=str)
def test_other_paddings_are_left_alone(unusual: dict[str, str]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3, **{"padding": 1, **unusual}))
    with without_padding_weights(network, (2, 2)):
        assert network[0].weight.shape == (2, 3, 3, 3)


def test_network_is_whole_again_after_an_error() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1))
    with pytest.raises(RuntimeError, match="stopped"), without_padding_weights(network, (1, 1)):
        raise RuntimeError("stopped")
    assert network[0].weight.shape == (2, 3, 3, 3)
    assert network(torch.rand(1, 3, 5, 5)).shape == (1, 2, 5, 5)
