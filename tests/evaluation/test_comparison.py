"""The comparison protocol: what is compared, on which images, and what is stored."""

from __future__ import annotations

import csv
import importlib.util
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO

from agents.evaluation import Comparison, Outcome, compare
from agents.report import comparison_table, recommendation
from agents.selectors import (
    CentroidSelector,
    InfluenceSelector,
    OracleSelector,
    Selector,
    TrainingSelector,
)
from synthselect_env import Dataset, FeatureBank, Selection
from synthselect_env.bank.extraction import without_fold
from synthselect_env.evaluators import (
    Evaluations,
    Evaluator,
    LinearProbeEvaluator,
    RetrainEvaluator,
    with_retrainings,
)
from synthselect_env.metrics import METRICS
from synthselect_env.storage import class_digest
from synthselect_env.training.config import TrainingConfig


class OwnSelector(Selector):
    """Keeps the sound candidates: a third party's selector."""

    name = "own"

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        sound = bank.candidates.flaw == 0
        return Selection.of(bank, sound, sound.astype(float), self.name)


class TestMetrics:
    def test_are_the_classifiers_on_both_splits(self, toy: FeatureBank) -> None:
        comparison = compare(toy, ["none", "random", OwnSelector()], rounds=3, seed=7)
        assert comparison.selectors == ["none", "random", "own"]
        assert len(comparison.outcomes) == 9
        probe = LinearProbeEvaluator(toy)
        for outcome in comparison.outcomes:
            for split, metrics in ((toy.valid, outcome.valid), (toy.test, outcome.test)):
                log_p = probe.predict(outcome.selection.mask[None], 0, split)
                expected = Evaluations.from_predictions(log_p, split.labels)
                for metric in METRICS:  # predictions are single precision
                    value = getattr(expected, metric)[0]
                    assert metrics[metric] == pytest.approx(value, rel=1e-5)
            gap = outcome.valid["accuracy"] - outcome.test["accuracy"]
            assert outcome.gap == pytest.approx(gap)
        own, chance = (comparison.test_metrics(n, "log_likelihood") for n in ("own", "random"))
        assert own.mean() > chance.mean()

    def test_each_round_draws_anew(self, toy: FeatureBank) -> None:
        comparison = compare(toy, ["random"], rounds=3)
        assert len({tuple(outcome.selection.mask) for outcome in comparison.of("random")}) == 3

    def test_outcomes_are_told_as_they_come(self, toy: FeatureBank) -> None:
        told: list[Outcome | Selection] = []
        options = {"on_outcome": told.append, "on_selection": told.append}
        comparison = compare(toy, ["none", "all"], rounds=2, **options)
        selections = [outcome.selection for outcome in comparison.outcomes]
        assert told == [*selections, *comparison.outcomes]

    def test_selectors_are_described(self, toy: FeatureBank) -> None:
        comparison = compare(toy, ["oracle", "influence"], rounds=1)
        oracle, influence = comparison.outcomes
        assert (oracle.knows_truth, oracle.evaluations) == (True, 0)
        assert (influence.knows_truth, influence.evaluations) == (False, 1)
        assert not oracle.is_rl and influence.seconds > 0


