"""Classification metrics for many classifiers at once, macro one-vs-rest where there are more than two classes."""

from __future__ import annotations

import torch

METRICS = ("accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity", "log_likelihood", "brier")


def classification_metrics(log_probabilities: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """All :data:`METRICS` of k classifiers on the same n pictures.

    With two classes, class 1 is the positive one. With more, AUC, sensitivity and specificity are means of their
    one-vs-rest values. A class without a picture is left out of the means; a metric with nothing to average is NaN, and so are
    all metrics of a classifier with a NaN among its scores.

    :param log_probabilities: (k, n, c)
    :param labels: int64 (n,)
    :return: name to (k,)
    """
    k, n, c = log_probabilities.shape
    probabilities = log_probabilities.exp()
    truth = torch.nn.functional.one_hot(labels, c).to(probabilities)  # (n, c)
    predicted = torch.nn.functional.one_hot(log_probabilities.argmax(2), c).to(probabilities)  # (k, n, c)
    hits = torch.einsum("knc,nc->kc", predicted, truth)
    positives = truth.sum(0)  # (c,)
    recall = hits / positives  # NaN for an absent class
    true_negatives = n - positives - predicted.sum(1) + hits
    specificity = true_negatives / (n - positives)
    auc = torch.stack([auc_one_vs_rest(log_probabilities[:, :, i], labels == i) for i in range(c)], dim=1)

    def over_classes(values: torch.Tensor) -> torch.Tensor:  # (k, c) -> (k,)
        return values[:, 1] if c == 2 else values.nanmean(1)

    figures = {
        "accuracy": hits.sum(1) / n,
        "balanced_accuracy": recall.nanmean(1),
        "auc": over_classes(auc),
        "sensitivity": over_classes(recall),
        "specificity": over_classes(specificity),
        "log_likelihood": log_probabilities[:, torch.arange(n, device=labels.device), labels].mean(1),
        "brier": ((probabilities - truth) ** 2).sum(2).mean(1),
    }
    broken = log_probabilities.isnan().any(2).any(1)  # comparisons with NaN are false, which would read as an AUC of 1
    return {name: values.masked_fill(broken, torch.nan) for name, values in figures.items()}


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
    beaten = torch.searchsorted(below, above) + torch.searchsorted(below, above, right=True)  # twice the negatives beaten
    return beaten.to(scores.dtype).mean(1) / (2 * below.shape[1])
