"""The paper's ablations of the controller: a gated recurrent unit over the candidates, without and with attention."""

from __future__ import annotations

import math

import torch
from torch import nn

from agents.controllers.base import Controller


class GRUController(Controller):
    """Gated recurrent unit (Cho et al. 2014) that reads the candidates in the batch's order: class by class, nearest first.

    The paper names the ablation and no more. Ours: a learned input projection as in the transformer, one layer, one direction, so
    that a decision depends on the candidates before it; ``bidirectional`` lets it depend on all.

    :param n_features: length d of a candidate's row
    :param width: of the states, even when ``bidirectional``
    :param n_layers: recurrent layers
    :param bidirectional: read in both directions, at half the width each
    :raises ValueError: when the width does not divide
    """

    def __init__(
        self, n_features: int, width: int = 64, n_layers: int = 1, bidirectional: bool = False
    ) -> None:
        super().__init__(n_features, width)
        if bidirectional and width % 2:
            raise ValueError(f"width {width} is odd; two directions need an even one")
        self.project = nn.Linear(n_features, width)
        self.recurrence = nn.GRU(
            width,
            width // (1 + bidirectional),
            n_layers,
            batch_first=True,
            bidirectional=bidirectional,
        )

    def forward(self, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States of the candidates, and their mean.  (b, n, d) -> (b, n, h), (b, h)"""
        states, _ = self.recurrence(self.project(candidates))
        return states, states.mean(1)


class GRUAttentionController(GRUController):
    """A :class:`GRUController` whose every state looks back at all of them: ``tanh(W [h; softmax(hᵀ W_a H/√h) H])``.

    Luong et al. (2015), Eq. 5 and the bilinear score of Eq. 8, with the scale of the transformer's.

    :param n_features: length d of a candidate's row
    :param width: of the states
    :param n_layers: recurrent layers
    :param bidirectional: read in both directions, at half the width each
    """

    def __init__(
        self, n_features: int, width: int = 64, n_layers: int = 1, bidirectional: bool = False
    ) -> None:
        super().__init__(n_features, width, n_layers, bidirectional)
        self.score = nn.Linear(width, width, bias=False)
        self.combine = nn.Linear(2 * width, width)

    def forward(self, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States of the candidates, and their mean.  (b, n, d) -> (b, n, h), (b, h)"""
        states, _ = super().forward(candidates)
        weights = (self.score(states) @ states.transpose(1, 2) / math.sqrt(self.width)).softmax(
            2
        )  # (b, n, n)
        attended = torch.tanh(self.combine(torch.cat([states, weights @ states], dim=2)))
        return attended, attended.mean(1)
