"""Selectors by value or distance, on cases with known answers and beside independent oracles."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain, combinations
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import log_softmax
from scipy.stats import entropy, spearmanr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from agents.selectors import (
    SELECTORS,
    CentroidSelector,
    ConfidenceSelector,
    DataOOBSelector,
    EntropyCentroidSelector,
    GradientMatchingSelector,
    HerdingSelector,
    InfluenceSelector,
    KNNShapleySelector,
    RatioSelector,
    TripletSelector,
)
from agents.selectors.valuation import KERNELS, class_log_probabilities, herd
from synthselect_env import FeatureBank, Dataset, load_bank
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.evaluators import Evaluator, LinearProbeEvaluator
from synthselect_env.evaluators.candidate_scores import ranking_probe

SURE = {  # AUC that each reaches where classes hardly overlap; matching wants a spread, the first filter drops sound ones, too
    "triplet": 0.98,
    "entropy + centroid": 0.7,
    "confidence": 0.98,
    "fit and looks": 0.98,
    "KNN-Shapley": 0.98,
    "Data-OOB": 0.98,
    "influence": 0.98,
    "gradient matching": 0.85,
    "herding": 0.9,
}


@pytest.fixture(scope="module")
def easy() -> FeatureBank:
    """Classes that hardly overlap, and half of the candidates with the wrong label."""
    return toy_bank(candidates_per_class=64, noise=0.3)


def three_classes(n_candidates: int = 30, seed: int = 0) -> FeatureBank:
    """Gaussian classes on three axes, of different sizes; nothing is wrong with the candidates."""
    rng = np.random.default_rng(seed)

    def draw(n: int) -> Dataset:
        labels = np.repeat([0, 1, 2], [n // 2, n // 3, n - n // 2 - n // 3])
        return Dataset((3 * np.eye(5)[labels] + rng.normal(size=(n, 5))).astype(np.float32), labels)

    return FeatureBank(
        train=draw(24),
        valid=draw(40),
        test=draw(12),
        candidates=draw(n_candidates),
        classes=("a", "b", "c"),
    )


@pytest.mark.parametrize("name", SURE)
class TestEach:
    def test_wrong_labels_come_last(self, easy: FeatureBank, name: str) -> None:
        bank, sound = easy, easy.candidates.flaw == 0
        if name == "Data-OOB":  # no image is in every bag: what is right is what most labels say
            rarer = sound | (np.arange(len(sound)) % 2 == 0)
            bank, sound = replace(easy, candidates=easy.candidates.subset(rarer)), sound[rarer]
        scores = SELECTORS[name]().select(bank, 0).scores
        for label in (0, 1):  # candidates are ranked within their class
            members = bank.candidates.labels == label
            assert roc_auc_score(sound[members], scores[members]) > SURE[name]

    @pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
    def test_keeps_its_share_of_each_class(
        self, small: FeatureBank, name: str, ratio: float
    ) -> None:
        for bank in (small, three_classes()):
            selection, labels = SELECTORS[name](ratio=ratio).select(bank, 0), bank.candidates.labels  # type: ignore[call-arg]
            expected = [round(ratio * count) for count in np.bincount(labels)]
            assert np.bincount(labels[selection.mask], minlength=len(expected)).tolist() == expected
            assert (
                selection.scores.dtype == np.float64
                and np.isfinite(selection.scores).all()
                and selection.source == name
            )
            for label in range(len(expected)):
                kept, left = (
                    selection.scores[(labels == label) & (selection.mask == k)]
                    for k in (True, False)
                )
                assert kept.min(initial=np.inf) >= left.max(initial=-np.inf)

    def test_half_is_the_default(self, small: FeatureBank, name: str) -> None:
        assert issubclass(SELECTORS[name], RatioSelector)
        assert (
            SELECTORS[name]().select(small, 0).mask
            == SELECTORS[name](ratio=0.5).select(small, 0).mask
        ).all()  # type: ignore[call-arg]

    def test_same_seed_same_selection(self, toy: FeatureBank, name: str) -> None:
        torch.manual_seed(1)
        before, numpys = torch.random.get_rng_state(), np.random.get_state()[1].copy()
        first = SELECTORS[name]().select(toy, 5)
        assert (
            torch.equal(before, torch.random.get_rng_state())
            and (np.random.get_state()[1] == numpys).all()
        )
        torch.manual_seed(2)
        again, other = (SELECTORS[name]().select(toy, seed) for seed in (5, 6))
        assert (first.scores == again.scores).all() and (first.mask == again.mask).all()
        assert (first.scores != other.scores).any() == (name in ("triplet", "Data-OOB"))

    def test_order_of_the_pool_does_not_matter(self, toy: FeatureBank, name: str) -> None:
        if name == "Data-OOB":
            pytest.skip("bags are drawn by position")
        order = np.random.default_rng(0).permutation(len(toy.candidates))
        shuffled = replace(toy, candidates=toy.candidates.subset(order))
        straight, other = (SELECTORS[name]().select(bank, 0) for bank in (toy, shuffled))
        assert other.scores == pytest.approx(straight.scores[order], abs=1e-6)

    def test_candidates_may_be_a_memory_map(
        self, toy: FeatureBank, name: str, tmp_path: Path
    ) -> None:
        np.save(tmp_path / "features.npy", toy.candidates.features)
        mapped = np.load(tmp_path / "features.npy", mmap_mode="r")  # cannot be written to
        bank = replace(toy, candidates=replace(toy.candidates, features=mapped))
        assert (
            SELECTORS[name]().select(bank, 0).scores == SELECTORS[name]().select(toy, 0).scores
        ).all()

    def test_its_settings_tell_it_from_others(self, name: str) -> None:
        """Which lets a comparison remember what it selected."""
        settings = [
            json.dumps(SELECTORS[name](ratio=ratio).settings()) for ratio in (0.5, 0.5, 0.4)
        ]  # type: ignore[call-arg]
        assert settings[0] == settings[1] != settings[2]

    def test_does_not_see_what_is_known_to_be_flawed(self, toy: FeatureBank, name: str) -> None:
        blind = replace(toy, candidates=replace(toy.candidates, flaw=None))
        assert (
            SELECTORS[name]().select(blind, 0).scores == SELECTORS[name]().select(toy, 0).scores
        ).all()

    def test_pool_of_one_class(self, toy: FeatureBank, name: str) -> None:
        bank = replace(toy, candidates=toy.candidates.subset(toy.candidates.labels == 1))
        assert SELECTORS[name]().select(bank, 0).count == round(0.5 * len(bank.candidates))


class TestConfidence:
    def test_is_a_ridge_regressions(self, toy: FeatureBank) -> None:
        """Beside scikit-learn's regression of the one-hot labels on principal components, at any temperature."""
        pca = PCA(7).fit(toy.train.features.astype(np.float64))
        probe = LinearProbeEvaluator(toy, n_components=7, ridge=1.0, device="cpu")
        scale = np.sqrt(pca.explained_variance_.mean() * (len(toy.train) - 1) / len(toy.train))
        x, pool = (
            pca.transform(split.features.astype(np.float64)) / scale
            for split in (toy.train, toy.candidates)
        )
        scores = Ridge(alpha=len(x)).fit(x, np.eye(2)[toy.train.labels]).predict(pool)
        own = scores[np.arange(len(pool)), toy.candidates.labels]
        assert spearmanr(own, probe.own_log_probability(toy.candidates)).statistic > 0.9999
        assert probe.own_log_probability(toy.candidates).argmax() == own.argmax()

    def test_probabilities(self) -> None:
        bank = three_classes()
        log_p = class_log_probabilities(ranking_probe(bank), bank.candidates)
        assert np.exp(log_p).sum(1) == pytest.approx(np.ones(len(log_p)))
        own = np.exp(log_p)[np.arange(len(log_p)), bank.candidates.labels]
        assert ConfidenceSelector().score(bank, 0) == pytest.approx(
            own, abs=0.01
        )  # whose temperature is fitted a few steps less