class TestErrors:
    @pytest.mark.parametrize(
        ("selectors", "options", "message"),
        [
            (["best"], {}, "unknown selector .best.; one of none, all"),
            (["none"], {"rounds": 0}, "rounds must be at least 1, got 0"),
            (["none", "none"], {}, "different names, got none, none"),
            (["none"], {"classifier": "resnet0"}, "unknown evaluator 'resnet0'"),
        ],
    )
    def test_come_before_the_first_selection(
        self, toy: FeatureBank, selectors: list[str], options: dict[str, object], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            compare(toy, selectors, **options)

    def test_classifier_must_train(self, toy: FeatureBank) -> None:
        class Rule(Evaluator):
            def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
                return Evaluations.from_metrics({"accuracy": selections.mean(1)})

        with pytest.raises(ValueError, match="Rule trains no classifier that the test split"):
            compare(toy, ["none"], classifier=Rule(toy))

    def test_arguments_go_to_a_classifier_by_name(self, toy: FeatureBank) -> None:
        weak, strong = (
            compare(toy, ["none"], rounds=1, ridge=ridge).outcomes[0] for ridge in (1e-3, 1e3)
        )
        assert weak.test["log_likelihood"] != strong.test["log_likelihood"]
        with pytest.raises(ValueError, match="ridge: arguments go with an evaluator's name"):
            compare(toy, ["none"], classifier=LinearProbeEvaluator(toy), ridge=1.0)


def test_selectors_get_no_test_split(toy: FeatureBank) -> None:
    class Spy(Selector):
        name = "spy"

        def select(self, bank: FeatureBank, seed: int) -> Selection:
            assert bank.test is None
            n = len(bank.candidates)
            return Selection.of(bank, np.ones(n, bool), np.ones(n), self.name)

    assert len(compare(toy, [Spy()], rounds=1).outcomes) == 1
    with pytest.raises(ValueError, match="no test split to compare on"):
        compare(toy.sealed, ["none"], rounds=1)


def test_csv_has_a_row_per_selector_and_round(toy: FeatureBank, tmp_path: Path) -> None:
    comparison = compare(toy, ["none", "all"], rounds=2)
    comparison.save(tmp_path / "comparison.csv")
    rows = list(csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines()))
    assert [(row["selector"], row["round"], row["selected"]) for row in rows] == [
        ("none", "0", "0"),
        ("all", "0", "64"),
        ("none", "1", "0"),
        ("all", "1", "64"),
    ]
    assert rows[0]["classifier"] == "linear probe"
    everything = comparison.of("all")[0]
    for metric in METRICS:
        assert float(rows[1][f"test_{metric}"]) == everything.test[metric]
        assert float(rows[1][f"valid_{metric}"]) == everything.valid[metric]


class CountingSelector(Selector):
    """Keeps a random share. Counts how often it is asked, and may be killed."""

    name = "counting"
    asked = 0
    dies_at: int | None = None

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        if CountingSelector.asked == CountingSelector.dies_at:
            raise KeyboardInterrupt
        CountingSelector.asked += 1
        scores = np.random.default_rng(seed).random(len(bank.candidates))
        return Selection.of(bank, scores < self.share, scores, self.name)


class CountingProbe(LinearProbeEvaluator):
    """Counts the classifiers that it trains."""

    trained = 0

    def predict(self, selections: np.ndarray, seed: int, dataset: Dataset) -> np.ndarray:
        CountingProbe.trained += len(selections)
        return super().predict(selections, seed, dataset)


class Died(Exception):
    pass


def die_at_third(outcome: Outcome) -> None:
    if (outcome.selector, outcome.round) == ("none", 1):
        raise Died


@pytest.fixture(autouse=True)
def reset_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountingSelector, "asked", 0)
    monkeypatch.setattr(CountingSelector, "dies_at", None)
    monkeypatch.setattr(CountingProbe, "trained", 0)


