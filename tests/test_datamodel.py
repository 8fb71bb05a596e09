from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from agents.evaluation.comparison import compare
from synthselect_env import FeatureBank, Dataset, SyntheticSelectionEnv
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.data.dataset import Retrainings
from synthselect_env.evaluators import (
    CachedEvaluator,
    DatamodelEvaluator,
    Evaluations,
    Evaluator,
    with_retrainings,
)
from synthselect_env.evaluators import candidate_scores as ranking
from synthselect_env.evaluators import datamodel as room
from synthselect_env.metrics import METRICS


class Pretended(Evaluator):
    """A "retraining" that suffers from the share of flawed images and gains from the number of sound ones."""

    def settings(self) -> dict[str, object]:
        return {"size": (1, 2)}

    def evaluate_on(self, selections: np.ndarray, seed: int, *splits: Dataset) -> list[Evaluations]:
        own = self.own(selections)[:, None]
        return [Evaluations.from_epochs(dict.fromkeys(METRICS, own)) for _ in splits]

    def predict_on(self, selections: np.ndarray, seed: int, *splits: Dataset) -> list[np.ndarray]:
        """Real images it takes for their label with the log-likelihood; candidates for what they show, some surer than others."""
        p, rng = np.exp(self.own(selections))[:, None], np.random.default_rng(0)
        predicted = []
        for split in splits:
            shown = split.labels if split.flaw is None else split.labels ^ (split.flaw > 0)
            doubt = 0 if split.flaw is None else rng.normal(0, 0.3, len(split))
            log_odds = (np.log(p / (1 - p)) + doubt) * (2 * shown - 1)  # (k, m)
            predicted.append(
                np.stack([-np.logaddexp(0, log_odds), -np.logaddexp(0, -log_odds)], 2).astype(
                    np.float32
                )
            )
        return predicted

    def own(self, selections: np.ndarray) -> np.ndarray:
        sound, real = self.bank.candidates.flaw == 0, len(self.bank.train)
        size = real + selections.sum(1)
        values = (
            -0.5
            - 0.6 * (selections & ~sound).sum(1) / size
            + 0.05 * np.log((real + (selections & sound).sum(1)) / real)
        )
        return values + np.random.default_rng(int(selections.sum())).normal(
            0, 0.005, len(selections)
        )


@pytest.fixture(scope="module")
def bank() -> FeatureBank:
    return toy_bank(candidates_per_class=200)


@pytest.fixture(scope="module")
def datamodel(bank: FeatureBank) -> DatamodelEvaluator:
    return DatamodelEvaluator(with_retrainings(bank, Pretended(bank), 40))


def with_looks(bank: FeatureBank) -> FeatureBank:
    """Every second candidate looks like nothing real."""
    rng = np.random.default_rng(0)
    real, pool = rng.normal(size=(24, 2)), rng.normal(size=(400, 2))
    pool[::2] *= 50
    return replace(
        bank,
        train=replace(bank.train, image_stats=real),
        candidates=replace(bank.candidates, image_stats=pool),
    )


def test_predicts_retrainings_that_it_has_not_seen(
    bank: FeatureBank, datamodel: DatamodelEvaluator
) -> None:
    others = ranking.draw_design(bank, 60, seed=1)
    truth = Pretended(bank).evaluate(others, 0).log_likelihood
    assert spearmanr(datamodel.evaluate(others, 0).log_likelihood, truth)[0] > 0.8
    assert spearmanr(datamodel.leave_one_out(), datamodel.figures.log_likelihood)[0] > 0.7


def test_what_it_promises_is_kept(bank: FeatureBank, datamodel: DatamodelEvaluator) -> None:
    """The point of it: a selection that was found by climbing it is worth about what it said, once it was corrected."""
    model, none = datamodel, np.zeros((1, len(bank.candidates)), bool)
    for _ in range(3):
        found = model.credit(none, 0) > 0
        for _ in range(20):
            found = model.credit(found, 0) > 0
        promised = (
            model.evaluate(found, 0).log_likelihood - model.evaluate(none, 0).log_likelihood
        )[0]
        real = (
            Pretended(bank).evaluate(found, 0).log_likelihood
            - Pretended(bank).evaluate(none, 0).log_likelihood
        )[0]
        model = DatamodelEvaluator(with_retrainings(model.bank, Pretended(bank), found))
    assert real > 0 and promised > 0 and real > promised / 2
    assert len(model.selections) == 43


