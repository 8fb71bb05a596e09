from __future__ import annotations

import csv
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from agents.evaluation.bootstrap import paired_bootstrap
from agents.evaluation.comparison import Comparison, Outcome, compare
from agents.report import (
    centroid_histogram,
    comparison_table,
    kept_and_discarded,
    recommendation,
    save_figure,
)
from agents.selectors import Selector
from synthselect_env import FeatureBank, Selection, Dataset
from synthselect_env.evaluators import LinearProbeEvaluator
from synthselect_env.metrics import METRICS, classification_metrics
from synthselect_env.storage import class_digest


class OracleSelector(Selector):
    """Keeps the sound candidates: a third party's selector."""

    name = "oracle"

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        sound = bank.candidates.flaw == 0
        return Selection.of(bank, sound, sound.astype(float), self.name)


def test_figures_are_the_classifiers_on_the_test_split(toy: FeatureBank) -> None:
    rows: list[Outcome] = []
    comparison = compare(
        toy, ["none", "random", OracleSelector()], rounds=3, seed=7, on_outcome=rows.append
    )
    assert tuple(rows) == comparison.outcomes
    assert comparison.selectors == ["none", "random", "oracle"] and len(comparison.outcomes) == 9
    for outcome in comparison.outcomes:
        valid, test = LinearProbeEvaluator(toy).evaluate_on(
            outcome.selection.mask[None], 0, toy.valid, toy.test
        )
        for metric in METRICS:
            assert outcome.test[metric] == pytest.approx(
                getattr(test, metric)[0], rel=1e-5
            )  # predictions are single precision
            assert outcome.valid[metric] == pytest.approx(getattr(valid, metric)[0], rel=1e-5)
        assert outcome.gap == pytest.approx(valid.accuracy[0] - test.accuracy[0])
    counts = {tuple(o.selection.mask) for o in comparison.of("random")}
    assert len(counts) == 3  # another draw each round
    assert (
        comparison.test_metrics("oracle", "log_likelihood").mean()
        > comparison.test_metrics("random", "log_likelihood").mean()
    )


def test_errors(toy: FeatureBank) -> None:
    with pytest.raises(ValueError, match="unknown selector best"):
        compare(toy, ["best"])
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        compare(toy, ["none"], rounds=0)
    with pytest.raises(ValueError, match="different names"):
        compare(toy, ["none", "none"])


def test_csv(toy: FeatureBank, tmp_path: Path) -> None:
    comparison = compare(toy, ["none", "all"], rounds=2)
    comparison.save(tmp_path / "comparison.csv")
    rows = list(csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines()))
    assert [(r["selector"], r["round"], r["selected"]) for r in rows] == [
        ("none", "0", "0"),
        ("all", "0", "64"),
        ("none", "1", "0"),
        ("all", "1", "64"),
    ]
    assert (
        float(rows[1]["test_auc"]) == comparison.of("all")[0].test["auc"]
        and rows[0]["classifier"] == "linear probe"
    )


def test_selectors_get_no_test_split(toy: FeatureBank) -> None:
    class Spy(Selector):
        name = "spy"

        def select(self, bank: FeatureBank, seed: int) -> Selection:
            assert bank.test is None
            return Selection.of(
                bank, np.ones(len(bank.candidates), bool), np.ones(len(bank.candidates)), self.name
            )

    compare(toy, [Spy()], rounds=1)
    with pytest.raises(ValueError, match="no test split to compare on"):
        compare(toy.sealed, ["none"], rounds=1)


class CountingSelector(Selector):
    """Keeps what its seed says, and counts how often it is asked; may be killed."""

    name = "counting"
    asked = 0
    dies_at = 10**9

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        if CountingSelector.asked == CountingSelector.dies_at:
            raise KeyboardInterrupt
        CountingSelector.asked += 1
        scores = np.random.default_rng(seed).random(len(bank.candidates))
        return Selection.of(bank, scores < self.share, scores, self.name)


