"""Selection -> validation metrics: retraining, linear probe, and the datamodel of retrainings."""

from __future__ import annotations

from synthselect_env.bank import FeatureBank
from synthselect_env.evaluators.base import (
    ClassifierEvaluator,
    CreditEvaluator,
    Evaluations,
    Evaluator,
    has_credit,
    require_credit,
)
from synthselect_env.evaluators.cached import CachedEvaluator
from synthselect_env.evaluators.candidate_scores import CandidateScores, candidate_scores
from synthselect_env.evaluators.datamodel import DatamodelEvaluator
from synthselect_env.evaluators.design import differing_settings, draw_design, with_retrainings
from synthselect_env.evaluators.linear_probe import LinearProbeEvaluator
from synthselect_env.evaluators.parallel import ParallelEvaluator, spread
from synthselect_env.evaluators.ray_actors import RayEvaluator
from synthselect_env.evaluators.retrain import PaperRetrainEvaluator, RetrainEvaluator

EVALUATORS: dict[str, type[Evaluator]] = {
    "linear_probe": LinearProbeEvaluator,
    "datamodel": DatamodelEvaluator,
    "small_cnn": RetrainEvaluator,
    "resnet34": PaperRetrainEvaluator,
}
"""Evaluators by name."""


def default_evaluator(bank: FeatureBank) -> str:
    """Return the name of a bank's default evaluator.

    It is the datamodel where the bank has retrainings, and the linear probe where it has none.
    """
    return "linear_probe" if bank.retrainings is None else "datamodel"


def make_evaluator(
    evaluator: str | Evaluator | None, bank: FeatureBank, **kwargs: object
) -> Evaluator:
    """Return an evaluator from any form that a user may give it in.

    :param evaluator: name in :data:`EVALUATORS`, an evaluator, which is returned as it is, or None
        for the :func:`default_evaluator`
    :param bank: feature bank whose selections it scores
    :param kwargs: constructor arguments of an evaluator that is given by name
    :raises ValueError: if the name is unknown, the evaluator belongs to another bank, or arguments
        come with an evaluator
    """
    if evaluator is None:
        evaluator = default_evaluator(bank)
    if isinstance(evaluator, str):
        if evaluator not in EVALUATORS:
            raise ValueError(
                f"unknown evaluator {evaluator!r}; one of {', '.join(EVALUATORS)}, or an Evaluator"
            )
        return EVALUATORS[evaluator](bank, **kwargs)
    if not isinstance(evaluator, Evaluator) or not hasattr(evaluator, "bank"):
        raise ValueError(
            f"{evaluator!r} is no evaluator; give a name, or an object whose __init__ calls "
            "super().__init__(bank)"
        )
    if kwargs:
        raise ValueError(
            f"{', '.join(kwargs)}: arguments go with an evaluator's name, this one is already made"
        )
    differing = _differing_splits(evaluator, bank)
    if differing:
        raise ValueError(
            f"the evaluator was made for another bank ({evaluator.bank.source}) than "
            f"{bank.source}, with other {', '.join(differing)}; make one for this bank"
        )
    return evaluator


def _differing_splits(evaluator: Evaluator, bank: FeatureBank) -> list[str]:
    """Return the names of the splits in which the evaluator's bank differs."""
    differing = []
    for name in ("train", "valid", "candidates"):
        ours, theirs = getattr(evaluator.bank, name), getattr(bank, name)
        if ours is theirs:
            continue
        if evaluator.dataset_digest(ours) != evaluator.dataset_digest(theirs):
            differing.append(name)
    return differing


__all__ = [
    "EVALUATORS",
    "CachedEvaluator",
    "CandidateScores",
    "ClassifierEvaluator",
    "CreditEvaluator",
    "DatamodelEvaluator",
    "Evaluations",
    "Evaluator",
    "LinearProbeEvaluator",
    "PaperRetrainEvaluator",
    "ParallelEvaluator",
    "RayEvaluator",
    "RetrainEvaluator",
    "candidate_scores",
    "default_evaluator",
    "differing_settings",
    "draw_design",
    "has_credit",
    "make_evaluator",
    "require_credit",
    "spread",
    "with_retrainings",
]