def by_enumeration(worth, n: int) -> np.ndarray:
    """Shapley values of n players by definition: the mean of what joining adds, over sets, each size alike."""
    values = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for s in chain.from_iterable(combinations(others, size) for size in range(n)):
            values[i] += (worth([*s, i]) - worth([*s])) / (n * comb(n - 1, len(s)))
    return values


class TestKNNShapley:
    @pytest.mark.parametrize("k", [1, 2, 5, 20])  # 20: more neighbours than there are players
    def test_by_enumeration(self, k: int) -> None:
        bank = replace(
            three_classes(n_candidates=6), train=three_classes().train.subset(np.array([0, 15, 23]))
        )
        x, y = (
            np.concatenate([getattr(split, what) for split in (bank.train, bank.candidates)])
            for what in ("features", "labels")
        )
        distances = cdist(bank.valid.features.astype(float), x.astype(float), "cosine")

        def worth(players: list[int]) -> float:
            nearest = [sorted(players, key=lambda j: row[j])[:k] for row in distances]
            return float(
                np.mean(
                    [
                        (y[near] == label).sum() / k
                        for near, label in zip(nearest, bank.valid.labels)
                    ]
                )
            )

        exact = by_enumeration(worth, len(y))
        ours = KNNShapleySelector(k=k).score(bank, 0)
        assert ours == pytest.approx(exact[3:], abs=1e-12)
        if k <= len(y):  # together they are worth what scikit-learn's classifier scores
            votes = (
                KNeighborsClassifier(k, metric="cosine")
                .fit(x.astype(float), y)
                .predict_proba(bank.valid.features.astype(float))
            )
            assert exact.sum() == pytest.approx(votes[np.arange(40), bank.valid.labels].mean())

    def test_many_judges(self, toy: FeatureBank) -> None:
        """More than are worked on at once; a mean over judges is the mean of their means."""
        halves = [replace(toy, valid=toy.valid.subset(np.arange(i, 128, 2))) for i in (0, 1)]
        assert KNNShapleySelector().score(toy, 0) == pytest.approx(
            np.mean([KNNShapleySelector().score(b, 0) for b in halves], axis=0)
        )


