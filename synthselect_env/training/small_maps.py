"""Convolutions of small maps as one matrix product, which processors compute several times faster.

Deep stages of a network see maps of a few pixels if the images are small, and have many weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

SMALL_MAP = 9
"""Largest number of output pixels per image at which the product is faster."""

MANY_CHANNELS = 128
"""Smallest number of input channels at which the product is faster."""


class SmallMapConv2d(nn.Conv2d):
    """A convolution that is computed as one matrix product where that is faster: on a processor,
    for maps of few pixels. It has the same weights and outputs, beyond rounding.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the convolution.

        :param images: (b, c, h, w)
        :return: (b, c_out, h_out, w_out)
        """
        assert not isinstance(self.padding, str)
        (top, left), (down, right) = self.padding, self.stride
        n_rows = (images.shape[2] + 2 * top - self.kernel_size[0]) // down + 1
        n_columns = (images.shape[3] + 2 * left - self.kernel_size[1]) // right + 1
        if images.device.type != "cpu" or n_rows * n_columns > SMALL_MAP:
            return super().forward(images)

        # Put what each output pixel sees side by side.
        padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, left, left, top, top))  # (b, h, w, c)
        seen = [
            padded[:, i : i + down * (n_rows - 1) + 1 : down, j::right][:, :, :n_columns]
            for i in range(self.kernel_size[0])
            for j in range(self.kernel_size[1])
        ]
        windows = torch.cat(seen, 3)  # (b, h_out, w_out, kernel · c)
        weights = self.weight.permute(0, 2, 3, 1).flatten(1)  # (c_out, kernel · c)
        return F.linear(windows, weights, self.bias).permute(0, 3, 1, 2)


def with_small_maps(network: nn.Module) -> nn.Module:
    """Make a network's convolutions compute small maps as one matrix product, and return it.

    :param network: network; convolutions of few channels, in groups, with dilation, or that pad
        with anything but a number of zeros, stay as they are
    """
    for module in network.modules():
        if (
            type(module) is nn.Conv2d
            and module.in_channels >= MANY_CHANNELS
            and module.groups == 1
            and module.dilation == (1, 1)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
        ):
            module.__class__ = SmallMapConv2d
    return network
