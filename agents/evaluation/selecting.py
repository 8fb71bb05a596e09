"""Making the selections of a comparison, once each, and without the fold that is to score them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from agents.selectors import Selector
from synthselect_env import FeatureBank, Selection
from synthselect_env.bank.extraction import without_fold
from synthselect_env.storage import Cache, class_digest, content_key, library_digest


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


def banks_without_folds(
    bank: FeatureBank, folds: int | None, selectors: Sequence[Selector], seed: int
) -> list[FeatureBank]:
    """Return a bank without each fold, if validation is by folds and a selector wants them.

    There is none if the bank's retrainings were scored in another way, and so say nothing without a
    fold.

    :param bank: sealed feature bank
    :param folds: number of folds that score, or None
    :param selectors: selectors that are compared
    :param seed: random seed of the extractors
    """
    if folds is None or not any(s.uses_labels and s.cross_fits for s in selectors):
        return []
    held = bank.retrainings
    if held is not None and held.folds != folds:
        return []
    return [without_fold(bank, fold, folds, seed) for fold in range(folds)]


def select_with(
    selector: Selector,
    bank: FeatureBank,
    without_folds: Sequence[FeatureBank],
    seed: int,
    folder: Path | None,
) -> TimedSelection:
    """Select from the bank, and from the bank without each fold where that makes a difference.

    :param selector: selector
    :param bank: sealed feature bank
    :param without_folds: banks of :func:`banks_without_folds`
    :param seed: random seed of the selection
    :param folder: folder in which selections are stored, or None
    """
    made = select_once(selector, bank, seed, folder)
    if not selector.uses_labels or not selector.cross_fits:
        return made
    crossed = [select_once(selector, without, seed, folder) for without in without_folds]
    return replace(made, by_fold=tuple(c.selection.mask for c in crossed))