class TestDataOOB:
    def test_is_the_out_of_bag_accuracy(self, toy: FeatureBank) -> None:
        """Beside scikit-learn's ridge on the same bags."""
        k, share = 70, 0.25
        ours = DataOOBSelector(n_classifiers=k, share=share).score(toy, 3)
        x = (
            ranking_probe(toy)
            .components(np.concatenate([toy.train.features, toy.candidates.features]))
            .numpy()[:, :-1]
        )
        y = np.concatenate([toy.train.labels, toy.candidates.labels])
        rng, n = np.random.default_rng(3), len(y)
        bags = np.concatenate(
            [rng.random((part, n)).argsort(1) < round(share * n) for part in (64, 6)]
        )
        assert (bags.sum(1) == 22).all()
        right = np.array(
            [
                Ridge(alpha=bag.sum()).fit(x[bag], np.eye(2)[y[bag]]).predict(x).argmax(1) == y
                for bag in bags
            ]
        )
        accuracy = (right & ~bags).sum(0) / (~bags).sum(0)
        assert ours == pytest.approx(accuracy[len(toy.train) :], abs=1e-4)

    def test_ties_alone_are_broken(self, easy: FeatureBank) -> None:
        scores = DataOOBSelector(n_classifiers=64).score(easy, 0)
        shares = np.round(scores, 3)
        assert len(np.unique(shares)) < len(np.unique(scores)) == len(scores)
        assert (np.diff(shares[np.argsort(scores)]) >= 0).all()


