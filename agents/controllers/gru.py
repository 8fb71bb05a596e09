"""The paper's ablations of the controller: gated recurrent units."""

from __future__ import annotations

import math

import torch
from torch import nn

from agents.controllers.base import Controller


class GRUController(Controller):
    """Gated recurrent unit (Cho et al. 2014) over the candidates.

    It reads them in the order of the batch: class by class, nearest to the centroid first. The
    paper gives no details of this ablation. Here it has a learned input projection as in the
    transformer, one layer and one direction, so that a decision depends on the candidates before
    it. With ``bidirectional`` it depends on all of them.

    .. code-block:: python

        states, pooled = GRUController(n_features=14)(torch.zeros(1, 8, 14))

    :param n_features: length d of a candidate's row
    :param width: length h of a candidate's state, also when ``bidirectional``
    :param n_layers: number of recurrent layers
    :param bidirectional: whether to read in both directions, each at half the width
    :raises ValueError: if two directions cannot share the width
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
            width // 2 if bidirectional else width,
            n_layers,
            batch_first=True,
            bidirectional=bidirectional,
        )

    def forward(self, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the candidates' states, and their mean.  (b, n, d) -> (b, n, h), (b, h)"""
        states, _ = self.recurrence(self.project(candidates))
        return states, states.mean(1)


class GRUAttentionController(GRUController):
    """:class:`GRUController` whose states attend to all states of the batch.

    A state h becomes ``tanh(W [h; softmax(hᵀ W_a H / √width) H])``, where H are all states. This is
    Eq. 5 of Luong et al. (2015) with the bilinear score of their Eq. 8, scaled as in a transformer.

    .. code-block:: python

        states, pooled = GRUAttentionController(n_features=14)(torch.zeros(1, 8, 14))

    :param n_features: length d of a candidate's row
    :param width: length h of a candidate's state, also when ``bidirectional``
    :param n_layers: number of recurrent layers
    :param bidirectional: whether to read in both directions, each at half the width
    :raises ValueError: if two directions cannot share the width
    """

    def __init__(
        self, n_features: int, width: int = 64, n_layers: int = 1, bidirectional: bool = False
    ) -> None:
        super().__init__(n_features, width, n_layers, bidirectional)
        self.score = nn.Linear(width, width, bias=False)
        self.combine = nn.Linear(2 * width, width)

    def forward(self, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the candidates' states, and their mean.  (b, n, d) -> (b, n, h), (b, h)"""
        states, _ = super().forward(candidates)
        scores = self.score(states) @ states.transpose(1, 2) / math.sqrt(self.width)  # (b, n, n)
        summary = scores.softmax(2) @ states  # (b, n, h)
        attended = torch.tanh(self.combine(torch.cat([states, summary], dim=2)))
        return attended, attended.mean(1)
