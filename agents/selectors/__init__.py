"""Who selects: one ``select(bank, seed) -> Selection`` for all."""

from agents.selectors.base import RatioSelector, Selector
from agents.selectors.baselines import AllSelector, CentroidSelector, NoneSelector, RandomSelector
from agents.selectors.policy import PolicySelector, mask_of_episode

SELECTORS: dict[str, type[Selector]] = {s.name: s for s in (NoneSelector, AllSelector, RandomSelector, CentroidSelector)}
"""Selectors that need no training, by name."""

__all__ = [
    "SELECTORS",
    "AllSelector",
    "CentroidSelector",
    "NoneSelector",
    "PolicySelector",
    "RandomSelector",
    "RatioSelector",
    "Selector",
    "mask_of_episode",
]
