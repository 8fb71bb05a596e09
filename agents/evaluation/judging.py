"""Training classifiers on selections, and measuring them on annotated and on test images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from agents.evaluation.outcomes import Outcome
from agents.evaluation.selecting import TimedSelection
from synthselect_env import Dataset
from synthselect_env.evaluators import Evaluations
from synthselect_env.metrics import METRICS


class Judge:
    """Train classifiers on selections, and measure them on both splits.

    :param evaluator: evaluator with ``predict``
    :param test: test split
    """

    def __init__(self, evaluator: Any, test: Dataset) -> None:
        self.evaluator = evaluator
        self.valid = evaluator.unwrapped.scored
        self.test = test
        self.folds: int | None = evaluator.unwrapped.folds
        held = evaluator.unwrapped.bank.retrainings
        by_folds = held is not None and held.folds is not None
        # Then the labels of the validation images shape scores and selections.
        self.labels_are_shared = self.folds is not None or by_folds

    def outcomes(self, selected: list[TimedSelection], number: int, seed: int) -> list[Outcome]:
        """Return one outcome per selection.

        :param selected: selections, which are trained on side by side
        :param number: number of the round
        :param seed: random seed of the training
        """
        # Train one classifier per selection, and one per fold. Predicting gets no labels.
        masks = np.stack([s.selection.mask for s in selected])  # (k, n)
        datasets = [_without_labels(self.valid), _without_labels(self.test)]
        if self.folds is None:
            both = Dataset.concatenate(datasets)  # one training predicts both
            predictions = [self.evaluator.predict(masks, seed, both)]
        else:
            of_test = self.evaluator.predict(masks, seed, datasets[1])
            predictions = [self._by_folds(selected, seed, of_test.shape[2]), of_test]
        log_p = np.concatenate(predictions, axis=1).astype(np.float32)  # (k, m, c)

        # Measure it on each split.
        n_valid = len(self.valid)
        test_log_p = log_p[:, n_valid:]
        of_labels = log_p[:, np.arange(n_valid), self.valid.labels]  # (k, v)
        valid = Evaluations.from_predictions(log_p[:, :n_valid], self.valid.labels)
        test = Evaluations.from_predictions(test_log_p, self.test.labels)
        return [
            Outcome(
                selector=s.selector.name,
                round=number,
                selection=s.selection,
                valid={metric: float(getattr(valid, metric)[k]) for metric in METRICS},
                test={metric: float(getattr(test, metric)[k]) for metric in METRICS},
                predictions=test_log_p[k],
                valid_likelihoods=of_labels[k],
                seconds=s.seconds,
                evaluations=s.selector.evaluations,
                is_rl=s.selector.is_rl,
                knows_truth=s.selector.knows_truth,
                leaks=self.labels_are_shared and s.selector.uses_labels and not s.by_fold,
            )
            for k, s in enumerate(selected)
        ]

    def _by_folds(self, selected: list[TimedSelection], seed: int, n_classes: int) -> np.ndarray:
        """Return the log-probabilities of all annotated images, by networks without their fold.

        :return: (k, m, c)
        """
        evaluator = self.evaluator.unwrapped
        log_p = np.zeros((len(selected), len(self.valid), n_classes))
        for fold in range(evaluator.folds):
            masks = [s.by_fold[fold] if s.by_fold else s.selection.mask for s in selected]
            held = _without_labels(evaluator.fold(fold))
            log_p[:, evaluator.fold_of == fold] = self.evaluator.predict(
                np.stack(masks), seed, held
            )
        return log_p


def _without_labels(dataset: Dataset) -> Dataset:
    return replace(dataset, labels=np.zeros_like(dataset.labels))