class TestInfluence:
    @pytest.mark.parametrize("start", ["none", "all"])
    def test_beside_refits(self, start: str) -> None:
        """What each candidate alone adds to the real images, or costs when it is left out of all: where one in hundreds is little."""
        bank = toy_bank(candidates_per_class=128)
        bank = replace(bank, train=bank.test) if start == "none" else bank
        probe, n = LinearProbeEvaluator(bank, device="cpu"), len(bank.candidates)
        ours = InfluenceSelector(start=start).score(bank, 0)
        masks = np.eye(n, dtype=bool) ^ (start == "all")
        start_figure = probe.evaluate(np.full((1, n), start == "all"), 0).log_likelihood
        gains = (probe.evaluate(masks, 0).log_likelihood - start_figure) * (
            1 if start == "none" else -1
        )
        assert spearmanr(ours, gains).statistic > 0.995
        clear = np.abs(gains) > 0.1 * np.abs(gains).max()
        assert clear.sum() > n / 2 and (np.sign(ours) == np.sign(gains))[clear].all()
        assert np.polyfit(ours, gains, 1)[0] == pytest.approx(1, abs=0.05)

    def test_any_evaluator_with_credit(self, toy: FeatureBank) -> None:
        probe = LinearProbeEvaluator(toy, ridge=0.1, device="cpu")
        assert (
            InfluenceSelector(evaluator=probe).score(toy, 0)
            == probe.credit(np.ones((1, 64), bool), 0)[0]
        ).all()

        class Silent(LinearProbeEvaluator):
            credit = Evaluator.credit

        with pytest.raises(NotImplementedError, match="cannot say what each candidate is worth"):
            InfluenceSelector(evaluator=Silent(toy)).select(toy, 0)


def explicit(x: np.ndarray, kernel: str) -> np.ndarray:
    """The kernel's feature map, where it has a finite one.  (n, d) -> (n, D)"""
    if kernel == "linear":
        return x
    return np.concatenate(
        [np.ones((len(x), 1)), np.sqrt(2) * x, (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)],
        axis=1,
    )


class TestHerding:
    @pytest.mark.parametrize("kernel", ["linear", "quadratic"])
    def test_is_the_greedy_choice(self, kernel: str) -> None:
        """Written down once more in the kernel's space."""
        rng = np.random.default_rng(0)
        candidates, targets = rng.normal(size=(9, 3)), rng.normal(0.3, 0.7, size=(7, 3))
        phi, mean, taken = explicit(candidates, kernel), explicit(targets, kernel).mean(0), []
        while len(taken) < 9:
            rest = [i for i in range(9) if i not in taken]
            taken.append(min(rest, key=lambda i: ((phi[[*taken, i]].mean(0) - mean) ** 2).sum()))
        assert herd(candidates, targets, KERNELS[kernel]).tolist() == taken

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_half_is_like_the_targets(self, kernel: str) -> None:
        """By the squared distance of kernel means (MMD²), beside 200 random halves."""
        rng, k = np.random.default_rng(0), KERNELS[kernel]
        candidates, targets = rng.normal(size=(60, 4)), rng.normal(0.3, 0.7, size=(50, 4))

        def discrepancy(chosen: np.ndarray) -> float:
            part = candidates[chosen]
            return float(
                k(part, part).mean() - 2 * k(part, targets).mean() + k(targets, targets).mean()
            )

        order = herd(candidates, targets, k)
        assert sorted(order) == list(range(60))
        assert discrepancy(order[:30]) < min(
            discrepancy(rng.permutation(60)[:30]) for _ in range(200)
        )

    def test_gaussian_kernel(self) -> None:
        x, y = np.random.default_rng(0).normal(size=(2, 4, 3))
        assert KERNELS["gaussian"](x, y) == pytest.approx(np.exp(-cdist(x, y, "sqeuclidean") / 2))

    @pytest.mark.parametrize("kernel", ["quadratic", "gaussian"])
    def test_covers_what_the_nearest_do_not(self, kernel: str) -> None:
        """Real images of a class in two clusters, candidates mostly in the middle: the mean is matched by those, the spread is not."""
        rng = np.random.default_rng(0)
        real = np.array([[-4.0, 1], [4, 1]])[np.arange(40) % 2] + 0.3 * rng.normal(size=(40, 2))
        middle, sides = np.array([0.0, 1]) + 0.3 * rng.normal(size=(80, 2)), real + 0.1
        other = Dataset(np.image_grid([[0.0, -9]], (40, 1)), np.ones(40, int))
        train = Dataset(np.concatenate([real, other.features]), np.repeat([0, 1], 40))
        candidates = Dataset(np.concatenate([middle, sides]), np.zeros(120, int))
        bank = FeatureBank(
            train=train, valid=train, test=train, candidates=candidates, classes=("a", "b")
        )
        assert HerdingSelector(ratio=0.25, kernel=kernel).select(bank, 0).mask[80:].sum() >= 25
        assert CentroidSelector(ratio=0.25).select(bank, 0).mask[80:].sum() == 0

    def test_identical_real_pictures(self, toy: FeatureBank) -> None:
        """No spread to measure distances by."""
        one_each = replace(toy, train=toy.train.subset(np.array([0, 23])))
        assert HerdingSelector().select(one_each, 0).count == 32


