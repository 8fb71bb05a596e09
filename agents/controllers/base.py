"""What a controller is: a network that reads a batch of candidates and says something of each and of all."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Controller(nn.Module, ABC):
    """Reads one batch of candidates.

    A controller must not depend on the number of candidates, so that a trained one reads batches of another size.

    :param n_features: length d of a candidate's row
    :param width: length h of what it says of each candidate
    """

    def __init__(self, n_features: int, width: int) -> None:
        super().__init__()
        self.n_features, self.width = n_features, width

    @abstractmethod
    def forward(self, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One state a candidate, and one of the whole batch.  (b, n, d) -> (b, n, h), (b, h)"""
