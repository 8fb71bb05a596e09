"""Features extractor for SB3's own policies: MLP, LSTM and Q-value networks."""

from __future__ import annotations

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class CandidateProjection(BaseFeaturesExtractor):
    """Project each candidate's row to a few numbers by one shared linear layer.

    SB3's default extractor flattens all rows into the first layer, which then has tens of millions
    of weights. A space of one candidate, ``Box(d)``, is projected too.

    .. code-block:: python

        policy_kwargs = {"features_extractor_class": CandidateProjection, "net_arch": [64]}
        model = SAC("MlpPolicy", BoxThresholdWrapper(env), policy_kwargs=policy_kwargs)

    :param observation_space: ``Box(n, d)`` or ``Box(d)``
    :param width: numbers per candidate
    """

    def __init__(self, observation_space: spaces.Box, width: int = 4) -> None:
        *rows, d = observation_space.shape
        n = rows[0] if rows else 1
        super().__init__(observation_space, width * n)
        self.project = nn.Sequential(nn.Linear(d, width), nn.Tanh())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the projections of all candidates side by side.  (b, n, d) -> (b, n * width)"""
        return self.project(observations).flatten(1)
