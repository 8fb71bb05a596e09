"""Values of single candidates, on cases with known answers and beside independent oracles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain, combinations
from math import comb

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import log_softmax
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from agents.selectors import (
    ConfidenceSelector,
    DataOOBSelector,
    InfluenceSelector,
    KNNShapleySelector,
    LabelFitRealismSelector,
    RatioSelector,
)
from agents.selectors.valuation import class_log_probabilities
from synthselect_env import FeatureBank
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.evaluators import LinearProbeEvaluator
from synthselect_env.evaluators.candidate_scores import label_probe


class TestConfidence:
    def test_orders_as_a_ridge_regression_does(self, toy: FeatureBank) -> None:
        """Scikit-learn's regression of one-hot labels on principal components is the oracle."""
        pca = PCA(7).fit(toy.train.features.astype(np.float64))
        probe = LinearProbeEvaluator(toy, n_components=7, ridge=1.0, device="cpu")
        scale = np.sqrt(pca.explained_variance_.mean() * (len(toy.train) - 1) / len(toy.train))
        x, pool = (
            pca.transform(split.features.astype(np.float64)) / scale
            for split in (toy.train, toy.candidates)
        )
        scores = Ridge(alpha=len(x)).fit(x, np.eye(2)[toy.train.labels]).predict(pool)
        own = scores[np.arange(len(pool)), toy.candidates.labels]
        ours = probe.own_log_probability(toy.candidates)
        assert spearmanr(own, ours).statistic > 0.9999
        assert ours.argmax() == own.argmax()

    def test_is_the_probability_of_the_label(self, toy: FeatureBank) -> None:
        log_p = class_log_probabilities(label_probe(toy), toy.candidates)
        own = np.exp(log_p)[np.arange(len(log_p)), toy.candidates.labels]
        # The temperature of a single fit takes fewer steps.
        assert ConfidenceSelector().score(toy, 0) == pytest.approx(own, abs=0.01)

    def test_class_probabilities_do_not_depend_on_labels(self, toy: FeatureBank) -> None:
        flipped = replace(toy.candidates, labels=1 - toy.candidates.labels)
        log_p = class_log_probabilities(label_probe(toy), toy.candidates)
        assert (log_p == class_log_probabilities(label_probe(toy), flipped)).all()
        assert log_p == pytest.approx(log_softmax(log_p, axis=1), abs=1e-6)


class TestLabelFitRealism:
    def test_finds_more_flaws_than_confidence(self, planted: FeatureBank) -> None:
        sound = planted.candidates.flaw == 0
        ours = LabelFitRealismSelector().select(planted, 0)
        confidence = ConfidenceSelector().select(planted, 0)
        auc_ours, auc_confidence = (roc_auc_score(sound, s.scores) for s in (ours, confidence))
        assert auc_ours > auc_confidence + 0.02
        assert sound[ours.mask].mean() > sound[confidence.mask].mean() + 0.01

    def test_is_confidence_where_nothing_else_is_known(self, toy: FeatureBank) -> None:
        assert toy.retrainings is None
        blind = replace(toy, candidates=replace(toy.candidates, image_stats=None))
        ours, confidence = (
            s.select(blind, 0) for s in (LabelFitRealismSelector(), ConfidenceSelector())
        )
        assert (ours.mask == confidence.mask).all()


def shapley_by_enumeration(worth: Callable[[Sequence[int]], float], n: int) -> np.ndarray:
    """Shapley values of n players by definition.

    The mean of what joining adds, over sets, where each size counts alike.
    """
    known = cache(lambda players: worth(sorted(players)))
    values = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for joined in chain.from_iterable(combinations(others, size) for size in range(n)):
            gain = known(frozenset((*joined, i))) - known(frozenset(joined))
            values[i] += gain / (n * comb(n - 1, len(joined)))
    return values


