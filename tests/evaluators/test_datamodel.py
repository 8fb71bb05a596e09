"""The datamodel beside retrainings whose law is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge

from agents.evaluation import compare
from synthselect_env import FeatureBank, Retrainings, SyntheticSelectionEnv
from synthselect_env.evaluators import (
    ClassifierEvaluator,
    DatamodelEvaluator,
    candidate_scores,
    draw_design,
    with_retrainings,
)
from synthselect_env.evaluators.datamodel import POWERS, fit_ridge
from synthselect_env.metrics import METRICS


@pytest.fixture(scope="module")
def datamodel(retrained: FeatureBank) -> DatamodelEvaluator:
    return DatamodelEvaluator(retrained)


def with_odd_images(bank: FeatureBank) -> FeatureBank:
    """Give every second candidate image statistics unlike any real image's."""
    rng = np.random.default_rng(0)
    real, pool = rng.normal(size=(24, 2)), rng.normal(size=(400, 2))
    pool[::2] *= 50
    return replace(
        bank,
        train=replace(bank.train, image_stats=real),
        candidates=replace(bank.candidates, image_stats=pool),
    )


def test_predicts_retrainings_that_it_has_not_seen(
    large: FeatureBank, datamodel: DatamodelEvaluator, pretended: type[ClassifierEvaluator]
) -> None:
    others = draw_design(large, 60, seed=1)
    truth = pretended(large).evaluate(others, 0).log_likelihood
    assert spearmanr(datamodel.evaluate(others, 0).log_likelihood, truth)[0] > 0.8
    left_out = datamodel.leave_one_out()
    assert spearmanr(left_out, datamodel.metrics.log_likelihood)[0] > 0.7


FOLDS, FOLD_SIZE = 4, 40
"""Folds of a pretended leak, and the retrainings of each."""


def with_leaking_retrainings(bank: FeatureBank, gain: float, leak: float) -> FeatureBank:
    """Return a bank whose scores by folds rise with sound candidates, and with those a fold likes.

    The networks that were trained on a fold find the candidates that it likes more likely.
    """
    rng = np.random.default_rng(0)
    n = len(bank.candidates)
    liked = rng.normal(size=(FOLDS, n))
    sound = np.where(bank.candidates.flaw == 0, 1.0, -1.0)
    m = FOLDS * FOLD_SIZE
    sizes = rng.uniform(0.1, 0.9, (m, 1))
    tilts = rng.normal(size=(m, FOLDS + 1)) @ np.concatenate([liked, sound[None]])
    selections = rng.random((m, n)) < sizes * 2 / (1 + np.exp(-tilts))
    own = np.zeros((m, n), np.float16)
    values = np.zeros((m, 1))
    for i, row in enumerate(selections):
        fold = i % FOLDS
        own[i] = -2 + 0.2 * sound + 0.2 * np.delete(liked, fold, axis=0).sum(0)
        share = row / (row.sum() + len(bank.train) + len(bank.valid))
        values[i] = -0.5 + gain * share @ sound + leak * share @ liked[fold]
    metrics = dict.fromkeys(METRICS, values)
    config = {"folds": FOLDS}
    return replace(
        bank, retrainings=Retrainings(selections, metrics, config, bank.images_digest, own)
    )


def promised_to_the_best_half(bank: FeatureBank) -> float:
    """Return what the half with the better label fit is promised over every second candidate."""
    order = np.argsort(-candidate_scores(bank).label_fit)
    halves = np.zeros((2, 400), bool)
    halves[0, order[:200]] = halves[1, order[::2]] = True
    likelihood = DatamodelEvaluator(bank).evaluate(halves, 0).log_likelihood
    return float(likelihood[0] - likelihood[1])


@pytest.mark.parametrize(("gain", "leak"), [(0.0, 0.3), (0.2, 0.0)])
def test_by_folds_it_promises_nothing_that_only_labels_of_the_fold_give(
    large: FeatureBank, gain: float, leak: float
) -> None:
    """Ranks by all networks would. A true gain is found, also without one of the folds."""
    bank = with_leaking_retrainings(large, gain, leak)
    held = bank.retrainings
    naive = replace(held, metrics=held.comparable_metrics, training_config={})
    assert promised_to_the_best_half(replace(bank, retrainings=naive)) > 0.03
    promised = promised_to_the_best_half(bank)
    assert promised > 0.02 if gain else promised < 0.005

    without = replace(bank, retrainings=replace(held, without_fold=1))
    assert len(DatamodelEvaluator(without).leave_one_out()) == (FOLDS - 1) * FOLD_SIZE
    if gain:
        assert promised_to_the_best_half(without) > 0.02


