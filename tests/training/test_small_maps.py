"""Convolutions as matrix products, against torch's convolution."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from synthselect_env.training.small_maps import SmallMapConv2d, with_small_maps


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 3), (5, 4), (8, 8)], ids=str)
@pytest.mark.parametrize("kernel", [1, 3, (3, 1)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, (1, 2)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_one_convolution(
    size: tuple[int, int],
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int],
    bias: bool,
) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(128, 6, kernel, stride, padding=1, bias=bias).double()
    product = with_small_maps(copy.deepcopy(convolution))
    assert isinstance(product, SmallMapConv2d)
    images = torch.randn(2, 128, *size, dtype=torch.float64)
    outputs = convolution(images), product(images)
    assert torch.allclose(*outputs, rtol=0, atol=1e-12)
    gradients = []
    for module, output in zip((convolution, product), outputs):
        output.square().sum().backward()
        gradients.append(module.weight.grad)
    assert torch.allclose(*gradients, rtol=0, atol=1e-9)


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_a_network_has_the_same_weights_and_outputs(architecture: str) -> None:
    network = torchvision.models.get_model(architecture, weights=None, num_classes=2)
    network = network.double().eval()
    images = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    expected = network(images)
    names = list(network.state_dict())
    changed = with_small_maps(network)
    assert list(changed.state_dict()) == names
    assert torch.allclose(changed(images), expected, rtol=0, atol=1e-10)
