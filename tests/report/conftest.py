from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from agents.evaluation import Comparison, Outcome, compare
from synthselect_env import FeatureBank, Selection
from synthselect_env.metrics import METRICS

N_TEST = 200

MakeComparison = Callable[..., Comparison]


@pytest.fixture(scope="session")
def made_up() -> MakeComparison:
    """Make a comparison with given test accuracies, one per round.

    All selectors but "none" keep the first ``kept`` candidates. The gap is two points.
    """

    def outcome(name: str, number: int, selection: Selection, accuracy: float) -> Outcome:
        right = np.arange(N_TEST) < round(N_TEST * accuracy)
        predictions = np.log(np.where(np.stack([right, ~right], 1), 0.9, 0.1))
        valid = dict.fromkeys(METRICS, accuracy + 0.02)
        test = dict.fromkeys(METRICS, accuracy)
        likelihoods = np.full(50, accuracy)
        return Outcome(name, number, selection, valid, test, predictions, likelihoods)

    def make(
        bank: FeatureBank, accuracies: dict[str, list[float]], kept: int | None = None
    ) -> Comparison:
        n = len(bank.candidates)
        outcomes = []
        for name, rounds in accuracies.items():
            count = 0 if name == "none" else n if kept is None else kept
            selection = Selection.of(bank, np.arange(n) < count, np.linspace(1, -1, n), name)
            outcomes += [outcome(name, r, selection, value) for r, value in enumerate(rounds)]
        return Comparison("linear probe", tuple(outcomes), np.zeros(N_TEST, np.int64))

    return make


@pytest.fixture(scope="session")
def toy_comparison(toy: FeatureBank) -> Comparison:
    """Two rounds on the toy bank."""
    return compare(toy, ["none", "random", "centroid"], rounds=2)


@pytest.fixture(scope="session")
def small_planted(planted: FeatureBank) -> FeatureBank:
    """The embedded bank of known truth with one in sixteen of its candidates."""
    some = np.arange(0, len(planted.candidates), 16)
    return replace(planted, candidates=planted.candidates.subset(some), retrainings=None)
