from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from agents.evaluation import Comparison
from agents.report import (
    comparison_latex,
    comparison_markdown,
    comparison_table,
    recommendation,
)
from synthselect_env import FeatureBank

RANDOM = [0.70, 0.70, 0.72]


@pytest.mark.parametrize(
    ("ours", "kept", "decision", "start"),
    [
        ([0.72, 0.73, 0.72], 40, "add", "Add these 40 of 64: +2.3 points"),
        ([0.66, 0.655, 0.65], 40, "leave", "Do not add these 40 of 64: −4.5 points"),
        ([0.69, 0.72, 0.70], 64, "undecided", "Undecided whether to add all 64: +0.3 points"),
    ],
)
def test_recommendation_follows_from_the_interval(
    toy: FeatureBank,
    made_up: Callable[..., Comparison],
    ours: list[float],
    kept: int,
    decision: str,
    start: str,
) -> None:
    comparison = made_up(toy, {"none": [0.70] * 3, "random": RANDOM, "PPO": ours}, kept)
    said, sentence = recommendation(comparison, "PPO")
    assert said == decision
    assert sentence.startswith(f"{start} of test accuracy, 95 % interval ")

    ((low_text, high_text),) = re.findall(r"interval (\S+) to ([+−]\d+\.\d)", sentence)
    low, high = (float(end.replace("−", "-")) for end in (low_text, high_text))
    expected = [100 * end for end in comparison.gain("PPO")[1:]]
    assert [low, high] == pytest.approx(expected, abs=0.05)
    assert ("contains zero" in sentence) == (low <= 0 <= high)

    won = sum(mine > theirs for mine, theirs in zip(ours, RANDOM))
    assert sentence.endswith(
        f"better than random in {won} of 3 rounds. Validation–test gap: +2.0 points."
    )


def test_recommendation_for_an_empty_selection(
    toy: FeatureBank, made_up: Callable[..., Comparison]
) -> None:
    comparison = made_up(toy, {"none": [0.7, 0.7], "PPO": [0.7, 0.7]}, kept=0)
    assert recommendation(comparison, "PPO") == (
        "leave",
        "Add nothing: PPO keeps none of the 64 candidates. Validation–test gap: +2.0 points.",
    )


@pytest.mark.parametrize("compared", [["none"], ["PPO", "all"]])
def test_recommendation_needs_none_and_ours(
    toy: FeatureBank, made_up: Callable[..., Comparison], compared: list[str]
) -> None:
    comparison = made_up(toy, {name: [0.7] for name in compared})
    with pytest.raises(ValueError, match="was not compared"):
        recommendation(comparison, "PPO")


def test_recommendation_warns_of_one_round_and_of_few_patients(
    toy: FeatureBank, made_up: Callable[..., Comparison]
) -> None:
    """Their intervals know less chance than there is."""
    once = made_up(toy, {"none": [0.7], "PPO": [0.75]}, 40)
    twice = made_up(toy, {"none": [0.7, 0.7], "PPO": [0.75, 0.76]}, 40)
    n = len(once.labels)

    def said(comparison: Comparison, n_patients: int | None) -> str:
        groups = None if n_patients is None else np.arange(n) % n_patients
        return recommendation(replace(comparison, groups=groups), "PPO")[1]

    assert "one round, so that the interval is over test images alone" in said(once, None)
    assert "one round" not in said(twice, None) and "test images" not in said(twice, None)
    assert "over the test split's patients alone" in said(once, 7)
    assert "(too narrow, being over 7 patients)" in said(twice, 7)
    assert "patients" not in said(twice, n)
    assert "of one patient, which tells nothing of others" in said(twice, 1)


def test_recommendation_says_where_balanced_accuracy_disagrees(
    toy: FeatureBank, made_up: Callable[..., Comparison]
) -> None:
    comparison = made_up(toy, {"none": [0.7, 0.7], "PPO": [0.75, 0.76]}, 40)
    assert "balanced" not in recommendation(comparison, "PPO")[1]

    outcomes = list(comparison.outcomes)
    for i, outcome in enumerate(outcomes):
        if outcome.selector == "PPO":
            outcomes[i] = replace(outcome, test=outcome.test | {"balanced_accuracy": 0.6})
    _, sentence = recommendation(replace(comparison, outcomes=tuple(outcomes)), "PPO")
    assert "points of test accuracy, 95 % interval" in sentence
    assert "but −10.0 of balanced accuracy" in sentence


def test_title_says_which_class_is_found(toy: FeatureBank, toy_comparison: Comparison) -> None:
    title = f"sensitivity to {toy.classes[1]}, specificity of {toy.classes[0]}"
    assert title in comparison_table(toy_comparison)
    three = replace(toy_comparison, classes=("a", "b", "c"))
    assert "are means over the classes" in comparison_table(three)


@pytest.fixture(scope="module")
def awkward(toy: FeatureBank, made_up: Callable[..., Comparison]) -> Comparison:
    """A comparison with a selector whose name has every special character."""
    return made_up(toy, {"none": [0.70, 0.71], r"my_best & 50% #1 {a}~^\|": [0.65, 0.64]})


def test_latex_table(awkward: Comparison) -> None:
    lines = comparison_latex(awkward).splitlines()
    assert lines[0].startswith("% Test split")
    assert lines[1:3] == [r"\begin{tabular}{lrrrrrrrr}", r"\toprule"]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]

    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) == 3
    assert all(len(re.findall(r"(?<!\\)&", row)) == 8 for row in rows)
    name = r"my\_best \& 50\% \#1 \{a\}\textasciitilde{}\textasciicircum{}\textbackslash{}|"
    assert rows[2].startswith(rf"{name} & 64 $\pm$ 0 & 0.6450 $\pm$ 0.0071 & ")
    assert "$-$6.0 [$-$" in rows[2]
    assert "±" not in rows[2] and "−" not in rows[2]


def test_markdown_table(awkward: Comparison) -> None:
    lines = comparison_markdown(awkward).splitlines()
    assert len(lines) == 4
    assert lines[1] == "| --- |" + " ---: |" * 8
    assert r"{a}~^\\\| | 64 ± 0 |" in lines[3]
