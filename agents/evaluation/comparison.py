"""The protocol: selectors × rounds → figures on the test split.  The only reader of ``bank.test``."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from agents.evaluation.bootstrap import paired_bootstrap
from agents.selectors import SELECTORS, Selector
from synthselect_env import Dataset, FeatureBank, Selection
from synthselect_env.evaluators import (
    CachedEvaluator,
    ClassifierEvaluator,
    Evaluations,
    Evaluator,
    make_evaluator,
)
from synthselect_env.metrics import METRICS, more_is_better
from synthselect_env.storage import Cache, atomic_write, class_digest, content_key, library_digest


@dataclass(frozen=True, eq=False)
class Outcome:
    """One selector in one round.

    :param selector: its name
    :param round: number of the round
    :param selection: what it kept
    :param valid: metric to figure on the validation split
    :param test: metric to figure on the test split
    :param predictions: log-probabilities of the m test images, float32 (m, c)
    :param seconds: that selecting took
    :param evaluations: that selecting spent
    :param is_rl: whether the selector is reinforcement learning's, which has the others to beat
    :param knows_truth: whether the selector was told which candidates are sound, which no method is
    """

    selector: str
    round: int
    selection: Selection
    valid: dict[str, float]
    test: dict[str, float]
    predictions: np.ndarray
    seconds: float = 0.0
    evaluations: int = 0
    is_rl: bool = False
    knows_truth: bool = False

    @property
    def gap(self) -> float:
        """Validation accuracy minus test accuracy: what was gained on the images that were optimised on, and only there."""
        return self.valid["accuracy"] - self.test["accuracy"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Outcomes of several selectors under one classifier.

    :param classifier: what gave the figures
    :param outcomes: a selector and round each
    :param labels: of the test images, int64 (m,)
    :param groups: their patients (m,), where they are known
    :param classes: names of the classes, in label order; of two, sensitivity is the second's and specificity the first's
    """

    classifier: str
    outcomes: tuple[Outcome, ...]
    labels: np.ndarray
    groups: np.ndarray | None = None
    classes: Sequence[str] = ()

    @property
    def selectors(self) -> list[str]:
        """Names, in the order of comparison."""
        return list(dict.fromkeys(outcome.selector for outcome in self.outcomes))

    def of(self, selector: str) -> list[Outcome]:
        """The outcomes of one selector, a round each.

        :raises ValueError: when it was not compared
        """
        found = [outcome for outcome in self.outcomes if outcome.selector == selector]
        if not found:
            raise ValueError(f"{selector} was not compared; there are {', '.join(self.selectors)}")
        return found

    def test_metrics(self, selector: str, metric: str) -> np.ndarray:
        """A selector's test figures, one a round."""
        return np.array([outcome.test[metric] for outcome in self.of(selector)])

    def gain(
        self, selector: str, over: str = "none", metric: str = "accuracy"
    ) -> tuple[float, float, float]:
        """A selector's mean test gain over another one, with its 95 % interval by the paired bootstrap over rounds and test images.

        See :func:`~agents.evaluation.bootstrap.paired_bootstrap`.

        :param selector: whose gain
        :param over: over whom
        :param metric: which figure
        :return: mean, lower and upper end; above zero where the selector is better, also by the Brier score, which is a loss
        :raises ValueError: when one of the two was not compared
        """
        if (key := (selector, over, metric)) not in self._gains:
            ours, theirs = (
                np.stack([o.predictions for o in self.of(name)]) for name in (selector, over)
            )
            mean, *ends = more_is_better(
                metric, np.array(paired_bootstrap(ours, theirs, self.labels, metric, self.groups))
            ).tolist()
            self._gains[key] = (mean, min(ends), max(ends))
        return self._gains[key]

    @cached_property
    def _gains(self) -> dict[tuple[str, str, str], tuple[float, float, float]]:
        """Intervals that were asked for: every form of a table has them, and a large test split's take seconds each."""
        return {}

    def wins(self, selector: str, over: str, metric: str = "accuracy") -> tuple[int, int]:
        """In how many rounds a selector's test figure was better than another one's, and how many rounds there were.

        :raises ValueError: when one of the two was not compared
        """
        above = more_is_better(metric, self.test_metrics(selector, metric)) > more_is_better(
            metric, self.test_metrics(over, metric)
        )
        return int(above.sum()), len(above)

    def best_control(self, metric: str = "accuracy") -> str | None:
        """The best selector by mean test figure that is not reinforcement learning's and was not told the truth; None without one.

        Chosen on the test split, in its favour: whoever claims to be better has this one to beat.
        """
        controls = [
            name
            for name in self.selectors
            if not (self.of(name)[0].is_rl or self.of(name)[0].knows_truth)
        ]
        return max(
            controls,
            key=lambda name: more_is_better(metric, self.test_metrics(name, metric)).mean(),
            default=None,
        )

    def save(self, path: str | Path) -> None:
        """Write a CSV with a row a selector and round."""
        columns = ["classifier", "selector", "round", "selected", "evaluations", "seconds"]
        columns += [f"{split}_{metric}" for split in ("test", "valid") for metric in METRICS]
        with (
            atomic_write(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(columns)
            for o in self.outcomes:
                figures = [split[metric] for split in (o.test, o.valid) for metric in METRICS]
                writer.writerow(
                    [
                        self.classifier,
                        o.selector,
                        o.round,
                        o.selection.count,
                        o.evaluations,
                        f"{o.seconds:.2f}",
                        *figures,
                    ]
                )


def compare(
    bank: FeatureBank,
    selectors: Sequence[str | Selector],
    rounds: int = 5,
    classifier: str | Evaluator = "linear_probe",
    seed: int = 0,
    directory: str | Path | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    **classifier_kwargs: object,
) -> Comparison:
    """Let every selector select, train the same classifier on each selection, and score it on the test split.

    Round r has seed ``seed + r`` for all selectors and classifiers, so that rounds are paired. All selections are made first, on a bank
    without its test split; that split is opened afterwards.

    With a directory, each selection and each classifier's predictions are written as soon as they are made, under names that change with
    whatever they depend on, and a comparison that was interrupted goes on where it stopped. ``comparison.csv`` there has the rows so far.

    :param bank: the bank
    :param selectors: selectors, or names in :data:`~agents.selectors.SELECTORS`
    :param rounds: repetitions
    :param classifier: "linear_probe", "resnet18", "resnet34", or an evaluator
    :param seed: of the first round
    :param directory: where to keep what is done, or None. A selector without :meth:`~agents.selectors.Selector.settings` selects again
    :param on_outcome: called with each row when it is there
    :param classifier_kwargs: passed to the classifier's constructor when it is given by name
    :raises ValueError: when a selector or classifier is unknown, two selectors have the same name, there is no round, or the bank has no test
        split
    """
    unknown = [s for s in selectors if isinstance(s, str) and s not in SELECTORS]
    if unknown:
        raise ValueError(
            f"unknown selector {', '.join(unknown)}; one of {', '.join(SELECTORS)}, or a Selector"
        )
    chosen = [SELECTORS[s]() if isinstance(s, str) else s for s in selectors]
    names = [s.name for s in chosen]
    if len(set(names)) < len(names):
        raise ValueError(f"selectors must have different names, got {', '.join(names)}")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    if bank.test is None:
        raise ValueError(
            f"{bank.source}: there is no test split to compare on; give the bank one that no selection has seen"
        )
    sealed = bank.sealed
    evaluator = make_evaluator(classifier, sealed, **classifier_kwargs)
    if not isinstance(evaluator.unwrapped, ClassifierEvaluator):
        raise ValueError(
            f"{type(evaluator).__name__} trains no classifier that the test split could judge; compare by another one"
        )
    where = None if directory is None else Path(directory)
    judge: Any = evaluator if where is None else CachedEvaluator(evaluator, where / "predictions")
    seed = int(seed)
    selected = [
        [_select(selector, sealed, seed + r, where) for selector in chosen] for r in range(rounds)
    ]

    # The test split is opened here.
    groups = None if bank.test.groups is None else np.asarray(bank.test.groups)
    both = Dataset.concatenate([bank.valid, bank.test])
    n_valid = len(bank.valid)
    outcomes: list[Outcome] = []
    for r in range(rounds):
        for start in range(0, len(chosen), judge.batch_size):
            rows = range(start, min(start + judge.batch_size, len(chosen)))
            masks = np.stack([selected[r][i][0].mask for i in rows])
            log_p = judge.predict(masks, seed + r, both).astype(np.float32)
            predicted = log_p[:, :n_valid], log_p[:, n_valid:]
            figures = [
                Evaluations.from_predictions(p, s.labels)
                for p, s in zip(predicted, (bank.valid, bank.test))
            ]
            for k, i in enumerate(rows):
                valid, test = (
                    {metric: float(getattr(values, metric)[k]) for metric in METRICS}
                    for values in figures
                )
                selection, seconds = selected[r][i]
                outcomes.append(
                    Outcome(
                        names[i],
                        r,
                        selection,
                        valid,
                        test,
                        predicted[1][k],
                        seconds,
                        chosen[i].evaluations,
                        chosen[i].is_rl,
                        chosen[i].knows_truth,
                    )  # fmt: skip
                )
                if on_outcome:
                    on_outcome(outcomes[-1])
            if where is not None:
                Comparison(
                    evaluator.description, tuple(outcomes), bank.test.labels, groups, bank.classes
                ).save(where / "comparison.csv")
    return Comparison(
        evaluator.description, tuple(outcomes), bank.test.labels, groups, bank.classes
    )


def _select(
    selector: Selector, bank: FeatureBank, seed: int, directory: Path | None
) -> tuple[Selection, float]:
    """A selection and the seconds that it took, from disk where it was made before."""
    cache = key = None
    if directory is not None:
        try:
            code = [
                class_digest(type(selector)),
                library_digest(),
                *map(version, ("torch", "stable-baselines3")),
            ]
            key = content_key(code, selector.settings(), bank.digest, seed)
            cache = Cache(directory / "selections")
        except NotImplementedError:
            pass  # a selector that does not say what its selection depends on selects again
    if cache is not None and key is not None and (entry := cache.get(key)) is not None:
        return Selection.of(bank, entry["mask"], entry["scores"], selector.name), float(
            entry["seconds"]
        )
    start = time.perf_counter()
    selection = selector.select(bank, seed)
    seconds = time.perf_counter() - start
    if cache is not None and key is not None:
        cache.put(key, mask=selection.mask, scores=selection.scores, seconds=np.array(seconds))
    return selection, seconds
