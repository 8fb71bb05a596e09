from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

from agents.compare import Comparison, Outcome, compare
from agents.report import centroid_histogram, comparison_table, kept_and_discarded, save_figure, verdict
from agents.selectors import Selector
from synthselect_env import FeatureBank, Selection
from synthselect_env.evaluators import LinearProbeEvaluator
from synthselect_env.metrics import METRICS


class OracleSelector(Selector):
    """Keeps the sound candidates: a third party's selector."""

    name = "oracle"

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        sound = bank.candidates.flaw == 0
        return Selection.of(bank, sound, sound.astype(float), self.name)


def test_figures_are_the_classifiers_on_the_test_split(toy: FeatureBank) -> None:
    comparison = compare(toy, ["none", "random", OracleSelector()], rounds=3, seed=7)
    assert comparison.selectors == ["none", "random", "oracle"] and len(comparison.outcomes) == 9
    for outcome in comparison.outcomes:
        valid, test = LinearProbeEvaluator(toy).evaluate_on(outcome.selection.mask[None], 0, toy.valid, toy.test)
        for metric in METRICS:
            assert outcome.test[metric] == pytest.approx(getattr(test, metric)[0])
            assert outcome.valid[metric] == pytest.approx(getattr(valid, metric)[0])
        assert outcome.gap == pytest.approx(valid.accuracy[0] - test.accuracy[0])
    counts = {tuple(o.selection.mask) for o in comparison.of("random")}
    assert len(counts) == 3  # another draw each round
    assert comparison.test_figures("oracle", "log_likelihood").mean() > comparison.test_figures("random", "log_likelihood").mean()


def test_errors(toy: FeatureBank) -> None:
    with pytest.raises(ValueError, match="unknown selector best"):
        compare(toy, ["best"])
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
    assert float(rows[1]["test_auc"]) == comparison.of("all")[0].test["auc"] and rows[0]["classifier"] == "linear_probe"


def outcome(bank: FeatureBank, name: str, test: float, valid: float = 0.8) -> Outcome:
    n = len(bank.candidates)
    figures = [dict.fromkeys(METRICS, value) for value in (valid, test)]
    return Outcome(name, 0, Selection.of(bank, np.ones(n, bool), np.ones(n), name), *figures, seconds=0.0)


def test_gains_are_paired_by_round(toy: FeatureBank) -> None:
    """Against scipy's paired t-test; one round has no interval."""
    figures = {"none": [0.70, 0.74, 0.71], "ours": [0.73, 0.76, 0.75]}
    outcomes = [replace(outcome(toy, name, value), round=r) for name, values in figures.items() for r, value in enumerate(values)]
    comparison = Comparison("linear_probe", tuple(outcomes))
    expected = ttest_rel(figures["ours"], figures["none"]).confidence_interval(0.95)
    assert comparison.gain("ours") == pytest.approx((0.03, expected.low, expected.high))
    assert "+3.0 [+0.5, +5.5]" in comparison_table(comparison)
    mean, low, high = Comparison("linear_probe", (outcomes[0], outcomes[3])).gain("ours")
    assert mean == pytest.approx(0.03) and np.isnan([low, high]).all()
    with pytest.raises(ValueError, match="all was not compared; there are none, ours"):
        comparison.gain("ours", over="all")


@pytest.mark.parametrize(("ours", "words"), [(0.75, "PPO won: 2.0 points"), (0.70, "PPO lost: 3.0 points"), (0.73, "PPO tied")])
def test_verdict_is_plain(toy: FeatureBank, ours: float, words: str) -> None:
    others = [("none", 0.71), ("centroid", 0.73)]
    text = verdict(Comparison("linear_probe", tuple(outcome(toy, n, t) for n, t in [*others, ("PPO", ours)])), "PPO")
    assert text.startswith(words) and "(centroid)" in text
    assert f"{100 * (0.8 - ours):+.1f} points (validation 80.0 %" in text


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
    with pytest.raises(ValueError, match="nothing to picture"):
        kept_and_discarded(replace(toy, candidates=replace(toy.candidates, images=None)), selection)