class TestDirectory:
    def test_goes_on_where_it_stopped(self, toy: FeatureBank, tmp_path: Path) -> None:
        """Nothing is selected or trained twice, and interruptions change no number."""
        options = {"rounds": 3, "directory": tmp_path}
        selectors = ["none", CountingSelector()]

        # Killed at the third selection, then at the third outcome.
        CountingSelector.dies_at = 2
        with pytest.raises(KeyboardInterrupt):
            compare(toy, selectors, classifier=CountingProbe(toy), **options)
        CountingSelector.dies_at = None
        with pytest.raises(Died):
            compare(
                toy, selectors, classifier=CountingProbe(toy), on_outcome=die_at_third, **options
            )
        assert (CountingSelector.asked, CountingProbe.trained) == (3, 3)
        assert len((tmp_path / "comparison.csv").read_text().splitlines()) == 1 + 2

        # In the end, the same as in one go.
        whole = compare(toy, selectors, classifier=CountingProbe(toy), **options)
        assert (CountingSelector.asked, CountingProbe.trained) == (3, 6)
        in_one_go = compare(toy, selectors, rounds=3)
        for ours, theirs in zip(whole.outcomes, in_one_go.outcomes, strict=True):
            assert (ours.selector, ours.round) == (theirs.selector, theirs.round)
            assert (ours.test, ours.valid) == (theirs.test, theirs.valid)
            assert np.array_equal(ours.selection.mask, theirs.selection.mask)
            assert np.array_equal(ours.predictions, theirs.predictions)

    def test_damaged_selection_is_made_again(self, toy: FeatureBank, tmp_path: Path) -> None:
        compare(toy, [CountingSelector()], rounds=3, directory=tmp_path)
        files = sorted((tmp_path / "selections").rglob("*.npz"))
        assert len(files) == 3
        files[1].write_bytes(files[1].read_bytes()[:100])  # as a power cut may leave it
        compare(toy, [CountingSelector()], rounds=3, directory=tmp_path)
        assert CountingSelector.asked == 3 + 1

    def test_selections_depend_on_settings_and_bank(self, toy: FeatureBank, tmp_path: Path) -> None:
        flipped = replace(toy.candidates, labels=1 - toy.candidates.labels)
        variants = [(toy, 0.5), (toy, 0.25), (replace(toy, candidates=flipped), 0.5)]
        for bank, share in variants * 2:
            compare(bank, [CountingSelector(share)], rounds=1, directory=tmp_path)
        assert CountingSelector.asked == len(variants)

    def test_an_edited_selector_selects_again(self, toy: FeatureBank, tmp_path: Path) -> None:
        nearness = []
        for i, sign in enumerate(("-", "-", "+")):
            path = tmp_path / f"version{i}" / "mine.py"
            path.parent.mkdir()
            path.write_text(SOURCE.replace("{sign}", sign))
            spec = importlib.util.spec_from_file_location("mine", path)
            module = importlib.util.module_from_spec(spec)
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(sys.modules, "mine", module)
                spec.loader.exec_module(module)
                comparison = compare(toy, [module.Mine()], rounds=1, directory=tmp_path / "kept")
            mask = comparison.of("mine")[0].selection.mask
            nearness.append(toy.centroid_distances[mask].mean())
        assert nearness[0] == nearness[1] < nearness[2]
        assert len(list((tmp_path / "kept" / "selections").rglob("*.npz"))) == 2

    def test_a_class_without_source_is_not_stored(self, toy: FeatureBank, tmp_path: Path) -> None:
        space: dict[str, type] = {"__name__": "nowhere"}
        exec(SOURCE.replace("{sign}", "-"), space)
        with pytest.raises(NotImplementedError, match="source of Mine cannot be read"):
            class_digest(space["Mine"])
        comparison = compare(toy, [space["Mine"]()], rounds=1, directory=tmp_path)
        assert comparison.of("mine")[0].selection.count == 32
        assert not (tmp_path / "selections").exists()


SOURCE = """
from agents.selectors import RatioSelector

class Mine(RatioSelector):
    name = "mine"

    def score(self, bank, seed):
        return {sign}bank.centroid_distances
"""


def outcome(bank: FeatureBank, name: str, accuracy: float, **flags: object) -> Outcome:
    """An outcome that is right on a share of 100 images of class 0."""
    n = len(bank.candidates)
    selection = Selection.of(bank, np.ones(n, bool), np.ones(n), name)
    right = np.arange(100) < round(100 * accuracy)
    probabilities = np.where(np.stack([right, ~right], 1), 0.9, 0.1)
    predictions = np.log(probabilities).astype(np.float32)
    valid, test = (dict.fromkeys(METRICS, value) for value in (0.8, accuracy))
    likelihoods = np.full(50, 0.8)
    return Outcome(name, 0, selection, valid, test, predictions, likelihoods, **flags)


