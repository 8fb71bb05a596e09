"""Selectors that ask an evaluator, on cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from agents.selectors import (
    SELECTORS,
    BanzhafSelector,
    CreditSelector,
    RandomSearchSelector,
    SearchSelector,
)
from synthselect_env import FeatureBank, Dataset
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.evaluators import Evaluations, Evaluator
from synthselect_env.metrics import METRICS

SEARCHES = [name for name, selector in SELECTORS.items() if issubclass(selector, SearchSelector)]


class Additive(Evaluator):
    """Each candidate is worth a number, which its features tell; counts what it is asked."""

    has_credit = True

    def __init__(self, bank: FeatureBank) -> None:
        super().__init__(bank)
        self.worth = bank.candidates.features @ np.random.default_rng(5).normal(
            size=bank.n_features
        )
        self.asked = 0

    def evaluate_on(self, selections: np.ndarray, seed: int, *splits: Dataset) -> list[Evaluations]:
        self.asked += len(selections)
        return [
            Evaluations.from_epochs({m: (selections @ self.worth)[:, None] for m in METRICS})
            for _ in splits
        ]

    def credit(self, selections: np.ndarray, seed: int, split: Dataset | None = None) -> np.ndarray:
        self.asked += len(selections)
        return np.image_grid(self.worth, (len(selections), 1))


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("evaluations", [2, 5])
def test_few_evaluations_are_not_exceeded(name: str, evaluations: int, toy: FeatureBank) -> None:
    evaluator = Additive(toy)
    SELECTORS[name](evaluator, evaluations=evaluations).select(toy, 0)
    assert 1 <= evaluator.asked <= evaluations


@pytest.mark.parametrize("name", SEARCHES)
def test_finds_what_is_worth_something_within_its_evaluations(name: str, toy: FeatureBank) -> None:
    evaluator = Additive(toy)
    selection = SELECTORS[name](evaluator, evaluations=1024).select(toy, 0)
    assert evaluator.asked <= 1024
    assert evaluator.worth[selection.mask].sum() > 0.25 * evaluator.worth[evaluator.worth > 0].sum()
    assert (selection.mask == (selection.scores > 0)).all()
    state = torch.random.get_rng_state()
    assert (
        SELECTORS[name](Additive(toy), evaluations=1024).select(toy, 0).scores == selection.scores
    ).all()
    assert torch.equal(state, torch.random.get_rng_state())


def test_banzhaf_values_by_enumeration() -> None:
    """The exact value of a small game with interactions: the mean over all sets of what joining adds."""
    bank = toy_bank(candidates_per_class=3)

    class Game(Additive):
        def evaluate_on(
            self, selections: np.ndarray, seed: int, *splits: Dataset
        ) -> list[Evaluations]:
            figure = (
                selections @ self.worth
                + 2.0 * selections[:, 0] * selections[:, 1]
                - selections[:, 2] * selections[:, 5]
            )
            return [Evaluations.from_epochs({m: figure[:, None] for m in METRICS}) for _ in splits]

    game = Game(bank)
    sets = np.array(list(np.ndindex(*[2] * 6)), bool)
    figures = game.evaluate(sets, 0).log_likelihood
    exact = [figures[sets[:, i]].mean() - figures[~sets[:, i]].mean() for i in range(6)]
    estimated = BanzhafSelector(game, evaluations=32_768).select(bank, 0).scores
    assert estimated == pytest.approx(exact, abs=0.1)


def test_never_drawn_is_average() -> None:
    """After two random selections most candidates have been in both or in neither, which says nothing of them."""
    bank = toy_bank(candidates_per_class=32, seed=3)
    masks = np.random.default_rng(0).random((2, 64)) < 0.5
    evaluator = Additive(bank)
    evaluator.worth -= 100  # as likelihoods, all figures are far from zero
    values = BanzhafSelector(evaluator, 2).search(bank, evaluator, 0)
    alike = masks[0] == masks[1]
    assert np.abs(values[alike]).max() < 1e-9 < np.abs(values[~alike]).min()


@pytest.mark.parametrize("evaluations", [2, 33, 48, 98, 100, 996, 1024])
def test_rounds_are_of_one_size(evaluations: int, toy: FeatureBank) -> None:
    sizes = RandomSearchSelector(evaluations=evaluations).rounds()
    assert (
        sum(sizes) == evaluations
        and max(sizes) - min(sizes) <= 1
        and min(sizes) >= min(evaluations, 20)
    )
    if evaluations == 1024:
        assert sizes == [32] * 32


def test_cross_entropy_does_not_end_in_a_single_draw(toy: FeatureBank) -> None:
    drawn: list[np.ndarray] = []

    class Watched(Additive):
        def evaluate_on(
            self, selections: np.ndarray, seed: int, *splits: Dataset
        ) -> list[Evaluations]:
            drawn.extend(selections)
            return super().evaluate_on(selections, seed, *splits)

    kept = SELECTORS["cross-entropy"](Watched(toy), 100).select(toy, 0).mask
    assert len(drawn) == 100 and not any((mask == kept).all() for mask in drawn)


@pytest.mark.parametrize("evaluations", [3, 10, 64])
def test_credit_ascent_asks_as_often_as_it_may(evaluations: int, toy: FeatureBank) -> None:
    evaluator = Additive(toy)
    CreditSelector(evaluator, evaluations=evaluations).select(toy, 0)
    assert evaluator.asked == evaluations


def test_credit_ascent_needs_credit(toy: FeatureBank) -> None:
    class Silent(Additive):
        credit = Evaluator.credit

    with pytest.raises(NotImplementedError, match="cannot say what each candidate is worth"):
        CreditSelector(Silent(toy)).select(toy, 0)


def test_credit_ascent_finds_the_sound_candidates() -> None:
    bank = toy_bank(candidates_per_class=64, noise=0.6)
    scores = CreditSelector("linear_probe", evaluations=256).select(bank, 0).scores
    assert roc_auc_score(bank.candidates.flaw == 0, scores) > 0.8


def test_too_few_evaluations() -> None:
    with pytest.raises(ValueError, match="evaluations must be at least 2"):
        RandomSearchSelector(evaluations=1)
