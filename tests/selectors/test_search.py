"""Selectors that search with an evaluator, on cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from agents.selectors import (
    SELECTORS,
    BanzhafSelector,
    CreditSelector,
    CrossEntropySelector,
    RandomSearchSelector,
    SearchSelector,
)
from synthselect_env import FeatureBank
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.evaluators import Evaluations, Evaluator
from synthselect_env.metrics import METRICS

SEARCHES = [name for name, selector in SELECTORS.items() if issubclass(selector, SearchSelector)]


class Additive(Evaluator):
    """Gives each candidate a worth that its features tell, and adds it up."""

    def __init__(self, bank: FeatureBank) -> None:
        super().__init__(bank)
        direction = np.random.default_rng(5).normal(size=bank.n_features)
        self.worth = bank.candidates.features @ direction
        self.asked: list[np.ndarray] = []  # all selections that were scored

    def values(self, selections: np.ndarray) -> np.ndarray:
        return selections @ self.worth

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        self.asked.extend(selections)
        return Evaluations.from_metrics(dict.fromkeys(METRICS, self.values(selections)))

    def credit(self, selections: np.ndarray, seed: int) -> np.ndarray:
        self.asked.extend(selections)
        return np.tile(self.worth, (len(selections), 1))


@pytest.mark.parametrize("name", SEARCHES)
class TestAllSearches:
    @pytest.mark.parametrize("evaluations", [2, 5])
    def test_few_evaluations_are_not_exceeded(
        self, toy: FeatureBank, name: str, evaluations: int
    ) -> None:
        evaluator = Additive(toy)
        SELECTORS[name](evaluator, evaluations=evaluations).select(toy, 0)
        assert 1 <= len(evaluator.asked) <= evaluations

    def test_find_what_is_worth_something(self, toy: FeatureBank, name: str) -> None:
        evaluator = Additive(toy)
        selection = SELECTORS[name](evaluator, evaluations=1024).select(toy, 0)
        assert len(evaluator.asked) <= 1024
        best = evaluator.worth[evaluator.worth > 0].sum()
        assert evaluator.worth[selection.mask].sum() > 0.25 * best
        assert (selection.mask == (selection.scores > 0)).all()

    def test_too_few_evaluations(self, name: str) -> None:
        with pytest.raises(ValueError, match="evaluations must be at least 2"):
            SELECTORS[name](evaluations=1)


class TestBanzhaf:
    def test_values_by_enumeration(self) -> None:
        """The exact values of a small game with interactions, from all sets."""

        class Game(Additive):
            def values(self, selections: np.ndarray) -> np.ndarray:
                pair = 2.0 * selections[:, 0] * selections[:, 1]
                return super().values(selections) + pair - selections[:, 2] * selections[:, 5]

        bank = toy_bank(candidates_per_class=3)
        game = Game(bank)
        sets = np.array(list(np.ndindex(*[2] * 6)), bool)
        values = game.values(sets)
        exact = [values[sets[:, i]].mean() - values[~sets[:, i]].mean() for i in range(6)]
        estimated = BanzhafSelector(game, evaluations=32_768).select(bank, 0).scores
        assert estimated == pytest.approx(exact, abs=0.1)

    def test_a_candidate_always_or_never_drawn_is_average(self) -> None:
        """After two selections, most candidates were in both or in neither."""
        bank = toy_bank(candidates_per_class=32, seed=3)
        evaluator = Additive(bank)
        evaluator.worth -= 100  # likelihoods are all far from zero, too
        scores = BanzhafSelector(evaluator, 2).select(bank, 0).scores
        first, second = evaluator.asked
        same = first == second
        assert np.abs(scores[same]).max() < 1e-9 < np.abs(scores[~same]).min()


@pytest.mark.parametrize("evaluations", [2, 33, 48, 98, 100, 996, 1024])
def test_rounds_are_of_one_size(evaluations: int) -> None:
    sizes = RandomSearchSelector(evaluations=evaluations).rounds()
    assert sum(sizes) == evaluations
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(evaluations, 20)
    if evaluations == 1024:
        assert sizes == [32] * 32


def test_cross_entropy_does_not_end_in_a_single_draw(toy: FeatureBank) -> None:
    evaluator = Additive(toy)
    kept = CrossEntropySelector(evaluator, 100).select(toy, 0).mask
    assert len(evaluator.asked) == 100
    assert not any((mask == kept).all() for mask in evaluator.asked)


class TestCreditAscent:
    @pytest.mark.parametrize("evaluations", [3, 10, 64])
    def test_asks_as_often_as_it_may(self, toy: FeatureBank, evaluations: int) -> None:
        evaluator = Additive(toy)
        CreditSelector(evaluator, evaluations=evaluations).select(toy, 0)
        assert len(evaluator.asked) == evaluations

    def test_needs_credit(self, toy: FeatureBank) -> None:
        class Silent(Additive):
            credit = None

        with pytest.raises(NotImplementedError, match="cannot say what each candidate is worth"):
            CreditSelector(Silent(toy)).select(toy, 0)

    def test_finds_the_sound_candidates(self) -> None:
        bank = toy_bank(candidates_per_class=64, noise=0.6)
        scores = CreditSelector("linear_probe", evaluations=256).select(bank, 0).scores
        assert roc_auc_score(bank.candidates.flaw == 0, scores) > 0.8
