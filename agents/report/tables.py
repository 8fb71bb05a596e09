"""Comparisons as text."""

from __future__ import annotations

import numpy as np

from agents.compare import Comparison

COLUMNS = ("accuracy", "auc", "sensitivity", "specificity")
CLASSIFIERS = {"linear_probe": "linear probe on the bank's features", "resnet34": "ResNet34 retrained from scratch"}


def _cell(values: np.ndarray, form: str) -> str:
    """A figure, with its standard deviation over rounds where there are several."""
    text = format(values.mean(), form)
    return text if len(values) == 1 else f"{text} ± {format(values.std(ddof=1), form)}"


def comparison_table(comparison: Comparison) -> str:
    """The test split's figures, a line a selector; the classifier that gave them stands above.

    :param comparison: what to show; with several rounds mean ± standard deviation, and the gain in accuracy over "none" in points, paired
        by round, with its 95 % interval
    """
    rounds, has_none = len(comparison.of(comparison.selectors[0])), "none" in comparison.selectors
    paired = rounds > 1 and has_none
    rows = [["selection", "selected", *COLUMNS, *(["gain over none"] if paired else [])]]
    for name in comparison.selectors:
        counts = np.array([float(outcome.selection.count) for outcome in comparison.of(name)])
        row = [name, _cell(counts, ",.0f"), *(_cell(comparison.test_figures(name, m), ".4f") for m in COLUMNS)]
        if paired:
            mean, low, high = (100 * value for value in comparison.gain(name))
            row.append("" if name == "none" else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]")
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))) for row in rows]
    classifier = CLASSIFIERS.get(comparison.classifier, comparison.classifier)
    return "\n".join([f"Test split, classifier: {classifier}", lines[0], "-" * len(lines[0]), *lines[1:]])


def verdict(comparison: Comparison, ours: str) -> str:
    """Whether ``ours`` won on test accuracy, against which other selection and by how much, and its validation–test gap.

    :param comparison: what to judge
    :param ours: name of the selector in question
    """
    means = {name: comparison.test_figures(name, "accuracy").mean() for name in comparison.selectors}
    best = max((name for name in means if name != ours), key=means.__getitem__)
    points = 100 * (means[ours] - means[best])
    if points > 0:
        outcome = f"{ours} won: {points:.1f} points of test accuracy above the best other selection ({best})"
    elif points < 0:
        outcome = f"{ours} lost: {-points:.1f} points of test accuracy below the best other selection ({best})"
    else:
        outcome = f"{ours} tied with the best other selection ({best}) in test accuracy"
    over_none = f"; {100 * (means[ours] - means['none']):+.1f} points against no candidates" if best != "none" and "none" in means else ""
    first = comparison.of(ours)
    valid, test, gap = (
        100 * float(np.mean([f(o) for o in first])) for f in (lambda o: o.valid["accuracy"], lambda o: o.test["accuracy"], lambda o: o.gap)
    )
    return f"{outcome}{over_none}.\nValidation–test gap of {ours}: {gap:+.1f} points (validation {valid:.1f} %, test {test:.1f} %)."