class TestGradientMatching:
    def test_gradients_are_autograds(self) -> None:
        bank = three_classes()
        classifier, ours = ranking_probe(bank), GradientMatchingSelector().vectors(bank)[0]
        x, log_p = (
            classifier.components(bank.candidates.features),
            class_log_probabilities(classifier, bank.candidates),
        )
        for i in range(len(bank.candidates)):
            change = torch.zeros(3, x.shape[1], dtype=torch.float64, requires_grad=True)
            logits = torch.from_numpy(log_p[i]) + change @ x[i]
            torch.nn.functional.cross_entropy(
                logits, torch.tensor(bank.candidates.labels[i])
            ).backward()
            assert ours[i] == pytest.approx(change.grad.flatten().numpy(), abs=1e-6)  # type: ignore[union-attr]

    def test_half_adds_up_to_the_validation_gradient(self, toy: FeatureBank) -> None:
        candidates, targets, classes = GradientMatchingSelector().vectors(toy)
        mask, rng = GradientMatchingSelector().select(toy, 0).mask, np.random.default_rng(0)
        for label in (0, 1):
            members, wanted = (
                np.flatnonzero(toy.candidates.labels == label),
                targets[classes == label].mean(0),
            )

            def error(chosen: np.ndarray, wanted: np.ndarray = wanted) -> float:
                return float(np.linalg.norm(candidates[chosen].mean(0) - wanted))

            ours, count = error(members[mask[members]]), mask[members].sum()
            assert ours < min(error(rng.permutation(members)[:count]) for _ in range(500))

    def test_class_without_validation_pictures(self) -> None:
        bank = three_classes()
        bank = replace(bank, valid=bank.valid.subset(bank.valid.labels != 2))
        selection = GradientMatchingSelector().select(bank, 0)
        assert (
            np.isfinite(selection.scores).all()
            and selection.mask[bank.candidates.labels == 2].any()
        )


class TestTriplet:
    def test_learns_what_tells_classes_apart(self) -> None:
        """One feature tells, twenty louder ones do not: raw distances drown in these."""
        rng = np.random.default_rng(0)

        def draw(n: int, flawed: float = 0.0) -> Dataset:
            truth = np.arange(n) % 2
            features = np.column_stack(
                [2.0 * truth - 1 + 0.3 * rng.normal(size=n), 3 * rng.normal(size=(n, 20))]
            )
            flaw = (rng.random(n) < flawed).astype(np.int8)
            return Dataset(features, np.where(flaw, 1 - truth, truth), flaw=flaw)

        bank = FeatureBank(
            train=draw(400),
            valid=draw(20),
            test=draw(20),
            candidates=draw(300, 0.5),
            classes=("a", "b"),
        )
        auc = {
            s.name: roc_auc_score(bank.candidates.flaw == 0, s.score(bank, 0))
            for s in (TripletSelector(), CentroidSelector())
        }
        assert auc["triplet"] > 0.95 and auc["triplet"] > auc["centroid"] + 0.2

    def test_lowers_the_loss(self, toy: FeatureBank) -> None:
        """Of all triplets, beside the embedding that it starts from."""
        x, y = torch.from_numpy(toy.train.features), torch.from_numpy(toy.train.labels)
        losses = []
        for rate in (1e-9, 1e-3):
            e = TripletSelector(learning_rate=rate).learn(x, y, 2, 0)(x).detach()
            assert e.norm(dim=1).numpy() == pytest.approx(np.ones(len(x)), abs=1e-5)
            squared, same = torch.cdist(e, e).square(), y[:, None] == y
            gaps = (squared[:, :, None] - squared[:, None, :] + 0.2).relu()
            losses.append(gaps[same[:, :, None] & ~same[:, None, :]].mean().item())
        assert losses[1] < 0.5 * losses[0]


