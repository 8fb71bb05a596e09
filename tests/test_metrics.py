from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle

from synthselect_env.metrics import METRICS, auc_one_vs_rest, classification_metrics


def scores(k: int, n: int, c: int, seed: int = 0, decimals: int | None = None) -> torch.Tensor:
    logits = np.random.default_rng(seed).normal(size=(k, n, c))
    if decimals is not None:
        logits = logits.round(decimals)  # ties
    return torch.log_softmax(torch.from_numpy(logits), dim=2)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("decimals", [None, 0], ids=["distinct", "ties"])
def test_agrees_with_scikit_learn(n_classes: int, decimals: int | None) -> None:
    k, n = 3, 200
    log_p = scores(k, n, n_classes, decimals=decimals)
    if n_classes == 2:
        log_p[:, :, 0] = torch.log1p(-log_p[:, :, 1].exp())
    labels = torch.from_numpy(np.random.default_rng(1).integers(n_classes, size=n))
    ours = classification_metrics(log_p, labels)
    assert tuple(ours) == METRICS
    y, onehot = labels.numpy(), np.eye(n_classes)[labels]
    for i in range(k):
        p = log_p[i].exp().numpy()
        predicted = p.argmax(1)
        confusion = oracle.multilabel_confusion_matrix(y, predicted)
        specificities = confusion[:, 0, 0] / confusion[:, 0].sum(1)
        if n_classes == 2:
            auc, sensitivity, specificity = (
                oracle.roc_auc_score(y, log_p[i, :, 1]),
                oracle.recall_score(y, predicted),
                specificities[1],
            )
        else:
            auc = np.mean(
                [oracle.roc_auc_score(onehot[:, c], log_p[i, :, c]) for c in range(n_classes)]
            )
            sensitivity, specificity = (
                oracle.recall_score(y, predicted, average="macro"),
                specificities.mean(),
            )
        expected = {
            "accuracy": oracle.accuracy_score(y, predicted),
            "balanced_accuracy": oracle.balanced_accuracy_score(y, predicted),
            "auc": auc,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "log_likelihood": -oracle.log_loss(y, p),
            "brier": ((p - onehot) ** 2).sum(1).mean(),
        }
        for name, value in expected.items():
            assert ours[name][i].item() == pytest.approx(value, abs=1e-9), name


def test_constant_scores_have_auc_of_one_half() -> None:
    assert auc_one_vs_rest(torch.zeros(2, 10), torch.arange(10) < 3).tolist() == [0.5, 0.5]


def test_absent_class_is_left_out_of_the_means() -> None:
    log_p = scores(2, 60, 3)
    labels = torch.arange(60) % 2  # class 2 has no image
    figures = classification_metrics(log_p, labels)
    for i in range(2):
        y, p = labels.numpy(), log_p[i].exp().numpy()
        aucs = [oracle.roc_auc_score(y == c, p[:, c]) for c in (0, 1)]
        recalls = [(p.argmax(1)[y == c] == c).mean() for c in (0, 1)]
        assert figures["auc"][i].item() == pytest.approx(np.mean(aucs))
        assert figures["balanced_accuracy"][i].item() == pytest.approx(np.mean(recalls))


def test_one_class_only_has_no_auc() -> None:
    assert (
        classification_metrics(scores(1, 5, 2), torch.zeros(5, dtype=torch.int64))["auc"]
        .isnan()
        .all()
    )


def test_broken_classifier_scores_nothing() -> None:
    log_p = scores(2, 30, 2)
    log_p[1, 4] = torch.nan
    for values in classification_metrics(log_p, torch.arange(30) % 2).values():
        assert values[0].isfinite() and values[1].isnan()


def test_confident_classifiers_are_not_tied() -> None:
    """In float32 the probability of a class is 1 from a difference of logits of 17 on; either class may be called the positive one."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 500)
    margin = rng.normal(np.where(y, 22, 12), 6).astype(np.float32)
    for sign, labels in ((1, y), (-1, 1 - y)):
        log_p = torch.from_numpy(np.column_stack([0 * margin, sign * margin]))[None].log_softmax(2)
        auc = classification_metrics(log_p, torch.from_numpy(labels))["auc"].item()
        assert auc == pytest.approx(oracle.roc_auc_score(y, margin), abs=1e-5)
