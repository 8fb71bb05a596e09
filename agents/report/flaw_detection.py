"""How well a selection finds the sound candidates, where it is known which they are."""

from __future__ import annotations

import numpy as np
import torch

from synthselect_env import Selection
from synthselect_env.metrics import auc_one_vs_rest


def discovery(scores: np.ndarray, sound: np.ndarray) -> np.ndarray:
    """Share of the sound candidates that is found by inspecting the k best-scored ones, for k from 0 to n.

    Candidates of equal score are inspected in random order; the share is the expected one.

    :param scores: (n,), the higher the earlier
    :param sound: bool (n,), with at least one True
    :return: (n + 1,)
    """
    values, group = np.unique(-scores, return_inverse=True)
    sizes, found = np.bincount(group), np.bincount(group, weights=sound)
    inspected = np.concatenate([[0], np.cumsum(sizes)])
    return (
        np.interp(np.arange(len(scores) + 1), inspected, np.concatenate([[0], np.cumsum(found)]))
        / sound.sum()
    )


def flaw_detection_metrics(selection: Selection, flaw: np.ndarray) -> dict[str, float]:
    """AUC of the scores, and precision, recall and F1 of the mask, with the sound candidates as the ones to find.

    :param selection: to judge
    :param flaw: int (n,), 0 for a sound candidate
    :return: figures by name; NaN where there is nothing to divide by
    """
    sound = flaw == 0
    hits = float((selection.mask & sound).sum())
    auc = auc_one_vs_rest(torch.from_numpy(selection.scores)[None], torch.from_numpy(sound))
    return {
        "AUC": float(auc[0]),
        "precision": hits / selection.count if selection.count else float("nan"),
        "recall": hits / float(sound.sum()) if sound.any() else float("nan"),
        "F1": 2 * hits / float(selection.count + sound.sum())
        if selection.count + sound.sum()
        else float("nan"),
    }
