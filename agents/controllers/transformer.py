"""The paper's controller: a transformer encoder over the candidates of a batch."""

from __future__ import annotations

import math

import torch
from torch import nn

from agents.controllers.base import Controller

LONGEST_WAVELENGTH = 10_000.0
"""Longest wavelength of the positions, as a multiple of the shortest."""


class TransformerController(Controller):
    """Transformer encoder (Vaswani et al. 2017) over candidates, with sinusoidal positions.

    Self-attention lets a decision depend on the other candidates. The position is a candidate's
    rank by class and centroid distance. It is the only thing that breaks permutation equivariance,
    on purpose.

    The paper has 2 layers and 2 heads, and does not give the width. Here there are a learned input
    projection to ``width``, normalisation before each block, GELU and no dropout. SB3 collects in
    eval mode and updates in train mode. With dropout, the new policy would differ from the old one
    before any update.

    .. code-block:: python

        states, pooled = TransformerController(n_features=14)(torch.zeros(1, 8, 14))

    :param n_features: length d of a candidate's row
    :param width: length h of a candidate's state, a multiple of ``2 * n_heads``
    :param n_layers: number of encoder layers
    :param n_heads: number of attention heads
    :raises ValueError: if the heads cannot share the width
    """

    def __init__(
        self, n_features: int, width: int = 64, n_layers: int = 2, n_heads: int = 2
    ) -> None:
        super().__init__(n_features, width)
        if width % (2 * n_heads):
            raise ValueError(f"width {width} is not a multiple of 2 × {n_heads} heads")
        self.project = nn.Linear(n_features, width)
        layer = nn.TransformerEncoderLayer(
            width,
            n_heads,
            2 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(
            layer, n_layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the candidates' states, and their mean.  (b, n, d) -> (b, n, h), (b, h)"""
        positions = sinusoidal_positions(candidates.shape[1], self.width, candidates.device)
        states = self.encoder(self.project(candidates) + positions)
        return states, states.mean(1)


def sinusoidal_positions(n: int, width: int, device: torch.device) -> torch.Tensor:
    """Return sines and cosines of the ranks 0 to n - 1.

    Their wavelengths are geometrically spaced.

    :param n: number of ranks
    :param width: numbers per rank, even
    :param device: device of the result
    :return: (n, width)
    """
    exponents = torch.arange(0, width, 2, device=device)
    rates = torch.exp(exponents * (-math.log(LONGEST_WAVELENGTH) / width))
    angles = torch.arange(n, device=device)[:, None] * rates  # (n, width / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