class CountingProbe(LinearProbeEvaluator):
    predicted = 0

    def predict_on(self, selections: np.ndarray, seed: int, *splits: Dataset) -> list[np.ndarray]:
        CountingProbe.predicted += len(selections)
        return super().predict_on(selections, seed, *splits)


def test_goes_on_where_it_stopped(toy: FeatureBank, tmp_path: Path) -> None:
    """Nothing is selected or trained twice, and the figures are those of a comparison in one go."""
    CountingSelector.asked, CountingSelector.dies_at, CountingProbe.predicted = 0, 2, 0
    with pytest.raises(KeyboardInterrupt):
        compare(
            toy,
            ["none", CountingSelector()],
            rounds=3,
            classifier=CountingProbe(toy),
            directory=tmp_path,
        )

    class Died(Exception):
        pass

    def die_at_third(row: Outcome) -> None:
        if (row.selector, row.round) == ("none", 1):
            raise Died

    CountingSelector.dies_at = 10**9
    with pytest.raises(Died):
        compare(
            toy,
            ["none", CountingSelector()],
            rounds=3,
            classifier=CountingProbe(toy),
            directory=tmp_path,
            on_outcome=die_at_third,
        )
    assert (CountingSelector.asked, CountingProbe.predicted) == (3, 3)
    assert len((tmp_path / "comparison.csv").read_text().splitlines()) == 1 + 2
    whole = compare(
        toy,
        ["none", CountingSelector()],
        rounds=3,
        classifier=CountingProbe(toy),
        directory=tmp_path,
    )
    assert (CountingSelector.asked, CountingProbe.predicted) == (3, 6)
    alone = compare(toy, ["none", CountingSelector()], rounds=3)
    for ours, theirs in zip(whole.outcomes, alone.outcomes):
        assert (ours.selector, ours.round, ours.test, ours.valid) == (
            theirs.selector,
            theirs.round,
            theirs.test,
            theirs.valid,
        )
        assert np.array_equal(ours.selection.mask, theirs.selection.mask) and np.array_equal(
            ours.predictions, theirs.predictions
        )
    for file in (tmp_path / "selections").glob("*-1-*.npz"):
        file.write_bytes(file.read_bytes()[:100])  # as a power cut may leave it
    CountingSelector.asked = 0
    compare(toy, ["none", CountingSelector()], rounds=3, directory=tmp_path)
    assert CountingSelector.asked == 1
    CountingSelector.asked = 0
    compare(
        toy, [CountingSelector(0.25)], rounds=1, directory=tmp_path
    )  # other settings, another selection
    compare(
        replace(toy, candidates=replace(toy.candidates, labels=1 - toy.candidates.labels)),
        [CountingSelector()],
        1,
        directory=tmp_path,
    )
    assert CountingSelector.asked == 2


def outcome(bank: FeatureBank, name: str, test: float, valid: float = 0.8) -> Outcome:
    """With predictions that are right on the first ``test`` of 100 images of class 0."""
    n = len(bank.candidates)
    figures = [dict.fromkeys(METRICS, value) for value in (valid, test)]
    right = np.arange(100) < round(100 * test)
    predictions = np.log(np.where(np.stack([right, ~right], 1), 0.9, 0.1)).astype(np.float32)
    return Outcome(
        name, 0, Selection.of(bank, np.ones(n, bool), np.ones(n), name), *figures, predictions
    )


def made(*outcomes: Outcome) -> Comparison:
    return Comparison("linear probe", outcomes, np.zeros(100, np.int64))


def test_gains_are_over_the_same_pictures(toy: FeatureBank) -> None:
    """Against scipy's paired bootstrap where there is one round."""
    comparison = made(outcome(toy, "none", 0.70), outcome(toy, "ours", 0.75))
    hits = [
        (outcome(toy, "", share).predictions[:, 0] > np.log(0.5)).astype(float)
        for share in (0.75, 0.70)
    ]
    expected = bootstrap(
        (hits[0] - hits[1],), np.mean, n_resamples=5000, method="percentile", rng=0
    ).confidence_interval
    assert comparison.gain("ours") == pytest.approx(
        (0.05, expected.low, expected.high), abs=0.011
    )  # a image is .01
    mean, low, high = (f"{100 * value:+.1f}" for value in comparison.gain("ours"))
    assert f"{mean} [{low}, {high}]" in comparison_table(comparison)
    assert comparison.wins("ours", "none") == (1, 1) and comparison.wins("none", "ours") == (0, 1)
    with pytest.raises(ValueError, match="all was not compared; there are none, ours"):
        comparison.gain("ours", over="all")


