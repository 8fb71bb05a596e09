"""SmallCNN: a network of few layers for small images, made to be retrained thousands of times."""

from __future__ import annotations

import torch
from torch import nn

WIDTHS = (16, 32, 64, 64, 128)
"""Channels of the convolutions."""

POOLED = (1, 2, 3)
"""Numbers of the convolutions after which the map is halved."""


class SmallCNN(nn.Module):
    """Five 3×3 convolutions, each with batch norm and ReLU; mean over places; linear head.

    The first convolution has stride 2. Max pooling halves the map after the second, third and
    fourth. The design search is on benchmarks/results/recipe.md.

    .. code-block:: python

        SmallCNN(n_classes=2)(torch.zeros(8, 3, 48, 48))  # (8, 2)

    :param n_classes: number of classes
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c_in = 3
        for number, c_out in enumerate(WIDTHS):
            stride = 2 if number == 0 else 1
            layers.append(nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False))
            layers.append(nn.BatchNorm2d(c_out))
            if number in POOLED:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            layers.append(nn.ReLU(inplace=True))  # after pooling: the same, on fewer places
            c_in = c_out
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(c_in, n_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits.

        :param images: (b, 3, h, w)
        :return: (b, n_classes)
        """
        return self.head(self.features(images).mean((2, 3)))  # type: ignore[no-any-return]