def test_what_it_promises_is_kept(
    large: FeatureBank, datamodel: DatamodelEvaluator, pretended: type[ClassifierEvaluator]
) -> None:
    """A selection found by climbing it gains about what it said, once it was corrected."""
    model, retrain = datamodel, pretended(large)
    nothing = np.zeros((1, 400), bool)
    for _ in range(3):
        found = nothing
        for _ in range(21):
            found = model.credit(found, 0) > 0
        promised, real = (
            (e.evaluate(found, 0).log_likelihood - e.evaluate(nothing, 0).log_likelihood)[0]
            for e in (model, retrain)
        )
        model = DatamodelEvaluator(with_retrainings(model.bank, retrain, found))
    assert real > 0 and promised > 0 and real > promised / 2
    assert len(model.selections) == 43


def test_leave_one_out_is_refitting_without(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)), rng.normal(size=20)
    monkeypatch.setattr("synthselect_env.evaluators.datamodel.PENALTIES", [0.1])
    fit = fit_ridge(x, y)
    z = (x - x.mean(0)) / (x.std(0) + 1e-9)
    whole = Ridge(alpha=0.1 * 20).fit(z, y)
    assert fit.predict({1.0: x}) == pytest.approx(whole.predict(z))
    for i in range(20):
        rest = np.arange(20) != i
        without = Ridge(alpha=0.1 * 20).fit(z[rest], y[rest])
        assert fit.leave_one_out[i] == pytest.approx(without.predict(z[i : i + 1])[0])


