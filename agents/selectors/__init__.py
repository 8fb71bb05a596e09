"""Selectors: from ``none`` to reinforcement learning, all with one method.

``selector.select(bank, seed) -> Selection``. See :class:`Selector` for how to write one.
"""

from agents.selectors.base import RatioSelector, Selector
from agents.selectors.baselines import (
    AllSelector,
    CentroidSelector,
    NoneSelector,
    OracleSelector,
    RandomSelector,
)
from agents.selectors.matching import GradientMatchingSelector, HerdingSelector
from agents.selectors.metric_learning import EntropyCentroidSelector, TripletSelector
from agents.selectors.policy import PolicySelector, TrainingSelector, mask_of_episode
from agents.selectors.search import (
    BanzhafSelector,
    CreditSelector,
    CrossEntropySelector,
    DVRLSelector,
    RandomSearchSelector,
    SearchSelector,
)
from agents.selectors.valuation import (
    ConfidenceSelector,
    DataOOBSelector,
    InfluenceSelector,
    KNNShapleySelector,
    LabelFitRealismSelector,
)

SELECTORS: dict[str, type[Selector]] = {
    selector.name: selector
    for selector in (
        NoneSelector,
        AllSelector,
        RandomSelector,
        CentroidSelector,
        TripletSelector,
        EntropyCentroidSelector,
        ConfidenceSelector,
        LabelFitRealismSelector,
        KNNShapleySelector,
        DataOOBSelector,
        InfluenceSelector,
        GradientMatchingSelector,
        HerdingSelector,
        OracleSelector,
        RandomSearchSelector,
        CrossEntropySelector,
        BanzhafSelector,
        CreditSelector,
        DVRLSelector,
    )
}
"""Selectors by name. Add a class of your own here to give it by name, or pass an object instead.

A trained policy is wrapped by :class:`PolicySelector`, an agent to train by
:class:`TrainingSelector`.
"""

FitAndLooksSelector = LabelFitRealismSelector
"""Name in 0.1."""

__all__ = [
    "SELECTORS",
    "AllSelector",
    "BanzhafSelector",
    "CentroidSelector",
    "ConfidenceSelector",
    "CreditSelector",
    "CrossEntropySelector",
    "DVRLSelector",
    "DataOOBSelector",
    "EntropyCentroidSelector",
    "GradientMatchingSelector",
    "HerdingSelector",
    "InfluenceSelector",
    "KNNShapleySelector",
    "LabelFitRealismSelector",
    "NoneSelector",
    "OracleSelector",
    "PolicySelector",
    "RandomSearchSelector",
    "RandomSelector",
    "RatioSelector",
    "SearchSelector",
    "Selector",
    "TrainingSelector",
    "TripletSelector",
    "mask_of_episode",
]