def comparison_of(*outcomes: Outcome) -> Comparison:
    return Comparison("linear probe", outcomes, np.zeros(100, np.int64))


class TestGain:
    def test_is_over_the_same_images(self, toy: FeatureBank) -> None:
        comparison = comparison_of(outcome(toy, "none", 0.70), outcome(toy, "ours", 0.75))
        mean, low, high = comparison.gain("ours")
        assert mean == pytest.approx(0.05)
        assert low < mean < high
        shown = [f"{100 * value:+.1f}" for value in (mean, low, high)]
        assert f"{shown[0]} [{shown[1]}, {shown[2]}]" in comparison_table(comparison)
        assert comparison.wins("ours", "none") == (1, 1)
        assert comparison.wins("none", "ours") == (0, 1)
        with pytest.raises(ValueError, match="all was not compared; there are none, ours"):
            comparison.gain("ours", over="all")

    def test_a_smaller_brier_score_is_better(self, toy: FeatureBank) -> None:
        comparison = compare(toy, ["none", "all", "random", "centroid", "oracle"], rounds=2)
        controls = ("none", "all", "random", "centroid")
        brier = {name: comparison.test_metrics(name, "brier") for name in (*controls, "oracle")}
        assert comparison.best_control("brier") == min(controls, key=lambda n: brier[n].mean())
        mean, low, high = comparison.gain("oracle", "all", "brier")
        assert mean == pytest.approx((brier["all"] - brier["oracle"]).mean(), abs=1e-6)
        assert 0 < low < mean < high
        below = brier["oracle"] < brier["all"]
        assert comparison.wins("oracle", "all", "brier") == (below.sum(), 2) == (2, 2)

    def test_one_patient_leaves_it_undecided(self, toy: FeatureBank) -> None:
        bank = replace(toy, test=replace(toy.test, groups=("p",) * len(toy.test)))
        comparison = compare(bank, ["none", OracleSelector()], rounds=1)
        mean, low, high = comparison.gain("oracle")
        assert np.isfinite(mean) and np.isnan([low, high]).all()
        decision, sentence = recommendation(comparison, "oracle")
        assert decision == "undecided"
        assert "of one patient, which tells nothing of others" in sentence


def test_judged_by_folds(toy: FeatureBank) -> None:
    """Validation metrics are by folds, test metrics by a network trained on all annotated images."""
    tiny = TrainingConfig("small_cnn", size=(16, 16), epochs=1, steps_per_epoch=2, batch_size=16)
    judge = RetrainEvaluator(toy.sealed, config=tiny, folds=3, device="cpu")
    comparison = compare(toy, ["none", "all"], rounds=1, classifier=judge)
    assert "3 folds" in comparison.classifier
    masks = np.stack([outcome.selection.mask for outcome in comparison.outcomes])
    expected = judge.evaluate(masks, 0)
    log_p = judge.predict(masks, 0, toy.test)
    for k, outcome in enumerate(comparison.outcomes):
        assert outcome.valid["log_likelihood"] == pytest.approx(expected.log_likelihood[k])
        assert outcome.predictions == pytest.approx(log_p[k])


