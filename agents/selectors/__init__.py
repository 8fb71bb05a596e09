"""Selectors: from ``none`` to reinforcement learning, all with one method.

``selector.select(bank, seed) -> Selection``. See :class:`Selector` for how to write one.
"""

from agents.selectors.base import PerReal, RatioSelector, Selector
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

SIZE_MARK, SHARE_MARK = "@", "%"
"""Marks of a size in a name: ``centroid@2`` is two per real image, ``centroid@50%`` half the pool."""


def make_selector(name: str) -> Selector:
    """Return a selector by name. One that orders candidates may have a size in its name.

    .. code-block:: python

        make_selector("centroid")  # half of the pool
        make_selector("centroid@2")  # two synthetic images per real training image
        make_selector("centroid@25%")  # a quarter of the pool

    :param name: key of :data:`SELECTORS`, with or without a size
    :raises ValueError: if there is no such selector, it has no size, or the size is no number
    """
    kind_name, mark, size = name.partition(SIZE_MARK)
    if kind_name not in SELECTORS:
        raise ValueError(
            f"unknown selector {kind_name!r}; one of {', '.join(SELECTORS)}, or, on the command line, "
            "the directory of a run"
        )
    kind = SELECTORS[kind_name]
    if not mark:
        return kind()
    if not issubclass(kind, RatioSelector):
        raise ValueError(f"{name}: {kind_name} decides on its own how many to keep")
    try:
        number = float(size.removesuffix(SHARE_MARK))
    except ValueError as error:
        raise ValueError(
            f"{name}: the size must be a number of synthetic images per real one, or a share of the "
            f"pool, such as {kind_name}{SIZE_MARK}2 or {kind_name}{SIZE_MARK}50{SHARE_MARK}"
        ) from error
    selector = kind(number / 100 if size.endswith(SHARE_MARK) else PerReal(number))
    selector.name = name
    return selector


def is_random(name: str) -> bool:
    """Return whether a selector of that name draws at random, at any size."""
    return name.partition(SIZE_MARK)[0] == RandomSelector.name


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
    "PerReal",
    "PolicySelector",
    "RandomSearchSelector",
    "RandomSelector",
    "RatioSelector",
    "SearchSelector",
    "Selector",
    "TrainingSelector",
    "TripletSelector",
    "is_random",
    "make_selector",
    "mask_of_episode",
]
