"""The comparison protocol: selectors × rounds → metrics on the test split.

The test split is protected in three ways. Selectors and the classifier get ``bank.sealed``, a bank
without it. All selections are made before it is opened. And :func:`compare` is the only code of
this library that reads ``bank.test``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from agents.evaluation.judging import Judge
from agents.evaluation.outcomes import Comparison, Outcome, has_few_images
from agents.evaluation.selecting import TimedSelection, banks_without_folds, select_with
from agents.selectors import Selector, make_selector
from synthselect_env import Dataset, FeatureBank, Selection
from synthselect_env.bank import resolve_bank
from synthselect_env.evaluators import (
    CachedEvaluator,
    ClassifierEvaluator,
    Evaluator,
    make_evaluator,
)


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
    without_folds = banks_without_folds(sealed, evaluator.unwrapped.folds, chosen, seed)
    selected: list[list[TimedSelection]] = []
    for r in range(rounds):
        selected.append([])
        for selector in chosen:
            made = select_with(selector, sealed, without_folds, seed + r, folder)
            selected[r].append(made)
            if on_selection:
                on_selection(made.selection)

    # Open the test split, and train and judge the classifiers. Save after each batch.
    judge = Judge(evaluator, bank.test)
    comparison = Comparison(
        evaluator.description,
        outcomes=(),
        labels=bank.test.labels,
        groups=_patients(bank.test),
        valid_groups=_patients(judge.valid),
        few=has_few_images(bank),
        classes=bank.classes,
    )
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


def _patients(dataset: Dataset) -> np.ndarray | None:
    return None if dataset.groups is None else np.asarray(dataset.groups)
