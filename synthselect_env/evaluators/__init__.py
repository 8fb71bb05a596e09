"""Train on real + selected, score on validation: by a linear probe in closed form, or by full retraining."""

from __future__ import annotations

from synthselect_env.bank import FeatureBank
from synthselect_env.evaluators.base import Evaluations, Evaluator
from synthselect_env.evaluators.linear_probe import LinearProbeEvaluator
from synthselect_env.evaluators.retrain import RetrainEvaluator

EVALUATORS: dict[str, type[Evaluator]] = {"linear_probe": LinearProbeEvaluator, "resnet34": RetrainEvaluator}


def make_evaluator(evaluator: str | Evaluator, bank: FeatureBank, **kwargs: object) -> Evaluator:
    """An evaluator from what a user may give for one.

    :param evaluator: a key of :data:`EVALUATORS`, or an evaluator, which is returned as it is
    :param bank: the bank it scores selections of
    :param kwargs: passed to the evaluator's constructor
    :raises ValueError: when the name is unknown, or the evaluator belongs to another pool
    """
    if isinstance(evaluator, Evaluator):
        if len(evaluator.bank.candidates) != len(bank.candidates):
            raise ValueError(
                f"the evaluator scores selections of {len(evaluator.bank.candidates)} candidates, {bank.source} has {len(bank.candidates)}"
            )
        return evaluator
    if evaluator not in EVALUATORS:
        raise ValueError(f"unknown evaluator {evaluator!r}; one of {', '.join(EVALUATORS)}, or an Evaluator")
    return EVALUATORS[evaluator](bank, **kwargs)


__all__ = ["EVALUATORS", "Evaluations", "Evaluator", "LinearProbeEvaluator", "RetrainEvaluator", "make_evaluator"]