@pytest.mark.slow
def test_by_folds_an_agent_is_trained_without_the_labels_that_score_it(toy: FeatureBank) -> None:
    """On retrainings by the same folds. Those by the validation split say nothing without a fold."""
    tiny = TrainingConfig("small_cnn", size=(16, 16), epochs=1, steps_per_epoch=2, batch_size=16)
    by_folds = RetrainEvaluator(toy.sealed, config=tiny, folds=3, device="cpu")
    by_split = RetrainEvaluator(toy.sealed, config=tiny, device="cpu")
    agent = TrainingSelector(PPO, evaluations=16, n_envs=2, n_steps=8, batch_size=8, n_epochs=1)
    contenders = ["none", "label fit + realism", agent]
    for retrain, leaks in ((by_split, True), (by_folds, False)):
        bank = with_retrainings(toy, retrain, 20, seed=0)
        comparison = compare(bank, contenders, rounds=1, classifier=by_folds)
        assert [o.leaks for o in comparison.outcomes] == [False, leaks, leaks]

    log_p = np.zeros((len(by_folds.annotated), 2))
    for fold in range(3):
        mask = agent.select(without_fold(bank.sealed, fold, 3, seed=0), 0).mask
        log_p[by_folds.fold_of == fold] = by_folds.predict(mask[None], 0, by_folds.fold(fold))[0]
    expected = Evaluations.from_predictions(log_p[None], by_folds.annotated.labels)
    (outcome,) = comparison.of("PPO")
    assert outcome.valid["brier"] == pytest.approx(expected.brier[0], abs=1e-6)
    assert (outcome.selection.mask == agent.select(bank.sealed, 0).mask).all()


@pytest.mark.slow
def test_by_folds_a_selection_is_made_without_the_labels_that_score_it(toy: FeatureBank) -> None:
    """A bank without the fold selects, and an extractor that has not seen it."""
    tiny = TrainingConfig("small_cnn", size=(16, 16), epochs=1, steps_per_epoch=2, batch_size=16)
    judge = RetrainEvaluator(toy.sealed, config=tiny, folds=3, device="cpu")
    own = InfluenceSelector(evaluator=LinearProbeEvaluator(toy))  # knows the whole bank
    contenders = ["none", "random@1", "centroid", own]
    comparison = compare(toy, contenders, rounds=1, classifier=judge, seed=4)
    assert [outcome.leaks for outcome in comparison.outcomes] == [False, False, False, True]
    assert comparison.recommended() in ("none", "random@1", "centroid")

    log_p = np.zeros((len(judge.annotated), 2))
    for fold in range(3):
        held = judge.fold_of == fold
        without = without_fold(toy.sealed, fold, 3, seed=4)
        seen = {*without.train.ids, *without.valid.ids}
        assert seen == {i for i, out in zip(judge.annotated.ids, held) if not out}
        assert without.retrainings is None and without.test is None
        mask = CentroidSelector().select(without, 4).mask
        log_p[held] = judge.predict(mask[None], 4, judge.fold(fold))[0]
    expected = Evaluations.from_predictions(log_p[None], judge.annotated.labels)
    (centroid,) = comparison.of("centroid")
    assert centroid.valid["log_likelihood"] == pytest.approx(expected.log_likelihood[0], abs=1e-6)
    assert (centroid.selection.mask == CentroidSelector().select(toy, 4).mask).all()


def test_best_control_is_no_agent_and_no_oracle(toy: FeatureBank) -> None:
    comparison = comparison_of(
        outcome(toy, "none", 0.70),
        outcome(toy, "centroid", 0.74),
        outcome(toy, "oracle", 0.9, knows_truth=True),
        outcome(toy, "PPO", 0.76, is_rl=True, evaluations=64),
        outcome(toy, "REINFORCE", 0.73, is_rl=True, evaluations=64),
    )
    assert comparison.best_control() == "centroid"
    assert comparison_of(outcome(toy, "PPO", 0.76, is_rl=True)).best_control() is None

    # Only rows of agents have an interval over the best control.
    lines = comparison_table(comparison).splitlines()
    assert "gain over centroid" in lines[1]
    assert "evaluations" in lines[1]
    assert lines[4].count("[") == 1
    assert "+2.0 [" in lines[6]
    assert "−1.0 [" in lines[7]


