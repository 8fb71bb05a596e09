"""Herding and gradient matching, on cases with known answers and beside independent oracles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from agents.selectors import CentroidSelector, GradientMatchingSelector, HerdingSelector
from agents.selectors.matching import KERNELS, herd
from agents.selectors.valuation import class_log_probabilities
from synthselect_env import Dataset, FeatureBank
from synthselect_env.evaluators.candidate_scores import label_probe


def feature_map(x: np.ndarray, kernel: str) -> np.ndarray:
    """The kernel's space, where it has finitely many dimensions.  (n, d) -> (n, D)"""
    if kernel == "linear":
        return x
    products = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    return np.concatenate([np.ones((len(x), 1)), np.sqrt(2) * x, products], axis=1)


class TestHerding:
    @pytest.mark.parametrize("kernel", ["linear", "quadratic"])
    def test_is_the_greedy_choice(self, kernel: str) -> None:
        """Written down once more in the kernel's space."""
        rng = np.random.default_rng(0)
        candidates, targets = rng.normal(size=(9, 3)), rng.normal(0.3, 0.7, size=(7, 3))
        phi, mean = feature_map(candidates, kernel), feature_map(targets, kernel).mean(0)
        taken: list[int] = []
        while len(taken) < 9:
            rest = [i for i in range(9) if i not in taken]
            errors = [((phi[[*taken, i]].mean(0) - mean) ** 2).sum() for i in rest]
            taken.append(rest[int(np.argmin(errors))])
        assert herd(candidates, targets, KERNELS[kernel]).tolist() == taken

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_half_resembles_the_targets(self, kernel: str) -> None:
        """By the squared distance of kernel means (MMD²), beside 200 random halves."""
        rng, k = np.random.default_rng(0), KERNELS[kernel]
        candidates, targets = rng.normal(size=(60, 4)), rng.normal(0.3, 0.7, size=(50, 4))

        def discrepancy(chosen: np.ndarray) -> float:
            part = candidates[chosen]
            cross = 2 * k(part, targets).mean()
            return float(k(part, part).mean() - cross + k(targets, targets).mean())

        order = herd(candidates, targets, k)
        assert sorted(order) == list(range(60))
        random_halves = [rng.permutation(60)[:30] for _ in range(200)]
        assert discrepancy(order[:30]) < min(map(discrepancy, random_halves))

    def test_gaussian_kernel(self) -> None:
        x, y = np.random.default_rng(0).normal(size=(2, 4, 3))
        assert KERNELS["gaussian"](x, y) == pytest.approx(np.exp(-cdist(x, y, "sqeuclidean") / 2))

    @pytest.mark.parametrize("kernel", ["quadratic", "gaussian"])
    def test_covers_what_the_nearest_do_not(self, kernel: str) -> None:
        """Real images form two clusters, and most candidates lie between them.

        Those in the middle match the mean, and not the spread.
        """
        rng = np.random.default_rng(0)
        real = np.array([[-4.0, 1], [4, 1]])[np.arange(40) % 2] + 0.3 * rng.normal(size=(40, 2))
        middle = np.array([0.0, 1]) + 0.3 * rng.normal(size=(80, 2))
        sides = real + 0.1
        other_class = np.tile([[0.0, -9]], (40, 1))
        train = Dataset(np.concatenate([real, other_class]), np.repeat([0, 1], 40))
        candidates = Dataset(np.concatenate([middle, sides]), np.zeros(120, int))
        bank = FeatureBank(train, train, None, candidates, classes=("a", "b"))
        assert HerdingSelector(ratio=0.25, kernel=kernel).select(bank, 0).mask[80:].sum() >= 25
        assert CentroidSelector(ratio=0.25).select(bank, 0).mask[80:].sum() == 0

    def test_identical_real_images(self, toy: FeatureBank) -> None:
        """There is no spread to measure distances by."""
        one_each = replace(toy, train=toy.train.subset(np.array([0, 23])))
        assert HerdingSelector().select(one_each, 0).count == 32

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="unknown kernel 'cubic'; one of linear, quadratic, "):
            HerdingSelector(kernel="cubic")


class TestGradientMatching:
    def test_gradients_are_autograds(self, toy: FeatureBank) -> None:
        classifier, ours = label_probe(toy), GradientMatchingSelector().vectors(toy)[0]
        x = classifier.components(toy.candidates.features)
        log_p = class_log_probabilities(classifier, toy.candidates)
        for i, label in enumerate(torch.from_numpy(toy.candidates.labels)):
            change = torch.zeros(2, x.shape[1], dtype=torch.float64, requires_grad=True)
            logits = torch.from_numpy(log_p[i]) + change @ x[i]
            torch.nn.functional.cross_entropy(logits, label).backward()
            assert ours[i] == pytest.approx(change.grad.flatten().numpy(), abs=1e-6)

    def test_half_adds_up_to_the_validation_gradient(self, toy: FeatureBank) -> None:
        """Beside 500 random halves."""
        candidates, targets, classes = GradientMatchingSelector().vectors(toy)
        mask, rng = GradientMatchingSelector().select(toy, 0).mask, np.random.default_rng(0)
        for label in (0, 1):
            members = np.flatnonzero(toy.candidates.labels == label)
            wanted = targets[classes == label].mean(0)
            kept = members[mask[members]]
            halves = [kept, *(rng.permutation(members)[: len(kept)] for _ in range(500))]
            errors = [np.linalg.norm(candidates[half].mean(0) - wanted) for half in halves]
            assert errors[0] < min(errors[1:])

    def test_class_without_validation_images(self) -> None:
        rng, labels = np.random.default_rng(0), np.arange(30) % 3
        data = Dataset(3 * np.eye(5)[labels] + rng.normal(size=(30, 5)), labels)
        valid = data.subset(labels != 2)
        bank = FeatureBank(data, valid, None, data, classes=("a", "b", "c"))
        selection = GradientMatchingSelector().select(bank, 0)
        assert np.isfinite(selection.scores).all()
        assert selection.mask[labels == 2].any()