@pytest.mark.parametrize("power", POWERS)
def test_credit_is_the_derivative(
    retrained: FeatureBank, power: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean slope of both ends of a step is the difference, to third order."""
    monkeypatch.setattr("synthselect_env.evaluators.datamodel.POWERS", (power,))
    model = DatamodelEvaluator(with_odd_images(retrained))
    # One candidate is a small step for a large selection only.
    design = draw_design(model.bank, 12, seed=2)[2:]
    selection = design[[design.sum(1).argmax()]]
    for i in (0, 3, 250, 399):
        changed = selection.copy()
        changed[0, i] ^= True
        before, after = (model.evaluate(s, 0).log_likelihood[0] for s in (selection, changed))
        slope = (model.credit(selection, 0)[0, i] + model.credit(changed, 0)[0, i]) / 2
        sign = 1 if changed[0, i] else -1
        assert sign * slope == pytest.approx(after - before, rel=1e-3, abs=1e-8)


@pytest.mark.parametrize("power", POWERS)
def test_finds_the_power_that_retrainings_follow(
    large: FeatureBank, power: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a loss that grows with a power of the bad candidates' share, the fit is exact."""
    badness = 1 - candidate_scores(large).ranks[:, 0]

    def law(selections: np.ndarray) -> np.ndarray:
        share = (selections @ badness) / (24 + selections.sum(1))
        return -0.5 * np.exp(share**power)

    design = draw_design(large, 40, seed=3)
    metrics = dict.fromkeys(METRICS, law(design)[:, None])
    retrainings = Retrainings(design, metrics, {}, large.images_digest)
    bank, others = replace(large, retrainings=retrainings), draw_design(large, 50, seed=4)

    def error(powers: tuple[float, ...]) -> float:
        monkeypatch.setattr("synthselect_env.evaluators.datamodel.POWERS", powers)
        predicted = DatamodelEvaluator(bank, n_knots=2).evaluate(others, 0).log_likelihood
        return float(np.abs(predicted - law(others)).max())

    wrong = [error((other,)) for other in POWERS if other != power]
    assert error(POWERS) == error((power,)) < min(wrong) / 2
    assert error(POWERS) < 0.01


def test_tells_labels_and_images_apart(
    large: FeatureBank, pretended: type[ClassifierEvaluator]
) -> None:
    """A classifier that minds wrong labels only, and one that minds odd images only."""

    class MindsImages(pretended):  # type: ignore[valid-type, misc]
        def log_likelihood(self, selections: np.ndarray) -> np.ndarray:
            odd = np.arange(selections.shape[1]) % 2 == 0
            size = len(self.bank.train) + selections.sum(1)
            return -0.5 - 0.6 * (selections & odd).sum(1) / size

    seen = with_odd_images(large)
    by_label, by_image = (rank > np.median(rank) for rank in candidate_scores(seen).ranks.T)
    for retrain, minded, indifferent in (
        (pretended(seen), by_label, by_image),
        (MindsImages(seen), by_image, by_label),
    ):
        model = DatamodelEvaluator(with_retrainings(seen, retrain, 40))
        halves = np.stack([minded, ~minded, indifferent, ~indifferent])
        good, bad, one, other = model.evaluate(halves, 0).log_likelihood
        assert good - bad > 0.05
        assert abs(one - other) < (good - bad) / 3


def test_fingerprint_follows_the_retrainings(
    large: FeatureBank, datamodel: DatamodelEvaluator, pretended: type[ClassifierEvaluator]
) -> None:
    retrain = pretended(large)
    same = DatamodelEvaluator(with_retrainings(large, retrain, 40))
    assert same.fingerprint == datamodel.fingerprint
    more = with_retrainings(datamodel.bank, retrain, draw_design(large, 5, seed=3))
    assert DatamodelEvaluator(more).fingerprint != datamodel.fingerprint


def test_retrainings_are_kept_with_the_bank(datamodel: DatamodelEvaluator, tmp_path: Path) -> None:
    path = tmp_path / "bank.h5"
    datamodel.bank.save(path)
    loaded = FeatureBank.load(path)
    assert "retrainings    40" in loaded.describe()
    held, read = datamodel.bank.retrainings, loaded.retrainings
    assert np.array_equal(read.own_log_probability, held.own_log_probability)
    masks = draw_design(datamodel.bank, 5, seed=3)
    ours, theirs = (e.evaluate(masks, 0) for e in (DatamodelEvaluator(loaded), datamodel))
    assert (ours.accuracy == theirs.accuracy).all()

    # A file that was spoiled says how to go on.
    with h5py.File(path, "a") as file:
        recipe = file["retrainings"].attrs.pop("recipe")
    with pytest.raises(ValueError, match="retrain again, or delete the group"):
        FeatureBank.load(path)
    with h5py.File(path, "a") as file:
        file["retrainings"].attrs["recipe"] = recipe
        del file["retrainings/selections"]
        file["retrainings/selections"] = np.zeros((40, 3), np.uint8)
    with pytest.raises(ValueError, match="retrain again, or delete the group"):
        FeatureBank.load(path)


def test_rewards_an_environment(datamodel: DatamodelEvaluator) -> None:
    env = SyntheticSelectionEnv(datamodel.bank, evaluator="datamodel")
    env.reset(seed=0)
    total = sum(env.step(np.ones(env.action_space.n))[1] for _ in range(8))
    masks = np.stack([np.zeros(400, bool), np.ones(400, bool)])
    none, everything = datamodel.evaluate(masks, 0).log_likelihood
    assert total == pytest.approx(100 * (everything - none))


def test_errors(
    large: FeatureBank, datamodel: DatamodelEvaluator, pretended: type[ClassifierEvaluator]
) -> None:
    with pytest.raises(ValueError, match="DatamodelEvaluator trains no classifier"):
        compare(large, ["none"], classifier=datamodel)
    with pytest.raises(ValueError, match="no retrainings to fit a datamodel to; make some with"):
        DatamodelEvaluator(large)
    with pytest.raises(ValueError, match="4 retrainings, a datamodel of 3 shares.* at least 7"):
        DatamodelEvaluator(with_retrainings(large, pretended(large), 4))
    with pytest.raises(ValueError, match="n_knots must be at least 2, got 1"):
        DatamodelEvaluator(datamodel.bank, n_knots=1)
    with pytest.raises(ValueError, match="are of other images or labels than the bank's"):
        DatamodelEvaluator(replace(datamodel.bank, valid=large.test))


def test_malformed_retrainings_are_refused(retrained: FeatureBank) -> None:
    held = retrained.retrainings
    for changes, message in (
        ({"selections": held.selections[:, :9]}, r"selections is bool \(40, 9\), .* \(m, 400\)"),
        ({"metrics": dict.fromkeys(METRICS, np.zeros((3, 1)))}, r"retrainings/\w+ must be arrays"),
        ({"metrics": {"auc": np.zeros((40, 1))}}, r"retrainings/\w+ lacks accuracy"),
        (
            {"own_log_probability": np.zeros((40, 400), int)},
            r"own_log_probability is int64 \(40, 400\), expected floats",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            replace(retrained, retrainings=replace(held, **changes))
