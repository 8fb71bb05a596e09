"""Train on real + selected, score on validation: in full, by a linear probe, or as a datamodel of retrainings predicts."""

from __future__ import annotations

from synthselect_env.bank import FeatureBank
from synthselect_env.evaluators.base import Evaluations, Evaluator
from synthselect_env.evaluators.cached import CachedEvaluator
from synthselect_env.evaluators.datamodel import DatamodelEvaluator, with_retrainings
from synthselect_env.evaluators.linear_probe import LinearProbeEvaluator
from synthselect_env.evaluators.parallel import ParallelEvaluator
from synthselect_env.evaluators.ray_actors import RayEvaluator
from synthselect_env.evaluators.retrain import QuickRetrainEvaluator, RetrainEvaluator

EVALUATORS: dict[str, type[Evaluator]] = {
    "linear_probe": LinearProbeEvaluator,
    "datamodel": DatamodelEvaluator,
    "resnet18": QuickRetrainEvaluator,
    "resnet34": RetrainEvaluator,
}


def default_evaluator(bank: FeatureBank) -> str:
    """The name of what scores a bank's selections where nothing is said: a datamodel where it has retrainings, a linear probe where it has none."""
    return "linear_probe" if bank.retrainings is None else "datamodel"


def make_evaluator(evaluator: str | Evaluator | None, bank: FeatureBank, **kwargs: object) -> Evaluator:
    """An evaluator from what a user may give for one.

    :param evaluator: a key of :data:`EVALUATORS`; an evaluator, which is returned as it is; or None for the
        :func:`default_evaluator`
    :param bank: the bank it scores selections of
    :param kwargs: passed to the constructor of an evaluator that is given by name
    :raises ValueError: when the name is unknown, the evaluator belongs to another bank, or arguments come with an evaluator
    """
    if evaluator is None:
        evaluator = default_evaluator(bank)
    if isinstance(evaluator, Evaluator):
        if kwargs:
            raise ValueError(f"{', '.join(kwargs)}: arguments go with an evaluator's name, this one is already made")
        pairs = {name: (getattr(evaluator.bank, name), getattr(bank, name)) for name in ("train", "valid", "candidates")}
        differing = [
            name
            for name, (ours, theirs) in pairs.items()
            if ours is not theirs and evaluator.digest_of(ours) != evaluator.digest_of(theirs)
        ]
        if differing:
            raise ValueError(
                f"the evaluator was made for another bank ({evaluator.bank.source}) than {bank.source}, with other {', '.join(differing)}; "
                "make one for this bank"
            )
        return evaluator
    if evaluator not in EVALUATORS:
        raise ValueError(f"unknown evaluator {evaluator!r}; one of {', '.join(EVALUATORS)}, or an Evaluator")
    return EVALUATORS[evaluator](bank, **kwargs)


__all__ = [
    "EVALUATORS",
    "CachedEvaluator",
    "DatamodelEvaluator",
    "Evaluations",
    "Evaluator",
    "LinearProbeEvaluator",
    "ParallelEvaluator",
    "QuickRetrainEvaluator",
    "RayEvaluator",
    "RetrainEvaluator",
    "default_evaluator",
    "make_evaluator",
    "with_retrainings",
]
