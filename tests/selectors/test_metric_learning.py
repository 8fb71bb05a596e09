"""The triplet selector and the filter by entropy, on cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score

from agents.selectors import CentroidSelector, EntropyCentroidSelector, TripletSelector
from agents.selectors.valuation import class_log_probabilities
from synthselect_env import Dataset, FeatureBank
from synthselect_env.evaluators.candidate_scores import label_probe


class TestTriplet:
    def test_learns_what_tells_classes_apart(self) -> None:
        """One feature tells. Twenty louder ones do not, and raw distances drown in them."""
        rng = np.random.default_rng(0)

        def draw(n: int, flawed: float = 0.0) -> Dataset:
            truth = np.arange(n) % 2
            telling = 2.0 * truth - 1 + 0.3 * rng.normal(size=n)
            features = np.column_stack([telling, 3 * rng.normal(size=(n, 20))])
            flaw = (rng.random(n) < flawed).astype(np.int8)
            return Dataset(features, np.where(flaw, 1 - truth, truth), flaw=flaw)

        train, valid, candidates = draw(400), draw(20), draw(300, flawed=0.5)
        bank = FeatureBank(train, valid, None, candidates, classes=("a", "b"))
        sound = candidates.flaw == 0
        triplet = roc_auc_score(sound, TripletSelector().score(bank, 0))
        assert triplet > 0.95
        assert triplet > roc_auc_score(sound, CentroidSelector().score(bank, 0)) + 0.2

    def test_lowers_the_loss(self, toy: FeatureBank) -> None:
        """The mean loss of all triplets, against that after one small step."""
        x, y = torch.from_numpy(toy.train.features), torch.from_numpy(toy.train.labels)
        losses = []
        for steps in (1, 200):
            embedded = TripletSelector(steps=steps).learn(x, y, 2, 0)(x).detach()
            assert embedded.norm(dim=1).numpy() == pytest.approx(np.ones(len(x)), abs=1e-5)
            squared, same = torch.cdist(embedded, embedded).square(), y[:, None] == y
            gaps = (squared[:, :, None] - squared[:, None, :] + 0.2).relu()
            losses.append(gaps[same[:, :, None] & ~same[:, None, :]].mean().item())
        assert losses[1] < 0.5 * losses[0]

    @pytest.mark.parametrize(
        "arguments", [{"margin": 0.0}, {"learning_rate": 0.0}, {"steps": 0}, {"width": 0}]
    )
    def test_errors(self, arguments: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="must be at least 1, margin and learning_rate above"):
            TripletSelector(**arguments)


class TestEntropyCentroid:
    def test_drops_the_least_certain(self, toy: FeatureBank) -> None:
        log_p = class_log_probabilities(label_probe(toy), toy.candidates)
        uncertainty, labels = entropy(np.exp(log_p), axis=1), toy.candidates.labels
        selection = EntropyCentroidSelector(ratio=0.4, certain=0.5).select(toy, 0)
        for label in (0, 1):
            members = np.flatnonzero(labels == label)
            left = members[np.argsort(uncertainty[members])][: round(0.5 * len(members))]
            nearest = left[np.argsort(toy.centroid_distances[left])][: round(0.4 * len(members))]
            assert set(np.flatnonzero(selection.mask & (labels == label))) == set(nearest)

    @pytest.mark.parametrize("certain", [0.0, 1.0])
    def test_dropping_all_or_none_is_the_centroid_baseline(
        self, toy: FeatureBank, certain: float
    ) -> None:
        """If all are dropped, the ratio fills up with the nearest."""
        ours = EntropyCentroidSelector(certain=certain).select(toy, 0)
        assert (ours.mask == CentroidSelector().select(toy, 0).mask).all()

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="certain must lie between 0 and 1"):
            EntropyCentroidSelector(certain=75)
