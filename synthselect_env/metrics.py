"""Classification metrics for many classifiers at once, macro one-vs-rest where there are more than two classes."""

from __future__ import annotations

import numpy as np
import torch

METRICS = (
    "accuracy",
    "balanced_accuracy",
    "auc",
    "sensitivity",
    "specificity",
    "log_likelihood",
    "brier",
)


def more_is_better(metric: str, values: np.ndarray) -> np.ndarray:
    """Figures of which more is better: the Brier score, an error, counts negative."""
    return -values if metric == "brier" else values


def classification_metrics(
    log_probabilities: torch.Tensor, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """All :data:`METRICS` of k classifiers on the same n images.

    With two classes, class 1 is the positive one. With more, AUC, sensitivity and specificity are means of their
    one-vs-rest values. A class without a image is left out of the means; a metric with nothing to average is NaN, and so are
    all metrics of a classifier with a NaN among its scores.

    :param log_probabilities: (k, n, c)
    :param labels: int64 (n,)
    :return: name to (k,)
    """
    k, n, c = log_probabilities.shape
    log_p = log_probabilities.transpose(
        1, 2
    ).contiguous()  # (k, c, n): reductions over two or four neighbours are slow
    truth = labels == torch.arange(c, device=labels.device)[:, None]  # (c, n)
    predicted = _first_best(log_p)
    hits = (predicted & truth).sum(2).to(log_p)  # (k, c)
    positives = truth.sum(1).to(log_p)  # (c,)
    recall = hits / positives  # NaN for an absent class
    true_negatives = n - positives - predicted.sum(2) + hits
    specificity = true_negatives / (n - positives)

    def over_classes(values: torch.Tensor) -> torch.Tensor:  # (k, c) -> (k,)
        return values[:, 1] if c == 2 else values.masked_fill(positives == 0, torch.nan).nanmean(1)

    # of two classes the log-odds: in the probability alone, all that a classifier is very sure of would be tied at 1
    scores = (
        [(log_p[:, 1] - log_p[:, 0], labels == 1)]
        if c == 2
        else [(log_p[:, i], labels == i) for i in range(c)]
    )
    own = log_p[:, labels, torch.arange(n, device=labels.device)]
    figures = {
        "accuracy": hits.sum(1) / n,
        "balanced_accuracy": recall.nanmean(1),
        "auc": torch.stack([auc_one_vs_rest(*pair) for pair in scores], dim=1).nanmean(1),
        "sensitivity": over_classes(recall),
        "specificity": over_classes(specificity),
        "log_likelihood": own.mean(1),
        "brier": (log_p.exp() - truth.to(log_p)).square_().sum(1).mean(1),
    }
    broken = (
        log_probabilities.isnan().any(2).any(1)
    )  # comparisons with NaN are false, which would read as an AUC of 1
    return {name: values.masked_fill(broken, torch.nan) for name, values in figures.items()}


def _first_best(scores: torch.Tensor) -> torch.Tensor:
    """Whether a class has the highest score, the first one of several.  (k, c, n) -> bool (k, c, n)"""
    best, winner = scores[:, 0], torch.zeros_like(scores[:, 0], dtype=torch.int16)
    for i in range(1, scores.shape[1]):
        more_is_better = scores[:, i] > best
        best, winner = (
            torch.where(more_is_better, scores[:, i], best),
            winner.masked_fill(more_is_better, i),
        )
    return (
        winner[:, None]
        == torch.arange(scores.shape[1], dtype=torch.int16, device=scores.device)[:, None]
    )


def auc_one_vs_rest(scores: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order, ties counting half.

    :param scores: (k, n)
    :param positive: bool (n,)
    :return: (k,), NaN without a positive or without a negative
    """
    above, below = scores[:, positive].contiguous(), scores[:, ~positive].contiguous()
    if not above.shape[1] or not below.shape[1]:
        return torch.full(scores.shape[:1], torch.nan, dtype=scores.dtype, device=scores.device)
    below = below.sort(1).values
    beaten = torch.searchsorted(below, above) + torch.searchsorted(
        below, above, right=True
    )  # twice the negatives beaten
    return beaten.to(scores.dtype).mean(1) / (2 * below.shape[1])
