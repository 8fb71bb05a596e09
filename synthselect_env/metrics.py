"""Classification metrics of many classifiers at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

METRICS = (
    "accuracy",
    "balanced_accuracy",
    "auc",
    "sensitivity",
    "specificity",
    "log_likelihood",
    "brier",
)
"""Names of all metrics."""


def more_is_better(metric: str, values: np.ndarray) -> np.ndarray:
    """Return values of a metric such that more is better. The Brier score changes its sign.

    :param metric: one of :data:`METRICS`
    :param values: values of the metric
    """
    return -values if metric == "brier" else values


def classification_metrics(log_probabilities: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return all :data:`METRICS` of k classifiers on the same n images.

    With two classes, class 1 is the positive one. With more, AUC, sensitivity and specificity are
    means of their one-vs-rest values. Means leave out a class without images. A metric with nothing
    to average is NaN, and so are all metrics of a classifier with a NaN among its scores.

    .. code-block:: python

        log_p = torch.tensor([[[0.9, 0.1], [0.2, 0.8]]]).log()
        classification_metrics(log_p, torch.tensor([0, 1]))["accuracy"]  # tensor([1.])

    :param log_probabilities: (k, n, c)
    :param labels: int64 (n,)
    :return: name of a metric to its values (k,)
    """
    k, n, c = log_probabilities.shape
    # Sums over the last axis are fast only where it is long.
    log_p = log_probabilities.transpose(1, 2).contiguous()  # (k, c, n)
    classes = torch.arange(c, device=labels.device)
    truth = labels == classes[:, None]  # (c, n)

    # Counts per class.
    predicted = _first_best(log_p)  # (k, c, n)
    hits = (predicted & truth).sum(2).to(log_p)  # (k, c)
    positives = truth.sum(1).to(log_p)  # (c,)
    recall = hits / positives  # NaN for an absent class
    true_negatives = n - positives - predicted.sum(2) + hits
    specificity = true_negatives / (n - positives)

    def over_classes(values: Tensor) -> Tensor:  # (k, c) -> (k,)
        if c == 2:
            return values[:, 1]
        present = values.masked_fill(positives == 0, torch.nan)
        return present.nanmean(1)

    images = torch.arange(n, device=labels.device)
    own = log_p[:, labels, images]  # (k, n)
    errors = log_p.exp() - truth.to(log_p)
    metrics = {
        "accuracy": hits.sum(1) / n,
        "balanced_accuracy": recall.nanmean(1),
        "auc": _mean_auc(log_p, labels),
        "sensitivity": over_classes(recall),
        "specificity": over_classes(specificity),
        "log_likelihood": own.mean(1),
        "brier": errors.square_().sum(1).mean(1),
    }
    # Comparisons with NaN are false, which would read as an AUC of 1.
    broken = log_probabilities.isnan().any(2).any(1)
    for name, values in metrics.items():
        metrics[name] = values.masked_fill(broken, torch.nan)
    return metrics


def auc_one_vs_rest(scores: Tensor, positive: Tensor) -> Tensor:
    """Return the area under the ROC curve.

    It is the share of (positive, negative) pairs in the right order. Ties count half.

    :param scores: (k, n)
    :param positive: bool (n,)
    :return: (k,), NaN without a positive or without a negative
    """
    above = scores[:, positive].contiguous()
    below = scores[:, ~positive].contiguous()
    n_below = below.shape[1]
    if not above.shape[1] or not n_below:
        return scores.new_full((len(scores),), torch.nan)
    below = below.sort(1).values
    beaten = torch.searchsorted(below, above)
    beaten_or_tied = torch.searchsorted(below, above, right=True)
    twice_beaten = beaten + beaten_or_tied  # a tie counts once, a win twice
    return twice_beaten.to(scores.dtype).mean(1) / (2 * n_below)


def _mean_auc(log_p: Tensor, labels: Tensor) -> Tensor:  # (k, c, n) -> (k,)
    n_classes = log_p.shape[1]
    if n_classes == 2:
        # Log-odds: the probabilities of all that a classifier is very sure of are tied at 1.
        log_odds = log_p[:, 1] - log_p[:, 0]
        aucs = [auc_one_vs_rest(log_odds, labels == 1)]
    else:
        aucs = [auc_one_vs_rest(log_p[:, i], labels == i) for i in range(n_classes)]
    return torch.stack(aucs, dim=1).nanmean(1)


def _first_best(scores: Tensor) -> Tensor:
    """Mark the class with the highest score, the first one of several.

    :param scores: (k, c, n)
    :return: bool (k, c, n)
    """
    first, *others = scores.unbind(1)
    best = first
    winner = torch.zeros_like(best, dtype=torch.int16)
    for i, score in enumerate(others, start=1):
        is_higher = score > best
        best = torch.where(is_higher, score, best)
        winner = winner.masked_fill(is_higher, i)
    classes = torch.arange(len(others) + 1, device=scores.device)
    return winner[:, None] == classes.to(torch.int16)[:, None]
