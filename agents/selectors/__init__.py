"""Who selects: one ``select(bank, seed) -> Selection`` for all."""

from agents.selectors.base import RatioSelector, Selector
from agents.selectors.baselines import AllSelector, CentroidSelector, NoneSelector, RandomSelector
from agents.selectors.policy import PolicySelector, mask_of_episode
from agents.selectors.search import (
    BanzhafSelector,
    CreditSelector,
    CrossEntropySelector,
    DVRLSelector,
    RandomSearchSelector,
    SearchSelector,
)

SELECTORS: dict[str, type[Selector]] = {
    s.name: s
    for s in (
        NoneSelector,
        AllSelector,
        RandomSelector,
        CentroidSelector,
        RandomSearchSelector,
        CrossEntropySelector,
        BanzhafSelector,
        CreditSelector,
        DVRLSelector,
    )
}
"""Selectors by name; a trained policy is a :class:`PolicySelector`."""

__all__ = [
    "SELECTORS",
    "AllSelector",
    "BanzhafSelector",
    "CentroidSelector",
    "CreditSelector",
    "CrossEntropySelector",
    "DVRLSelector",
    "NoneSelector",
    "PolicySelector",
    "RandomSearchSelector",
    "RandomSelector",
    "RatioSelector",
    "SearchSelector",
    "Selector",
    "mask_of_episode",
]
