"""What reads a batch of candidates for policies that are not ours: SB3's own MLP, LSTM and Q-value policies."""

from __future__ import annotations

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class CandidateProjection(BaseFeaturesExtractor):
    """A few learned numbers a candidate, by one linear layer for all, side by side.

    SB3's default extractor flattens 512 × 519 numbers into the first layer, which then has tens of millions of weights. For
    ``policy_kwargs={"features_extractor_class": CandidateProjection}``. Rows of one candidate each (``Box(d)``) are projected, too.

    :param observation_space: ``Box(n, d)`` or ``Box(d)``
    :param width: numbers a candidate
    """

    def __init__(self, observation_space: spaces.Box, width: int = 4) -> None:
        *rows, d = observation_space.shape
        super().__init__(observation_space, width * (rows[0] if rows else 1))
        self.project = nn.Sequential(nn.Linear(d, width), nn.Tanh())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """(b, n, d) -> (b, n * width)"""
        return self.project(observations).flatten(1)
