"""Controller: interface of the networks that read a batch of candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Controller(nn.Module, ABC):
    """Network that reads one batch of candidates.

    It must not depend on the number of candidates, so that a trained one reads batches of any size.
    A subclass becomes a policy by being named in one:

    .. code-block:: python

        class MyPolicy(SelectionPolicy):
            controller_class = MyController

    :param n_features: length d of a candidate's row
    :param width: length h of a candidate's state
    """

    def __init__(self, n_features: int, width: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.width = width

    @abstractmethod
    def forward(self, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return one state per candidate, and one of the batch.  (b, n, d) -> (b, n, h), (b, h)"""