def test_learned_rows_are_held_against_the_best_control(toy: FeatureBank) -> None:
    rows = [("none", 0.70), ("centroid", 0.74), ("oracle", 0.9), ("PPO", 0.76), ("REINFORCE", 0.73)]
    comparison = made(
        *(
            replace(
                outcome(toy, n, t),
                is_rl=n.isupper(),
                knows_truth=n == "oracle",
                evaluations=64 * n.isupper(),
            )
            for n, t in rows
        )
    )
    assert comparison.best_control() == "centroid"
    lines = comparison_table(comparison).splitlines()
    assert "gain over centroid" in lines[1] and "evaluations" in lines[1]
    assert (
        "+2.0 [" in lines[6]
        and "−1.0 [" in lines[7]
        and "[" in lines[4]
        and lines[4].count("[") == 1
    )


@pytest.mark.parametrize("metric", METRICS)
def test_bootstrap_agrees_with_resampling_by_hand(metric: str) -> None:
    """The fast paths against drawing images one by one, with patients and three classes."""
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(3, size=60), rng.integers(12, size=60)
    ours, theirs = (
        np.log(rng.dirichlet(np.ones(3) + 2 * np.eye(3)[0], size=(4, 60))).astype(np.float32)
        for _ in range(2)
    )
    mean, low, high = paired_bootstrap(ours, theirs, labels, metric, groups, resamples=300, seed=1)

    def figures(p: np.ndarray, index: np.ndarray) -> np.ndarray:
        return (
            classification_metrics(torch.from_numpy(p[:, index]), torch.from_numpy(labels[index]))[
                metric
            ]
            .double()
            .numpy()
        )

    rng, draws, names = np.random.default_rng(1), [], np.unique(groups)
    often = rng.multinomial(len(names) - 1, np.full(len(names), 1 / len(names)), size=300)
    shares = rng.multinomial(3, np.full(4, 0.25), size=300) / 3
    for counts, share in zip(often, shares):
        index = np.concatenate(
            [np.repeat(np.flatnonzero(groups == name), count) for name, count in zip(names, counts)]
        )
        draws.append(share @ (figures(ours, index) - figures(theirs, index)))
    assert mean == pytest.approx(
        (figures(ours, np.arange(60)) - figures(theirs, np.arange(60))).mean()
    )
    assert (low, high) == pytest.approx(tuple(np.nanpercentile(draws, [2.5, 97.5])), abs=1e-6)


def test_intervals_hold_what_they_promise() -> None:
    """Over worlds in which rounds and images both differ by chance, some 95 % of the intervals contain the true gain."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        pictures, effect = rng.normal(size=(1, 80)), rng.normal(0, 0.15, size=(5, 1))
        margins = [pictures + shift + rng.normal(0, 0.5, size=(5, 80)) for shift in (effect, 0.0)]
        ours, theirs = (
            np.stack([np.zeros_like(m), -m], axis=2).astype(np.float32) for m in margins
        )
        _, low, high = paired_bootstrap(ours, theirs, np.zeros(80, np.int64), resamples=300)
        covered += low <= 0 <= high
    assert 0.9 <= covered / 200


def test_table_names_the_classifier(toy: FeatureBank) -> None:
    text = comparison_table(compare(toy, ["none", "all"], rounds=1))
    assert "linear probe" in text.splitlines()[0]
    assert [line.split()[:2] for line in text.splitlines()[3:]] == [["none", "0"], ["all", "64"]]
    assert "±" in comparison_table(compare(toy, ["none", "random"], rounds=2))


def test_pictures(toy: FeatureBank, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    selection = OracleSelector().select(toy, 0)
    figure = kept_and_discarded(toy, selection)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    kept = [int((selection.mask & (toy.candidates.labels == i)).sum()) for i in (0, 1)]
    assert titles == [
        f"left, kept: {kept[0]}",
        f"left, discarded: {32 - kept[0]}",
        f"right, kept: {kept[1]}",
        f"right, discarded: {32 - kept[1]}",
    ]
    save_figure(figure, tmp_path / "kept.png")
    histogram = centroid_histogram(toy, {"oracle": selection})
    pool = histogram.axes[0].patches[:40]
    assert sum(bar.get_height() for bar in pool) == 32
    save_figure(histogram, tmp_path / "distances.svg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["distances.svg", "kept.png"]
    with pytest.raises(ValueError, match="nothing to plot"):
        kept_and_discarded(replace(toy, candidates=replace(toy.candidates, images=None)), selection)


SOURCE = """
from agents.selectors import RatioSelector

