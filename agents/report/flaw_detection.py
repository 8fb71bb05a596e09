"""Measure how well a selection finds candidates that are known to be sound."""

from __future__ import annotations

import numpy as np
import torch

from synthselect_env import Selection
from synthselect_env.metrics import auc_one_vs_rest


def discovery(scores: np.ndarray, sound: np.ndarray) -> np.ndarray:
    """Return the share of sound candidates found after k inspections.

    Candidates are inspected in order of their scores, and in random order where scores are equal.
    The share is the expected one.

    :param scores: score per candidate, float (n,); the highest is inspected first
    :param sound: bool (n,), with at least one True
    :return: share for k = 0 to n, float (n + 1,)
    """
    # Candidates of equal score form a group, within which the share grows linearly.
    values, group = np.unique(-scores, return_inverse=True)
    sizes = np.bincount(group)
    found = np.bincount(group, weights=sound)
    inspected_after_group = np.concatenate([[0], np.cumsum(sizes)])
    found_after_group = np.concatenate([[0], np.cumsum(found)])
    inspected = np.arange(len(scores) + 1)
    return np.interp(inspected, inspected_after_group, found_after_group) / sound.sum()


def flaw_detection_metrics(selection: Selection, flaw: np.ndarray) -> dict[str, float]:
    """Return AUC, precision, recall and F1 of finding sound candidates.

    The AUC is that of the scores, the others are those of the kept candidates. The sound
    candidates are the positive class.

    :param selection: selection to judge
    :param flaw: kind of flaw per candidate, int (n,); 0 for a sound candidate
    :return: metric name to value, NaN where a denominator is zero
    """
    sound = flaw == 0
    n_sound = float(sound.sum())
    hits = float((selection.mask & sound).sum())
    auc = auc_one_vs_rest(torch.from_numpy(selection.scores)[None], torch.from_numpy(sound))
    return {
        "AUC": float(auc[0]),
        "precision": _ratio(hits, selection.count),
        "recall": _ratio(hits, n_sound),
        "F1": _ratio(2 * hits, selection.count + n_sound),
    }


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")
