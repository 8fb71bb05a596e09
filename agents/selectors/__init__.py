"""Who selects: one ``select(bank, seed) -> Selection`` for all."""

from agents.selectors.base import RatioSelector, Selector
from agents.selectors.baselines import (
    AllSelector,
    CentroidSelector,
    NoneSelector,
    OracleSelector,
    RandomSelector,
)
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
    GradientMatchingSelector,
    HerdingSelector,
    InfluenceSelector,
    KNNShapleySelector,
    LabelFitRealismSelector,
)

SELECTORS: dict[str, type[Selector]] = {
    s.name: s
    for s in (
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
"""Selectors by name; a trained policy is a :class:`PolicySelector`, an agent to be trained a :class:`TrainingSelector`."""

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
    "FitAndLooksSelector",
    "GradientMatchingSelector",
    "HerdingSelector",
    "InfluenceSelector",
    "KNNShapleySelector",
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