def test_leave_one_out_is_refitting_without(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)), rng.normal(size=20)
    monkeypatch.setattr(room, "PENALTIES", [0.1])
    weights, intercept, left_out, _ = room._ridge(x, y)
    z = (x - x.mean(0)) / (x.std(0) + 1e-9)
    whole = Ridge(alpha=0.1 * 20).fit(z, y)
    assert whole.predict(z) == pytest.approx(intercept + x @ weights)
    for i in range(20):
        rest = np.arange(20) != i
        assert left_out[i] == pytest.approx(
            Ridge(alpha=0.1 * 20).fit(z[rest], y[rest]).predict(z[i : i + 1])[0]
        )


@pytest.mark.parametrize("power", room.POWERS)
def test_credit_is_the_derivative(
    bank: FeatureBank, datamodel: DatamodelEvaluator, power: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "POWERS", (power,))
    model = DatamodelEvaluator(with_looks(datamodel.bank))
    selection = ranking.draw_design(model.bank, 4, seed=2)[2:3]
    credit, fit = model.credit(selection, 0)[0], model._fits["log_likelihood"]
    assert fit.power == power
    for i in (0, 3, 250, 399):
        step = 1e-4 * (np.arange(400) == i)
        up, down = (
            -np.exp(fit.linear(model._describe(model._parts(selection + s)))) for s in (step, -step)
        )
        assert credit[i] == pytest.approx((up - down)[0] / 2e-4, rel=1e-4)


def test_the_power_is_the_one_that_the_retrainings_follow(datamodel: DatamodelEvaluator) -> None:
    """On figures made by it, each power is found again, and leaves nothing unexplained."""
    described = datamodel._describe(datamodel._parts(datamodel.selections.astype(float)))
    for power in room.POWERS:
        values = described[power] @ np.array([-0.9, 0.1, 0.6, 0.0, 0.1])
        fit = room._fitted(described, values)
        assert fit.power == power and np.corrcoef(fit.left_out, values)[0, 1] > 0.99


@pytest.mark.parametrize("looks", [False, True])
def test_design_covers_sizes_and_ranks(bank: FeatureBank, looks: bool) -> None:
    bank = with_looks(bank) if looks else bank
    design, ranks = ranking.draw_design(bank, 48, seed=0), ranking.candidate_ranks(bank)
    assert (
        (design == ranking.draw_design(bank, 48, seed=0)).all()
        and not design[0].any()
        and design[1].all()
    )
    rates, means = design.mean(1)[2:], np.array([ranks[mask].mean(0) for mask in design[2:]])
    assert (
        rates.min() < 0.2
        and rates.max() > 0.6
        and (means.min(0) < 0.45).all()
        and (means.max(0) > 0.7).all()
    )
    if (
        looks
    ):  # either rank is tilted whatever the other is, so that a regression can tell them apart
        assert abs(np.corrcoef(means.T)[0, 1]) < 0.5


def test_tells_labels_and_looks_apart(bank: FeatureBank) -> None:
    """A classifier that minds wrong labels and not looks, and one that minds looks alone."""
    seen = with_looks(bank)

    class MindsLooks(Pretended):
        def own(self, selections: np.ndarray) -> np.ndarray:
            odd = np.arange(selections.shape[1]) % 2 == 0
            return -0.5 - 0.6 * (selections & odd).sum(1) / (
                len(self.bank.train) + selections.sum(1)
            )

    fit, typical = (
        np.isin(np.arange(400), np.argsort(rank)[200:]) for rank in ranking.candidate_ranks(seen).T
    )
    for retrain, more_is_better, indifferent in (
        (Pretended, fit, typical),
        (MindsLooks, typical, fit),
    ):
        model = DatamodelEvaluator(with_retrainings(seen, retrain(seen), 40))
        halves = np.stack([more_is_better, ~more_is_better, indifferent, ~indifferent])
        good, bad, one, other = model.evaluate(halves, 0).log_likelihood
        assert good - bad > 0.05 and abs(one - other) < (good - bad) / 3


def test_contract(bank: FeatureBank, datamodel: DatamodelEvaluator) -> None:
    masks = ranking.draw_design(bank, 5, seed=3)
    together = datamodel.evaluate(masks, 0)
    assert pickle.loads(pickle.dumps(datamodel)).evaluate(masks, 9).accuracy == pytest.approx(
        together.accuracy
    )
    assert datamodel.evaluate(masks[2:3], 0).brier == pytest.approx(together.brier[2:3])
    more = with_retrainings(datamodel.bank, Pretended(bank), masks)
    assert DatamodelEvaluator(more).fingerprint != datamodel.fingerprint
    assert (
        DatamodelEvaluator(with_retrainings(bank, Pretended(bank), 40)).fingerprint
        == datamodel.fingerprint
    )


