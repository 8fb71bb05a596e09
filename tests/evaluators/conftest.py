"""Small networks, and a retraining that is a formula."""

from __future__ import annotations

import numpy as np
import pytest

from synthselect_env import Dataset, FeatureBank
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.evaluators import ClassifierEvaluator, with_retrainings
from synthselect_env.training.config import TrainingConfig


class PretendedRetraining(ClassifierEvaluator):
    """Suffer from the share of flawed candidates, and gain from the number of sound ones.

    Real images get their label with the probability of the log-likelihood. Candidates get the class
    that they show, some surer than others.
    """

    def settings(self) -> dict[str, object]:
        return {"size": (1, 2)}

    def log_likelihood(self, selections: np.ndarray) -> np.ndarray:
        sound, n_real = self.bank.candidates.flaw == 0, len(self.bank.train)
        flawed_share = (selections & ~sound).sum(1) / (n_real + selections.sum(1))
        growth = np.log((n_real + (selections & sound).sum(1)) / n_real)
        noise = np.random.default_rng(int(selections.sum())).normal(0, 0.005, len(selections))
        return -0.5 - 0.6 * flawed_share + 0.05 * growth + noise

    def predict(self, selections: np.ndarray, seed: int, dataset: Dataset) -> np.ndarray:
        candidates = self.bank.candidates
        doubts = np.random.default_rng(0).normal(0, 0.3, len(candidates))
        known = dict(zip(candidates.ids, zip(candidates.flaw > 0, doubts)))
        flawed, doubt = np.array([known.get(name, (False, 0.0)) for name in dataset.ids]).T
        shown = dataset.labels ^ flawed.astype(int)
        p = np.exp(self.log_likelihood(self.checked(selections)))[:, None]
        log_odds = (np.log(p / (1 - p)) + doubt) * (2 * shown - 1)  # (k, m)
        return -np.logaddexp(0, np.stack([log_odds, -log_odds], axis=2))


@pytest.fixture(scope="session")
def pretended() -> type[PretendedRetraining]:
    return PretendedRetraining


@pytest.fixture(scope="session")
def tiny() -> TrainingConfig:
    """Two steps of the smallest network."""
    return TrainingConfig(
        "shufflenet_v2_x0_5", size=(16, 16), epochs=2, steps_per_epoch=1, batch_size=16
    )


@pytest.fixture(scope="session")
def masks(toy: FeatureBank) -> np.ndarray:
    """Four selections, from none of the toy bank's candidates to most of them."""
    density = np.linspace(0, 0.8, 4)[:, None]
    return np.random.default_rng(0).random((4, len(toy.candidates))) < density


@pytest.fixture(scope="session")
def large() -> FeatureBank:
    """A toy bank with 400 candidates."""
    return toy_bank(candidates_per_class=200)


@pytest.fixture(scope="session")
def retrained(large: FeatureBank) -> FeatureBank:
    """The large toy bank with 40 pretended retrainings."""
    return with_retrainings(large, PretendedRetraining(large), 40)


@pytest.fixture(scope="session")
def retrained_toy(toy: FeatureBank) -> FeatureBank:
    """The toy bank with 20 pretended retrainings."""
    return with_retrainings(toy, PretendedRetraining(toy), 20)
