"""SmallCNN: a network of few layers for small images, made to be retrained thousands of times."""

from __future__ import annotations

import torch
from torch import nn

WIDTHS = (16, 32, 64, 64, 128)
"""Channels of the convolutions."""


class SmallCNN(nn.Module):
    """Five 3×3 convolutions, each with batch norm and ReLU; mean over places; linear head.

    The first convolution has stride 2. Max pooling halves the map before each from the third on.
    The design search is on benchmarks/results/recipe.md.

    .. code-block:: python

        SmallCNN(n_classes=2)(torch.zeros(8, 3, 48, 48))  # (8, 2)

    :param n_classes: number of classes
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        first, second, *others = WIDTHS
        layers = [*_convolution(3, first, stride=2), *_convolution(first, second)]
        c_in = second
        for c_out in others:
            layers += [nn.MaxPool2d(2, ceil_mode=True), *_convolution(c_in, c_out)]
            c_in = c_out
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(c_in, n_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits.

        :param images: (b, 3, h, w)
        :return: (b, n_classes)
        """
        return self.head(self.features(images).mean((2, 3)))  # type: ignore[no-any-return]


def _convolution(c_in: int, c_out: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    ]
