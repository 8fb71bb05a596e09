"""The comparison protocol: selectors × rounds → metrics on the test split.

The test split is protected in three ways. Selectors and the classifier get ``bank.sealed``, a bank
without it. All selections are made before it is opened. And :func:`compare` is the only code of
this library that reads ``bank.test``.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from agents.evaluation.bootstrap import paired_bootstrap
from agents.selectors import Selector, make_selector
from synthselect_env import Dataset, FeatureBank, Selection
from synthselect_env.bank import resolve_bank
from synthselect_env.bank.extraction import hold_out
from synthselect_env.evaluators import (
    CachedEvaluator,
    ClassifierEvaluator,
    Evaluations,
    Evaluator,
    RetrainEvaluator,
    make_evaluator,
)
from synthselect_env.metrics import METRICS, more_is_better
from synthselect_env.storage import Cache, atomic_write, class_digest, content_key, library_digest


@dataclass(frozen=True, eq=False)
class Outcome:
    """Result of one selector in one round.

    :param selector: name of the selector
    :param round: number of the round
    :param selection: its selection
    :param valid: metrics on the validation split, by name
    :param test: metrics on the test split, by name
    :param predictions: log-probabilities of the m test images, float32 (m, c)
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
    :param classes: class names in label order. Of two classes, sensitivity belongs to the second
        and specificity to the first
    """

    classifier: str
    outcomes: tuple[Outcome, ...]
    labels: np.ndarray
    groups: np.ndarray | None = None
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

    def recommended(self, metric: str = "log_likelihood") -> str:
        """Return the selector with the best mean metric on the annotated images.

        That is the validation split, or all annotated images by folds. The test split has no part
        in it, so that its gain is not the gain of a lucky one. Selectors that were told the truth
        take no part, nor do those whose metrics are too good, see :attr:`Outcome.leaks`.

        :param metric: name of the metric
        :raises ValueError: if nothing else was compared
        """
        first = {name: self.of(name)[0] for name in self.selectors}
        names = [name for name, o in first.items() if not o.knows_truth and not o.leaks]
        if not names:
            raise ValueError(
                "nothing can be recommended: all selectors were told the truth, or chose by the "
                'labels of the images that score them; compare with "none" and "random@2"'
            )

        def mean(name: str) -> float:
            values = np.array([outcome.valid[metric] for outcome in self.of(name)])
            return float(more_is_better(metric, values).mean())

        return max(names, key=mean)

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


def compare(
    bank: FeatureBank | str | Path,
    selectors: Sequence[str | Selector],
    rounds: int = 5,
    classifier: str | Evaluator = "linear_probe",
    seed: int = 0,
    directory: str | Path | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    on_selection: Callable[[Selection], None] | None = None,
    **classifier_kwargs: object,
) -> Comparison:
    """Compare selectors by the test metrics of classifiers trained on their selections.

    Round r has seed ``seed + r`` for all selectors and classifiers, so rounds are paired. All
    selections are made first, on a bank without its test split. That split is opened afterwards.

    With a directory, every selection and every classifier's predictions are stored as soon as they
    are made, under keys of everything that they depend on. An interrupted comparison goes on where
    it stopped. ``comparison.csv`` in the directory has the rows so far.

    .. code-block:: python

        comparison = compare(load_bank("toy"), ["none", CentroidSelector(0.3)], rounds=3)
        comparison.save("comparison.csv")

    :param bank: feature bank with a test split, the name of an embedded one, or its file
    :param selectors: selectors, or names for :func:`~agents.selectors.make_selector`
    :param rounds: number of repetitions
    :param classifier: "linear_probe", "small_cnn", "resnet34", or an evaluator that trains
        classifiers
    :param seed: random seed of the first round
    :param directory: folder in which to store results, or None. Selectors without
        :meth:`~agents.selectors.Selector.settings` select again
    :param on_outcome: function that is called with each outcome as soon as it is there
    :param on_selection: the same for selections, all of which are made before the first outcome
    :param classifier_kwargs: constructor arguments of a classifier that is given by name
    :raises ValueError: if a selector or classifier is unknown, two selectors have the same name,
        there is no round, or the bank has no test split
    """
    # Check everything before the first selection.
    bank = resolve_bank(bank)
    chosen = _resolve_selectors(selectors)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    if bank.test is None:
        raise ValueError(
            f"{bank.source}: there is no test split to compare on; "
            "give the bank one that no selection has seen"
        )
    sealed = bank.sealed
    evaluator = make_evaluator(classifier, sealed, **classifier_kwargs)
    if not isinstance(evaluator.unwrapped, ClassifierEvaluator):
        raise ValueError(
            f"{type(evaluator).__name__} trains no classifier that the test split could judge; "
            "derive it from ClassifierEvaluator and write predict, or compare by another one"
        )
    folder = None if directory is None else Path(directory)
    if folder is not None:
        evaluator = CachedEvaluator(evaluator, folder / "predictions")
    seed = int(seed)

    # Select, on the sealed bank. By folds, select for each fold without it, too.
    without_fold = _banks_without_folds(sealed, evaluator.unwrapped, chosen, seed)
    selected: list[list[TimedSelection]] = []
    for r in range(rounds):
        selected.append([])
        for selector in chosen:
            made = select_once(selector, sealed, seed + r, folder)
            if without_fold and selector.uses_labels and selector.cross_fits:
                crossed = [select_once(selector, b, seed + r, folder) for b in without_fold]
                made = replace(made, by_fold=tuple(c.selection.mask for c in crossed))
            selected[r].append(made)
            if on_selection:
                on_selection(made.selection)

    # Open the test split.
    test = bank.test
    groups = None if test.groups is None else np.asarray(test.groups)

    # Train and judge the classifiers, and save after each batch.
    judge = _Judge(evaluator, test)
    comparison = Comparison(evaluator.description, (), test.labels, groups, bank.classes)
    for r, round_selected in enumerate(selected):
        for start in range(0, len(chosen), evaluator.batch_size):
            batch = round_selected[start : start + evaluator.batch_size]
            for outcome in judge.outcomes(batch, r, seed + r):
                comparison = replace(comparison, outcomes=(*comparison.outcomes, outcome))
                if on_outcome:
                    on_outcome(outcome)
            if folder is not None:
                comparison.save(folder / "comparison.csv")
    return comparison


def _banks_without_folds(
    bank: FeatureBank, evaluator: Evaluator, selectors: Sequence[Selector], seed: int
) -> list[FeatureBank]:
    """Return a bank without each fold, if validation is by folds and a selector wants them."""
    if not isinstance(evaluator, RetrainEvaluator) or evaluator.folds is None:
        return []
    if not any(selector.uses_labels and selector.cross_fits for selector in selectors):
        return []
    folds = range(evaluator.folds)
    return [hold_out(bank, evaluator.fold_of == fold, seed) for fold in folds]


def _resolve_selectors(selectors: Sequence[str | Selector]) -> list[Selector]:
    """Return selectors for names and selectors.

    :raises ValueError: if there is none, a name is unknown, or two selectors have the same one
    """
    if isinstance(selectors, str) or not selectors:
        raise ValueError(f"selectors must be a list of names or selectors, got {selectors!r}")
    for selector in selectors:
        if not isinstance(selector, str) and not hasattr(selector, "name"):
            raise ValueError(f"{selector!r} has no name; a selector needs one for the table")
        if isinstance(selector, type):
            raise ValueError(f"{selector.__name__} is a class; give an object of it")
    chosen = [make_selector(s) if isinstance(s, str) else s for s in selectors]
    names = [selector.name for selector in chosen]
    if len(set(names)) < len(names):
        raise ValueError(f"selectors must have different names, got {', '.join(names)}")
    return chosen


@dataclass(frozen=True, eq=False)
class TimedSelection:
    """A selection, and the time that it took.

    :param selector: selector that made it
    :param selection: its selection
    :param seconds: time that selecting took
    :param by_fold: selections from banks without a fold each, bool (n,), where validation is by folds
    """

    selector: Selector
    selection: Selection
    seconds: float
    by_fold: tuple[np.ndarray, ...] = ()


def select_once(
    selector: Selector, bank: FeatureBank, seed: int, folder: Path | None
) -> TimedSelection:
    """Select, or read the selection from disk if it was made before.

    :param selector: selector
    :param bank: feature bank; :func:`compare` passes it without its test split
    :param seed: random seed of the selection
    :param folder: folder in which selections are stored, or None
    """
    key = None if folder is None else _selection_key(selector, bank, seed)
    if folder is None or key is None:
        return _select_now(selector, bank, seed)
    cache = Cache(folder / "selections")
    entry = cache.get(key)
    if entry is not None:
        selection = Selection.of(bank, entry["mask"], entry["scores"], selector.name)
        return TimedSelection(selector, selection, float(entry["seconds"]))
    selected = _select_now(selector, bank, seed)
    mask, scores = selected.selection.mask, selected.selection.scores
    cache.put(key, mask=mask, scores=scores, seconds=np.array(selected.seconds))
    return selected


def _select_now(selector: Selector, bank: FeatureBank, seed: int) -> TimedSelection:
    start = time.perf_counter()
    selection = selector.select(bank, seed)
    return TimedSelection(selector, selection, time.perf_counter() - start)


def _selection_key(selector: Selector, bank: FeatureBank, seed: int) -> str | None:
    """Return the key of everything that a selection depends on.

    It is None for a selector that does not tell, whose selections are not stored.
    """
    libraries = ("torch", "stable-baselines3")
    try:
        code = [class_digest(type(selector)), library_digest(), *map(version, libraries)]
        return content_key(code, selector.settings(), bank.digest, seed)
    except NotImplementedError:
        return None


def _without_labels(dataset: Dataset) -> Dataset:
    return replace(dataset, labels=np.zeros_like(dataset.labels))


class _Judge:
    """Train classifiers on selections, and measure them on both splits.

    :param evaluator: evaluator with ``predict``
    :param test: test split
    """

    def __init__(self, evaluator: Any, test: Dataset) -> None:
        self.evaluator = evaluator
        self.valid = evaluator.unwrapped.scored
        self.test = test
        self.folds = getattr(evaluator.unwrapped, "folds", None)

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
                seconds=s.seconds,
                evaluations=s.selector.evaluations,
                is_rl=s.selector.is_rl,
                knows_truth=s.selector.knows_truth,
                leaks=self.folds is not None and s.selector.uses_labels and not s.by_fold,
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