class TestRecommended:
    """The test split takes no part, nor does a selector that was told the truth."""

    @pytest.fixture
    def scored(self, toy: FeatureBank) -> Callable[..., Outcome]:
        def make(name: str, valid: float, test: float = 0.7, **facts: object) -> Outcome:
            """An outcome whose validation likelihoods have a standard error of about .01."""
            rng = np.random.default_rng(len(name))
            noise = rng.normal(0, 0.07, 50)
            made = outcome(toy, name, test, **facts)
            return replace(made, valid_likelihoods=valid + noise - noise.mean())

        return make

    def test_scored_best_on_annotated_images(self, scored: Callable[..., Outcome]) -> None:
        none, random = scored("none", -0.5, 0.7), scored("random@2", -0.4, 0.6)
        ours, oracle = scored("PPO", -0.45, 0.9), scored("oracle", -0.1, 0.95, knows_truth=True)
        comparison = comparison_of(none, random, ours, oracle)
        assert comparison.recommended() == "random@2"
        decision, sentence = recommendation(comparison)
        assert decision == "leave"
        assert "(random@2), which scored best on the annotated images: −10.0 points" in sentence
        assert comparison_of(none, oracle).recommended() == "none"
        assert comparison_of(none, replace(random, leaks=True), ours).recommended() == "PPO"
        with pytest.raises(ValueError, match="all selectors were told the truth"):
            comparison_of(oracle).recommended()

        # Several rounds count by their mean.
        again = replace(scored("PPO", -0.2), round=1)
        assert comparison_of(none, random, ours, again).recommended() == "PPO"

    def test_is_the_default_unless_another_is_clearly_better(
        self, scored: Callable[..., Outcome]
    ) -> None:
        none, random = scored("none", -0.42), scored("random@2", -0.425)
        close, clear = scored("PPO", -0.415), scored("PPO", -0.38)
        assert comparison_of(random, none, close).recommended() == "none"
        assert comparison_of(random, none, clear).recommended() == "PPO"
        few = replace(comparison_of(random, none, close), few=True)
        assert few.recommended() == "random@2"
        assert "(random@2), the default for few annotated" in recommendation(few)[1]
        assert replace(few, outcomes=(none, close)).recommended() == "none"
        assert replace(few, outcomes=(random, none, clear)).recommended() == "PPO"
        poor = scored("random@2", -0.6)
        assert replace(few, outcomes=(poor, none, close)).recommended() == "PPO"
        assert comparison_of(random, close).recommended() == "PPO", "there is no default"

        # Images of two patients tell less.
        patients = np.arange(50) % 2 == 0
        in_one = replace(clear, valid_likelihoods=none.valid_likelihoods + 0.2 * patients)
        assert comparison_of(none, in_one).recommended() == "PPO"
        grouped = replace(comparison_of(none, in_one), valid_groups=patients)
        assert grouped.recommended() == "none"

        empty = replace(none.selection, mask=np.zeros_like(none.selection.mask))
        nothing = comparison_of(replace(none, selection=empty), random, close)
        assert recommendation(nothing)[0] == "leave"
        assert recommendation(nothing)[1].startswith("Add nothing: no selection of the 64")


def test_table_names_the_classifier(toy: FeatureBank) -> None:
    text = comparison_table(compare(toy, ["none", "all"], rounds=1))
    assert "linear probe" in text.splitlines()[0]
    assert [line.split()[:2] for line in text.splitlines()[3:]] == [["none", "0"], ["all", "64"]]
    assert "±" in comparison_table(compare(toy, ["none", "random"], rounds=2))


@pytest.mark.parametrize("documented", [Comparison, compare])
def test_docstring_examples_run(
    documented: object, toy: FeatureBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pattern = r"\.\. code-block:: python\n\n((?: {4}.*\n|\n)+)"
    (block,) = re.findall(pattern, inspect.getdoc(documented) + "\n")
    names = {"compare": compare, "CentroidSelector": CentroidSelector, "load_bank": lambda _: toy}
    exec(textwrap.dedent(block), names)
    assert isinstance(names["comparison"], Comparison)
