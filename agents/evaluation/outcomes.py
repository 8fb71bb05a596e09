"""Outcomes of a comparison: one per selector and round, and what they say together."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.stats import norm

from agents.evaluation.bootstrap import paired_bootstrap, standard_error
from synthselect_env import FeatureBank, Selection
from synthselect_env.metrics import METRICS, more_is_better
from synthselect_env.storage import atomic_write
from synthselect_env.training.config import MANY_IMAGES

DEFAULT = "none"
"""Selector that is recommended unless another one is better."""

FEW_DEFAULT = "random@2"
"""The same where few images are annotated, which seldom show that it helps; see
benchmarks/results/few_images.md."""

LEVEL = 0.05
"""Chance of recommending something else than the default where nothing is better than it."""


def has_few_images(bank: FeatureBank) -> bool:
    """Return whether few images of a bank are annotated, those of the test split not counted."""
    return len(bank.train) + len(bank.valid) < MANY_IMAGES


def defaults(few: bool) -> tuple[str, ...]:
    """Return the selectors that may be recommended by default, the preferred one first.

    :param few: whether few images are annotated
    """
    return (FEW_DEFAULT, DEFAULT) if few else (DEFAULT,)


@dataclass(frozen=True, eq=False)
class Outcome:
    """Result of one selector in one round.

    :param selector: name of the selector
    :param round: number of the round
    :param selection: its selection
    :param valid: metrics on the validation split, by name
    :param test: metrics on the test split, by name
    :param predictions: log-probabilities of the m test images, float32 (m, c)
    :param valid_likelihoods: log-probabilities of the labels of the v validation images, float32
        (v,)
    :param seconds: time that selecting took
    :param evaluations: number of evaluator calls that selecting spent
    :param is_rl: see :attr:`~agents.selectors.Selector.is_rl`
    :param knows_truth: see :attr:`~agents.selectors.Selector.knows_truth`
    :param leaks: whether the labels of the images of ``valid`` shaped the selection that was scored
        on them, which makes these metrics too good
    """

    selector: str
    round: int
    selection: Selection
    valid: dict[str, float]
    test: dict[str, float]
    predictions: np.ndarray
    valid_likelihoods: np.ndarray
    seconds: float = 0.0
    evaluations: int = 0
    is_rl: bool = False
    knows_truth: bool = False
    leaks: bool = False

    @property
    def gap(self) -> float:
        """Validation accuracy minus test accuracy: the part that does not carry over."""
        return self.valid["accuracy"] - self.test["accuracy"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Outcomes of several selectors under one classifier, as :func:`compare` returns them.

    .. code-block:: python

        comparison = compare(load_bank("toy"), ["none", "centroid"])
        gain, low, high = comparison.gain("centroid", over="none")

    :param classifier: description of the classifier behind the metrics
    :param outcomes: one outcome per selector and round
    :param labels: labels of the test images, int64 (m,)
    :param groups: patients of the test images (m,), if they are known
    :param valid_groups: patients of the validation images (v,), if they are known
    :param few: whether few images are annotated, which changes what is recommended
    :param classes: class names in label order. Of two classes, sensitivity belongs to the second
        and specificity to the first
    """

    classifier: str
    outcomes: tuple[Outcome, ...]
    labels: np.ndarray
    groups: np.ndarray | None = None
    valid_groups: np.ndarray | None = None
    few: bool = False
    classes: Sequence[str] = ()

    @property
    def selectors(self) -> list[str]:
        """Names of the selectors, in the order of comparison."""
        return list(dict.fromkeys(outcome.selector for outcome in self.outcomes))

    def of(self, selector: str) -> list[Outcome]:
        """Return the outcomes of one selector, one per round.

        :raises ValueError: if it was not compared
        """
        found = [outcome for outcome in self.outcomes if outcome.selector == selector]
        if not found:
            raise ValueError(f"{selector} was not compared; there are {', '.join(self.selectors)}")
        return found

    def test_metrics(self, selector: str, metric: str) -> np.ndarray:
        """Return a selector's values of one test metric, one per round.  (r,)"""
        return np.array([outcome.test[metric] for outcome in self.of(selector)])

    def gain(
        self, selector: str, over: str = "none", metric: str = "accuracy"
    ) -> tuple[float, float, float]:
        """Return a selector's mean test gain over another one, with its 95 % interval.

        The interval is a paired bootstrap over rounds and test images, see
        :func:`~agents.evaluation.bootstrap.paired_bootstrap`.

        :param selector: name of the selector that gains
        :param over: name of the selector that it is compared with
        :param metric: name of the metric
        :return: mean, lower and upper end. A positive gain is an improvement, also of the Brier
            score, which is a loss
        :raises ValueError: if one of the two was not compared
        """
        key = (selector, over, metric)
        if key not in self._gains:
            ours = np.stack([outcome.predictions for outcome in self.of(selector)])
            theirs = np.stack([outcome.predictions for outcome in self.of(over)])
            interval = paired_bootstrap(ours, theirs, self.labels, metric, self.groups)
            mean, *ends = more_is_better(metric, np.array(interval)).tolist()
            self._gains[key] = (mean, min(ends), max(ends))
        return self._gains[key]

    @cached_property
    def _gains(self) -> dict[tuple[str, str, str], tuple[float, float, float]]:
        """Gains computed so far. All tables need them, and each can take seconds."""
        return {}

    def wins(self, selector: str, over: str, metric: str = "accuracy") -> tuple[int, int]:
        """Return the number of rounds that a selector won, and of all rounds.

        :param selector: name of the selector that wins
        :param over: name of the selector that it is compared with
        :param metric: name of the test metric
        :raises ValueError: if one of the two was not compared
        """
        ours = more_is_better(metric, self.test_metrics(selector, metric))
        theirs = more_is_better(metric, self.test_metrics(over, metric))
        better = ours > theirs
        return int(better.sum()), len(better)

    def best_control(self, metric: str = "accuracy") -> str | None:
        """Return the selector with the best mean test metric among the controls.

        Controls are all selectors that are not reinforcement learning and were not told the truth.
        The choice is made on the test split, in the control's favour: a method that claims to be
        better has to beat this one.

        :return: name of the selector, or None if there is no control
        """

        def mean(name: str) -> float:
            return more_is_better(metric, self.test_metrics(name, metric)).mean()

        excluded = {o.selector for o in self.outcomes if o.is_rl or o.knows_truth}
        controls = [name for name in self.selectors if name not in excluded]
        return max(controls, key=mean, default=None)

    def recommended(self) -> str:
        """Return the selector that the annotated images speak for.

        It is the one with the best mean log-likelihood on them: on the validation split, or on all
        annotated images by folds. But unless it leads a default by more than the best of so many
        would by chance (one-sided, :data:`LEVEL`, by Bonferroni), it is the default:
        :data:`FEW_DEFAULT` where few images are annotated, which tell little, and :data:`DEFAULT`
        elsewhere. The test split has no part in it, so that its gain is
        not the gain of a lucky one.

        Selectors that were told the truth take no part, nor do those whose metrics are too good,
        see :attr:`Outcome.leaks`.

        :raises ValueError: if nothing else was compared
        """
        first = {name: self.of(name)[0] for name in self.selectors}
        names = [name for name, o in first.items() if not o.knows_truth and not o.leaks]
        names = [name for name in names if np.isfinite(self._valid_likelihoods(name)).all()]
        if not names:
            raise ValueError(
                "nothing can be recommended: all selectors were told the truth, or chose by the "
                'labels of the images that score them; compare with "none" and "random@2"'
            )
        best = max(names, key=lambda name: self._valid_likelihoods(name).mean())
        default = next((name for name in defaults(self.few) if name in names), best)
        lead = self._valid_likelihoods(best) - self._valid_likelihoods(default)
        errors = norm.isf(LEVEL / max(len(names) - 1, 1))
        by_chance = errors * standard_error(lead, self.valid_groups)
        return best if lead.mean() > by_chance else default

    def _valid_likelihoods(self, selector: str) -> np.ndarray:
        """Return a selector's log-probabilities of the validation labels, means over rounds.  (v,)"""
        rounds = [outcome.valid_likelihoods for outcome in self.of(selector)]
        return np.stack(rounds).astype(np.float64).mean(0)

    def save(self, path: str | Path) -> None:
        """Write a CSV with one row per selector and round."""
        columns = ["classifier", "selector", "round", "selected", "evaluations", "seconds"]
        columns += [f"{split}_{metric}" for split in ("test", "valid") for metric in METRICS]
        with (
            atomic_write(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(columns)
            for outcome in self.outcomes:
                row: list[object] = [self.classifier, outcome.selector, outcome.round]
                row += [outcome.selection.count, outcome.evaluations, f"{outcome.seconds:.2f}"]
                row += [outcome.test[metric] for metric in METRICS]
                row += [outcome.valid[metric] for metric in METRICS]
                writer.writerow(row)
