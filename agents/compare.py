"""The protocol: selectors × rounds → figures on the test split.  The only reader of ``bank.test``."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from agents.selectors import SELECTORS, Selector
from synthselect_env import FeatureBank, Selection
from synthselect_env.evaluators import Evaluator, make_evaluator
from synthselect_env.files import atomic_write
from synthselect_env.metrics import METRICS


def half_interval(values: np.ndarray) -> float:
    """Half the width of the 95 % confidence interval of the mean, by Student's t.

    :param values: two or more (n,)
    """
    return float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


@dataclass(frozen=True)
class Outcome:
    """One selector in one round.

    :param selector: its name
    :param round: number of the round
    :param selection: what it kept
    :param valid: metric to figure on the validation split
    :param test: metric to figure on the test split
    :param seconds: that selecting took
    """

    selector: str
    round: int
    selection: Selection
    valid: dict[str, float]
    test: dict[str, float]
    seconds: float

    @property
    def gap(self) -> float:
        """Validation accuracy minus test accuracy: what was gained on the pictures that were optimised on, and only there."""
        return self.valid["accuracy"] - self.test["accuracy"]


@dataclass(frozen=True)
class Comparison:
    """Outcomes of several selectors under one classifier.

    :param classifier: what gave the figures
    :param outcomes: a selector and round each
    """

    classifier: str
    outcomes: tuple[Outcome, ...]

    @property
    def selectors(self) -> list[str]:
        """Names, in the order of comparison."""
        return list(dict.fromkeys(outcome.selector for outcome in self.outcomes))

    def of(self, selector: str) -> list[Outcome]:
        """The outcomes of one selector, a round each."""
        return [outcome for outcome in self.outcomes if outcome.selector == selector]

    def test_figures(self, selector: str, metric: str) -> np.ndarray:
        """A selector's test figures, one a round."""
        return np.array([outcome.test[metric] for outcome in self.of(selector)])

    def gain(self, selector: str, over: str = "none", metric: str = "accuracy") -> tuple[float, float, float]:
        """A selector's mean test gain over another one, paired by round, with the 95 % interval of Student's t over rounds.

        Rounds have one test split: the interval says how far the gain depends on the seed, not on which test pictures there are.

        :param selector: whose gain
        :param over: over whom
        :param metric: which figure
        :return: mean, lower and upper end; the ends are NaN where there is one round
        :raises ValueError: when one of the two was not compared
        """
        if missing := [name for name in (selector, over) if name not in self.selectors]:
            raise ValueError(f"{', '.join(missing)} was not compared; there are {', '.join(self.selectors)}")
        gains = self.test_figures(selector, metric) - self.test_figures(over, metric)
        if len(gains) < 2:
            return float(gains.mean()), float("nan"), float("nan")
        half = half_interval(gains)
        return float(gains.mean()), float(gains.mean()) - half, float(gains.mean()) + half

    def save(self, path: str | Path) -> None:
        """Write a CSV with a row a selector and round."""
        columns = [
            "classifier",
            "selector",
            "round",
            "selected",
            "seconds",
            *(f"test_{m}" for m in METRICS),
            *(f"valid_{m}" for m in METRICS),
        ]
        with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for o in self.outcomes:
                writer.writerow(
                    [
                        self.classifier,
                        o.selector,
                        o.round,
                        o.selection.count,
                        f"{o.seconds:.2f}",
                        *(o.test[m] for m in METRICS),
                        *(o.valid[m] for m in METRICS),
                    ]
                )


def compare(
    bank: FeatureBank,
    selectors: Sequence[str | Selector],
    rounds: int = 5,
    classifier: str | Evaluator = "linear_probe",
    seed: int = 0,
    **classifier_kwargs: object,
) -> Comparison:
    """Let every selector select, train the same classifier on each selection, and score it on the test split.

    Round r has seed ``seed + r`` for all selectors and classifiers, so that rounds are paired.

    :param bank: the bank
    :param selectors: selectors, or names in :data:`~agents.selectors.SELECTORS`
    :param rounds: repetitions
    :param classifier: "linear_probe", "resnet34", or an evaluator
    :param seed: of the first round
    :param classifier_kwargs: passed to the classifier's constructor when it is given by name
    :raises ValueError: when a selector or classifier is unknown, or two selectors have the same name
    """
    unknown = [s for s in selectors if isinstance(s, str) and s not in SELECTORS]
    if unknown:
        raise ValueError(f"unknown selector {', '.join(unknown)}; one of {', '.join(SELECTORS)}, or a Selector")
    chosen = [SELECTORS[s]() if isinstance(s, str) else s for s in selectors]
    names = [s.name for s in chosen]
    if len(set(names)) < len(names):
        raise ValueError(f"selectors must have different names, got {', '.join(names)}")
    evaluator = make_evaluator(classifier, bank, **classifier_kwargs)
    if not evaluator.can_score_any_split:
        raise ValueError(f"{type(evaluator).__name__} trains no classifier that the test split could judge; compare by another one")
    outcomes: list[Outcome] = []
    for r in range(rounds):
        selections, seconds = [], []
        for selector in chosen:
            start = time.perf_counter()
            selections.append(selector.select(bank, seed + r))
            seconds.append(time.perf_counter() - start)
        valid, test = evaluator.evaluate_on(np.stack([s.mask for s in selections]), seed + r, bank.valid, bank.test)
        for i, (name, selection) in enumerate(zip(names, selections)):
            on_valid, on_test = ({m: float(getattr(evaluations, m)[i]) for m in METRICS} for evaluations in (valid, test))
            outcomes.append(Outcome(name, r, selection, on_valid, on_test, seconds[i]))
    return Comparison(classifier if isinstance(classifier, str) else type(classifier).__name__, tuple(outcomes))
