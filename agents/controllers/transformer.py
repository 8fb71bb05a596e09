"""The paper's controller: a transformer encoder over the candidates of a batch."""

from __future__ import annotations

import math

import torch
from torch import nn

from agents.controllers.base import Controller


class TransformerController(Controller):
    """Transformer encoder (Vaswani et al. 2017): ``softmax(QKᵀ/√d)V`` over candidates, with sinusoidal rank positions.

    The paper has 2 layers and 2 heads. Self-attention lets a decision depend on the other candidates; the position
    is the candidate's rank by class and centroid distance, the one thing that breaks permutation equivariance, on purpose.
    Ours: a learned input projection to ``width`` (the paper's width is not given), normalisation before each block, GELU,
    and no dropout: SB3 collects in eval mode and updates in train mode, so dropout would make the new policy differ from the
    old one before any update.

    :param n_features: length d of a candidate's row
    :param width: of the encoder, a multiple of ``2 * n_heads``
    :param n_layers: encoder layers
    :param n_heads: attention heads
    :raises ValueError: when the width does not divide
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
        """States of the candidates, and their mean.  (b, n, d) -> (b, n, h), (b, h)"""
        states = self.encoder(
            self.project(candidates)
            + sinusoidal_positions(candidates.shape[1], self.width, candidates.device)
        )
        return states, states.mean(1)


def sinusoidal_positions(n: int, width: int, device: torch.device) -> torch.Tensor:
    """Sines and cosines of the rank at geometrically spaced wavelengths from 2π to 10,000 · 2π.  (n, width)"""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    angles = torch.arange(n, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