def test_retrainings_are_kept_with_the_bank(datamodel: DatamodelEvaluator, tmp_path: Path) -> None:
    datamodel.bank.save(tmp_path / "bank.h5")
    loaded = FeatureBank.load(tmp_path / "bank.h5")
    assert "retrainings    40" in loaded.describe()
    masks = ranking.draw_design(datamodel.bank, 5, seed=3)
    assert (
        DatamodelEvaluator(loaded).evaluate(masks, 0).accuracy
        == datamodel.evaluate(masks, 0).accuracy
    ).all()
    assert len(with_retrainings(loaded, Pretended(loaded), masks).retrainings.selections) == 45
    more = with_retrainings(
        loaded, Pretended(loaded), 5
    ).retrainings.selections  # the draw goes on, nothing comes twice
    assert len(np.unique(more, axis=0)) == 45 and (more[:40] == datamodel.selections).all()
    for spoil in ("recipe", "selections"):
        with h5py.File(tmp_path / "bank.h5", "a") as file:
            if spoil == "recipe":
                kept = file["retrainings"].attrs.pop("recipe")
            else:
                file["retrainings"].attrs["recipe"] = kept
                del file["retrainings/selections"]
                file["retrainings/selections"] = np.zeros((40, 3), np.uint8)
        with pytest.raises(ValueError, match="retrain again, or delete the group"):
            FeatureBank.load(tmp_path / "bank.h5")


def test_plays_in_the_environment(datamodel: DatamodelEvaluator) -> None:
    env = SyntheticSelectionEnv(datamodel.bank, evaluator="datamodel")
    env.reset(seed=0)
    total = sum(env.step(np.ones(env.action_space.n))[1] for _ in range(8))
    masks = np.stack([np.zeros(400, bool), np.ones(400, bool)])
    none, everything = datamodel.evaluate(masks, 0).log_likelihood
    assert total == pytest.approx(100 * (everything - none))


def test_errors(bank: FeatureBank, datamodel: DatamodelEvaluator) -> None:
    with pytest.raises(ValueError, match="predicts figures on the validation split as a whole"):
        datamodel.evaluate_on(datamodel.selections[:1], 0, bank.test)
    with pytest.raises(
        ValueError, match="DatamodelEvaluator trains no classifier that the test split could judge"
    ):
        compare(bank, ["none"], classifier=datamodel)
    with pytest.raises(ValueError, match="no retrainings to fit a datamodel to; make some with"):
        DatamodelEvaluator(bank)
    with pytest.raises(
        ValueError,
        match="4 retrainings, a datamodel of 3 shares and two more figures needs at least 6",
    ):
        DatamodelEvaluator(with_retrainings(bank, Pretended(bank), 4))
    with pytest.raises(ValueError, match="are of other pictures or labels than the bank's"):
        DatamodelEvaluator(replace(datamodel.bank, valid=bank.test))
    with pytest.raises(ValueError, match="of other pictures or labels; drop them"):
        swapped = replace(datamodel.bank, valid=bank.test)
        with_retrainings(swapped, Pretended(swapped), 4)
    with pytest.raises(ValueError, match="make one for it"):
        with_retrainings(bank, Pretended(toy_bank()), 4)
    with pytest.raises(ValueError, match="by another recipe or seed"):
        with_retrainings(datamodel.bank, Pretended(bank), 4, seed=1)
    held = datamodel.bank.retrainings
    with pytest.raises(
        ValueError, match=r"retrainings/selections is bool \(40, 9\), expected bool \(m, 400\)"
    ):
        replace(bank, retrainings=replace(held, selections=held.selections[:, :9]))
    with pytest.raises(ValueError, match="retrainings/figures must be arrays"):
        replace(bank, retrainings=replace(held, figures=dict.fromkeys(METRICS, np.zeros((3, 1)))))
    with pytest.raises(ValueError, match="retrainings/figures lacks accuracy"):
        replace(bank, retrainings=replace(held, figures={"auc": np.zeros((40, 1))}))


def test_ranks_go_by_label_and_by_looks(bank: FeatureBank) -> None:
    fit = np.argsort(ranking.label_fit(bank), kind="stable")
    assert ranking.candidate_ranks(bank).shape == (400, 1) and np.array_equal(
        np.argsort(ranking.candidate_ranks(bank)[:, 0]), fit
    )
    seen = with_looks(bank)
    by_fit, by_looks = ranking.candidate_ranks(seen).T
    assert np.array_equal(np.argsort(by_fit), fit)
    assert np.array_equal(np.argsort(by_looks), np.argsort(-seen.atypicality, kind="stable"))