class TestKNNShapley:
    @pytest.mark.parametrize("k", [1, 2, 5, 20])  # 20: more neighbours than there are players
    def test_is_the_shapley_value(self, toy: FeatureBank, k: int) -> None:
        candidates = toy.candidates.subset(np.array([0, 9, 20, 40, 50, 63]))
        train, valid = (
            toy.train.subset(np.array([0, 1, -1])),
            toy.valid.subset(np.arange(0, 128, 4)),
        )
        bank = replace(toy, train=train, valid=valid, candidates=candidates)
        x = np.concatenate([bank.train.features, bank.candidates.features]).astype(float)
        y = np.concatenate([bank.train.labels, bank.candidates.labels])
        judges = bank.valid.features.astype(float)
        distances = cdist(judges, x, "cosine")

        def worth(players: Sequence[int]) -> float:
            nearest = [sorted(players, key=lambda j: row[j])[:k] for row in distances]
            labels = bank.valid.labels
            return float(
                np.mean([(y[near] == own).sum() / k for near, own in zip(nearest, labels)])
            )

        exact = shapley_by_enumeration(worth, len(y))
        assert KNNShapleySelector(k=k).score(bank, 0) == pytest.approx(exact[3:], abs=1e-12)
        if k <= len(y):  # together they are worth what scikit-learn's classifier scores
            votes = KNeighborsClassifier(k, metric="cosine").fit(x, y).predict_proba(judges)
            own = votes[np.arange(len(judges)), bank.valid.labels]
            assert exact.sum() == pytest.approx(own.mean())

    def test_validation_images_in_several_chunks(self, toy: FeatureBank) -> None:
        """A mean over all validation images is the mean of the halves' means."""
        halves = [replace(toy, valid=toy.valid.subset(np.arange(i, 128, 2))) for i in (0, 1)]
        expected = np.mean([KNNShapleySelector().score(half, 0) for half in halves], axis=0)
        assert KNNShapleySelector().score(toy, 0) == pytest.approx(expected)


class TestDataOOB:
    def test_is_the_out_of_bag_accuracy(self, toy: FeatureBank) -> None:
        """Scikit-learn's ridge regression on the same bags is the oracle."""
        k, share = 70, 0.25
        ours = DataOOBSelector(n_classifiers=k, share=share).score(toy, 3)
        features = np.concatenate([toy.train.features, toy.candidates.features])
        x = label_probe(toy).components(features).numpy()[:, :-1]
        y = np.concatenate([toy.train.labels, toy.candidates.labels])
        rng, n = np.random.default_rng(3), len(y)
        chunks = [rng.random((part, n)).argsort(1) < round(share * n) for part in (64, 6)]
        bags = np.concatenate(chunks)
        assert (bags.sum(1) == 22).all()
        right = []
        for bag in bags:
            regression = Ridge(alpha=bag.sum()).fit(x[bag], np.eye(2)[y[bag]])
            right.append(regression.predict(x).argmax(1) == y)
        accuracy = (np.array(right) & ~bags).sum(0) / (~bags).sum(0)
        assert ours == pytest.approx(accuracy[len(toy.train) :], abs=1e-4)

    def test_breaks_ties_only(self) -> None:
        easy = toy_bank(candidates_per_class=64, noise=0.3)
        scores = DataOOBSelector(n_classifiers=64).score(easy, 0)
        shares = np.round(scores, 3)
        assert len(np.unique(shares)) < len(np.unique(scores)) == len(scores)
        assert (np.diff(shares[np.argsort(scores)]) >= 0).all()


class TestInfluence:
    @pytest.mark.parametrize("start", ["none", "all"])
    def test_predicts_refits(self, start: str) -> None:
        """The gain from each candidate alone, or its cost when left out of all.

        There are enough images for one to matter little.
        """
        bank = toy_bank(candidates_per_class=128)
        bank = replace(bank, train=bank.test) if start == "none" else bank
        probe, n = LinearProbeEvaluator(bank, device="cpu"), len(bank.candidates)
        ours = InfluenceSelector(start=start).score(bank, 0)
        from_all = start == "all"
        masks = np.eye(n, dtype=bool) ^ from_all
        before = probe.evaluate(np.full((1, n), from_all), 0).log_likelihood
        change = probe.evaluate(masks, 0).log_likelihood - before
        gains = -change if from_all else change
        assert spearmanr(ours, gains).statistic > 0.995
        clear = np.abs(gains) > 0.1 * np.abs(gains).max()
        assert clear.sum() > n / 2
        assert (np.sign(ours) == np.sign(gains))[clear].all()
        assert np.polyfit(ours, gains, 1)[0] == pytest.approx(1, abs=0.05)

    def test_takes_any_evaluator_with_credit(self, toy: FeatureBank) -> None:
        probe = LinearProbeEvaluator(toy, ridge=0.1, device="cpu")
        expected = probe.credit(np.ones((1, 64), bool), 0)[0]
        assert (InfluenceSelector(evaluator=probe).score(toy, 0) == expected).all()

        class Silent(LinearProbeEvaluator):
            credit = None

        with pytest.raises(NotImplementedError, match="cannot say what each candidate is worth"):
            InfluenceSelector(evaluator=Silent(toy)).select(toy, 0)


@pytest.mark.parametrize(
    ("selector", "arguments", "message"),
    [
        (KNNShapleySelector, {"k": 0}, "k must be at least 1"),
        (DataOOBSelector, {"share": 1.0}, "share between 0 and 1"),
        (DataOOBSelector, {"n_classifiers": 0}, "n_classifiers must be at least 1"),
        (InfluenceSelector, {"start": "half"}, "unknown start 'half'; all or none"),
    ],
)
def test_errors(selector: type[RatioSelector], arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selector(**arguments)