class Mine(RatioSelector):
    name = "mine"

    def score(self, bank, seed):
        return {sign}bank.centroid_distances
"""


def test_an_edited_selector_selects_again(toy: FeatureBank, tmp_path: Path) -> None:
    """Selections are kept under the source of a user's own selector, too."""
    nearness = []
    for i, sign in enumerate(("-", "-", "+")):
        folder = tmp_path / f"version{i}"
        folder.mkdir()
        (folder / "mine.py").write_text(SOURCE.replace("{sign}", sign))
        spec = importlib.util.spec_from_file_location("mine", folder / "mine.py")
        module = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "mine", module)
            spec.loader.exec_module(module)
            comparison = compare(toy, [module.Mine()], rounds=1, directory=tmp_path / "kept")
        nearness.append(toy.centroid_distances[comparison.of("mine")[0].selection.mask].mean())
    assert nearness[0] == nearness[1] < nearness[2]
    assert len(list((tmp_path / "kept" / "selections").iterdir())) == 2


def test_a_class_without_source_is_not_remembered(toy: FeatureBank, tmp_path: Path) -> None:
    space: dict[str, type] = {"__name__": "nowhere"}
    exec(SOURCE.replace("{sign}", "-"), space)
    with pytest.raises(NotImplementedError, match="source of Mine cannot be read"):
        class_digest(space["Mine"])
    assert (
        compare(toy, [space["Mine"]()], rounds=1, directory=tmp_path).of("mine")[0].selection.count
        == 32
    )
    assert not (tmp_path / "selections").exists()


def test_the_better_brier_score_is_the_smaller(toy: FeatureBank) -> None:
    comparison = compare(toy, ["none", "all", "random", "centroid", "oracle"], rounds=2)
    controls = {
        name: comparison.test_metrics(name, "brier").mean()
        for name in ("none", "all", "random", "centroid")
    }
    assert comparison.best_control("brier") == min(controls, key=controls.get)
    mean, low, high = comparison.gain(
        "oracle", "all", "brier"
    )  # above zero is better, as with the other figures
    assert mean == pytest.approx(
        (
            comparison.test_metrics("all", "brier") - comparison.test_metrics("oracle", "brier")
        ).mean(),
        abs=1e-6,
    )
    assert 0 < low < mean < high
    below = comparison.test_metrics("oracle", "brier") < comparison.test_metrics("all", "brier")
    assert comparison.wins("oracle", "all", "brier") == (below.sum(), 2) == (2, 2)


def test_one_patient_gives_no_interval(toy: FeatureBank) -> None:
    """All draws of one patient are the same, which is not certainty."""
    bank = replace(toy, test=replace(toy.test, groups=("p",) * len(toy.test)))
    comparison = compare(bank, ["none", "oracle"], rounds=1)
    mean, low, high = comparison.gain("oracle")
    assert np.isfinite(mean) and np.isnan([low, high]).all()
    decision, sentence = recommendation(comparison, "oracle")
    assert decision == "undecided" and "of one patient, which tells nothing of others" in sentence