def test_out_of_bag_fit(bank: FeatureBank) -> None:
    """By hand: the mean over the networks that a candidate was kept from, the better ones weighing more."""
    n, rng = len(bank.candidates), np.random.default_rng(0)
    selections, own = (
        rng.random((6, n)) < 0.6,
        np.log(rng.uniform(0.01, 1, (6, n))).astype(np.float16),
    )
    selections[:, 7], own[2] = True, np.nan
    figures = {m: np.linspace(-0.6, -0.5, 6)[:, None] for m in METRICS}
    seen = replace(bank, retrainings=Retrainings(selections, figures, {}, bank.images_digest, own))
    fit = ranking.out_of_bag_fit(seen)
    for i in range(n):
        rows = [j for j in range(6) if not selections[j, i] and j != 2]
        weights = [np.exp(ranking.SHARPNESS * figures["log_likelihood"][j, 0]) for j in rows]
        expected = (
            np.log(np.average(np.exp(own[rows, i].astype(float)), weights=weights))
            if rows
            else np.nan
        )
        assert fit[i] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(fit[7]) and ranking.candidate_fit(seen)[7] == ranking.label_fit(seen)[7]
    assert ranking.out_of_bag_fit(bank) is None and np.array_equal(
        ranking.candidate_fit(bank), ranking.label_fit(bank)
    )


def test_retrainings_tell_of_candidates(
    bank: FeatureBank, datamodel: DatamodelEvaluator, tmp_path: Path
) -> None:
    """The networks know which labels are wrong, so candidates rank better than by the probe; the design does not move."""
    sound = bank.candidates.flaw == 0
    before, after = (roc_auc_score(sound, ranking.fit_and_looks(b)) for b in (bank, datamodel.bank))
    assert after > before + 0.02
    assert np.array_equal(
        ranking.draw_design(bank, 9, 0), ranking.draw_design(datamodel.bank, 9, 0)
    )
    datamodel.bank.save(tmp_path / "bank.h5")
    assert np.array_equal(
        FeatureBank.load(tmp_path / "bank.h5").retrainings.own_log_probability,
        datamodel.bank.retrainings.own_log_probability,
    )

    silent = replace(
        datamodel.bank, retrainings=replace(datamodel.bank.retrainings, own_log_probability=None)
    )
    assert silent.digest != datamodel.bank.digest
    more = with_retrainings(silent, Pretended(bank), 5)  # of the former 40 it stays unknown
    assert (
        np.isnan(more.retrainings.own_log_probability[:40]).all()
        and np.isfinite(more.retrainings.own_log_probability[40:]).all()
    )
    assert np.isfinite(ranking.candidate_fit(more)).all()
    with pytest.raises(
        ValueError, match=r"own_log_probability is int64 \(40, 400\), expected floats"
    ):
        replace(
            bank,
            retrainings=replace(
                datamodel.bank.retrainings, own_log_probability=np.zeros((40, 400), int)
            ),
        )


def test_copies_have_one_rank(bank: FeatureBank) -> None:
    """A pool with a image many times over, as from a generator with few modes."""
    labels = bank.candidates.labels
    first, *copies = np.flatnonzero(labels == 1)[:40]
    features = bank.candidates.features.copy()
    features[copies] = features[first]
    ranks = ranking.candidate_ranks(
        replace(bank, retrainings=None, candidates=replace(bank.candidates, features=features))
    )[:, 0]
    assert (ranks[copies] == ranks[first]).all() and len(np.unique(ranks)) == len(labels) - len(
        copies
    )
    assert 0 <= ranks.min() and ranks.max() <= 1


def test_fingerprint_knows_what_ranks_are_made_from(
    bank: FeatureBank, datamodel: DatamodelEvaluator, tmp_path: Path
) -> None:
    """Looks, and what retrained networks say of candidates, change the answers, and so the name under which they are remembered."""
    rng, masks = (
        np.random.default_rng(0),
        np.random.default_rng(1).random((3, len(bank.candidates))) < 0.5,
    )
    held = datamodel.bank.retrainings
    assert held is not None
    untold = replace(bank, retrainings=replace(held, own_log_probability=None))
    real, pool = (rng.normal(size=(len(split), 2)) for split in (bank.train, bank.candidates))
    looked = replace(
        bank,
        retrainings=held,
        train=replace(bank.train, image_stats=real),
        candidates=replace(bank.candidates, image_stats=pool),
    )
    others = [DatamodelEvaluator(b) for b in (untold, looked)]
    assert len({e.fingerprint for e in (datamodel, *others)}) == 3
    for e in (datamodel, *others):
        assert CachedEvaluator(e, tmp_path).evaluate(masks, 0).log_likelihood == pytest.approx(
            e.evaluate(masks, 0).log_likelihood, abs=1e-9
        )


def test_numpys_integers_are_integers(bank: FeatureBank) -> None:
    made = [
        with_retrainings(bank, Pretended(bank), n, seed)
        for n, seed in ((20, 1), (np.int64(20), np.int64(1)))
    ]
    assert made[0].digest == made[1].digest
    with pytest.raises(ValueError, match="selections must be at least 1, got 0"):
        with_retrainings(bank, Pretended(bank), 0)