class TestEntropyCentroid:
    def test_drops_the_least_certain(self) -> None:
        bank = three_classes(60)
        log_p = class_log_probabilities(ranking_probe(bank), bank.candidates)
        uncertainty, labels = entropy(np.exp(log_p), axis=1), bank.candidates.labels
        selection = EntropyCentroidSelector(ratio=0.4, certain=0.5).select(bank, 0)
        for label in range(3):
            members = np.flatnonzero(labels == label)
            left = members[np.argsort(uncertainty[members])][: round(0.5 * len(members))]
            nearest = left[np.argsort(bank.centroid_distances[left])][: round(0.4 * len(members))]
            assert set(np.flatnonzero(selection.mask & (labels == label))) == set(nearest)

    def test_dropping_none_is_the_centroid_baseline(self, toy: FeatureBank) -> None:
        for certain in (0.0, 1.0):  # all or none dropped: the ratio fills up with the nearest
            assert (
                EntropyCentroidSelector(certain=certain).select(toy, 0).mask
                == CentroidSelector().select(toy, 0).mask
            ).all()


def test_class_probabilities_are_normalised_scores(toy: FeatureBank) -> None:
    """Of a pool whose labels are turned round, the same."""
    classifier = ranking_probe(toy)
    random_flips = replace(toy.candidates, labels=1 - toy.candidates.labels)
    log_p = class_log_probabilities(classifier, toy.candidates)
    assert (log_p == class_log_probabilities(classifier, random_flips)).all()
    assert log_p == pytest.approx(log_softmax(log_p, axis=1), abs=1e-6)


@pytest.mark.parametrize(
    ("selector", "arguments", "message"),
    [
        (KNNShapleySelector, {"k": 0}, "k must be at least 1"),
        (DataOOBSelector, {"share": 1.0}, "share between 0 and 1"),
        (DataOOBSelector, {"n_classifiers": 0}, "n_classifiers must be at least 1"),
        (InfluenceSelector, {"start": "half"}, "unknown start 'half'; all or none"),
        (
            HerdingSelector,
            {"kernel": "cubic"},
            "unknown kernel 'cubic'; one of linear, quadratic, gaussian",
        ),
        (TripletSelector, {"margin": 0.0}, "margin and learning_rate above 0"),
        (EntropyCentroidSelector, {"certain": 75}, "certain must lie between 0 and 1"),
        (ConfidenceSelector, {"ratio": 50}, "ratio must lie between 0 and 1"),
    ],
)
def test_errors(selector: type[RatioSelector], arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selector(**arguments)  # type: ignore[arg-type]


def test_looks_add_what_confidence_misses() -> None:
    """On known truth: better than confidence alone, and the same where neither looks nor what retrainings say are known."""
    bank = load_bank("pcam-planted")
    sound = bank.candidates.flaw == 0
    ours, confidence = (
        SELECTORS[name]().select(bank, 0) for name in ("fit and looks", "confidence")
    )
    assert roc_auc_score(sound, ours.scores) > roc_auc_score(sound, confidence.scores) + 0.02
    assert sound[ours.mask].mean() > sound[confidence.mask].mean() + 0.01
    blind = replace(bank, candidates=replace(bank.candidates, image_stats=None), retrainings=None)
    assert np.array_equal(SELECTORS["fit and looks"]().select(blind, 0).mask, confidence.mask)
