from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle

from synthselect_env.metrics import (
    METRICS,
    auc_one_vs_rest,
    classification_metrics,
    more_is_better,
)


def random_log_p(k: int, n: int, c: int, decimals: int | None = None) -> torch.Tensor:
    """Log-probabilities (k, n, c), with ties if logits are rounded."""
    logits = np.random.default_rng(0).normal(size=(k, n, c))
    if decimals is not None:
        logits = logits.round(decimals)
    return torch.log_softmax(torch.from_numpy(logits), dim=2)


def expected_metrics(log_p: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics of one classifier (n, c) by scikit-learn."""
    p, n_classes = np.exp(log_p), log_p.shape[1]
    predicted, onehot = p.argmax(1), np.eye(n_classes)[labels]
    confusion = oracle.multilabel_confusion_matrix(labels, predicted)
    specificities = confusion[:, 0, 0] / confusion[:, 0].sum(1)
    recalls = oracle.recall_score(labels, predicted, average=None)
    aucs = [oracle.roc_auc_score(onehot[:, c], log_p[:, c]) for c in range(n_classes)]
    # One-vs-rest means, or with two classes the values of class 1.
    over_classes = np.mean if n_classes > 2 else lambda values: values[1]
    return {
        "accuracy": oracle.accuracy_score(labels, predicted),
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, predicted),
        "auc": over_classes(aucs),
        "sensitivity": over_classes(recalls),
        "specificity": over_classes(specificities),
        "log_likelihood": -oracle.log_loss(labels, p),
        "brier": ((p - onehot) ** 2).sum(1).mean(),
    }


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("decimals", [None, 0], ids=["distinct", "ties"])
def test_agrees_with_scikit_learn(n_classes: int, decimals: int | None) -> None:
    log_p = random_log_p(3, 200, n_classes, decimals)
    if n_classes == 2:
        # Tied log-odds are to be tied probabilities, too.
        log_p[:, :, 0] = torch.log1p(-log_p[:, :, 1].exp())
    labels = np.random.default_rng(1).integers(n_classes, size=200)
    found = classification_metrics(log_p, torch.from_numpy(labels))
    assert tuple(found) == METRICS
    for i in range(3):
        expected = expected_metrics(log_p[i].numpy(), labels)
        ours = {name: values[i].item() for name, values in found.items()}
        assert ours == pytest.approx(expected, abs=1e-9)


def test_constant_scores_have_auc_of_one_half() -> None:
    assert auc_one_vs_rest(torch.zeros(2, 10), torch.arange(10) < 3).tolist() == [0.5, 0.5]


def test_absent_class_is_left_out_of_the_means() -> None:
    log_p = random_log_p(2, 60, 3)
    labels = torch.arange(60) % 2  # class 2 has no image
    found = classification_metrics(log_p, labels)
    y = labels.numpy()
    for i, p in enumerate(log_p.exp().numpy()):
        aucs = [oracle.roc_auc_score(y == c, p[:, c]) for c in (0, 1)]
        recalls = [(p.argmax(1)[y == c] == c).mean() for c in (0, 1)]
        assert found["auc"][i].item() == pytest.approx(np.mean(aucs))
        assert found["balanced_accuracy"][i].item() == pytest.approx(np.mean(recalls))


def test_one_class_only_has_no_auc() -> None:
    labels = torch.zeros(5, dtype=torch.int64)
    assert classification_metrics(random_log_p(1, 5, 2), labels)["auc"].isnan().all()


def test_broken_classifier_scores_nothing() -> None:
    log_p = random_log_p(2, 30, 2)
    log_p[1, 4] = torch.nan
    for values in classification_metrics(log_p, torch.arange(30) % 2).values():
        assert values[0].isfinite() and values[1].isnan()


@pytest.mark.parametrize("positive", [1, 0])
def test_confident_classifiers_are_not_tied(positive: int) -> None:
    """In float32, probabilities of a class are 1 from a modest difference of logits on."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 500)
    margin = rng.normal(np.where(y, 22, 12), 6).astype(np.float32)
    logits = np.zeros((1, 1000, 2), np.float32)
    logits[0, :, 1] = margin if positive else -margin
    labels = y if positive else 1 - y
    log_p = torch.from_numpy(logits).log_softmax(2)
    auc = classification_metrics(log_p, torch.from_numpy(labels))["auc"].item()
    assert auc == pytest.approx(oracle.roc_auc_score(y, margin), abs=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_more_is_better(metric: str) -> None:
    """A classifier that is right scores higher than one that is wrong."""
    labels = torch.tensor([0, 1, 0, 1])
    right = torch.tensor([0.9, 0.1]).log()[(labels[:, None] + torch.arange(2)) % 2]
    both = torch.stack([right, right.flip(1)])
    good, bad = more_is_better(metric, classification_metrics(both, labels)[metric].numpy())
    assert good > bad
