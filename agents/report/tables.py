"""Write comparisons as text, Markdown and LaTeX, and recommend what to do."""

from __future__ import annotations

import numpy as np

from agents.evaluation import Comparison
from agents.evaluation.outcomes import FEW_DEFAULT
from agents.selectors import is_random
from synthselect_env import Selection

SHOWN_METRICS = {"auc": "AUC", "sensitivity": "sensitivity", "specificity": "specificity"}
"""Metrics shown beside the accuracy, and the heads of their columns."""
FEW_PATIENTS = 20
"""Fewer patients than this make a bootstrap interval too narrow.

See :func:`~agents.evaluation.bootstrap.paired_bootstrap`.
"""
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
}
"""LaTeX commands for special characters."""


def spread(values: np.ndarray, form: str) -> str:
    """Return the mean as text, with the standard deviation over rounds.

    A single round has no standard deviation.

    :param values: one value per round
    :param form: format specification of a number, e.g. ".4f"
    """
    text = format(values.mean(), form)
    if len(values) == 1:
        return text
    return f"{text} ± {format(values.std(ddof=1), form)}"


def points(value: float) -> str:
    """Return a difference in percentage points, with its sign.

    :param value: difference of two shares, e.g. a gain in accuracy
    """
    return f"{100 * value:+.1f}".replace("-", "−")


def gain_cell(gain: tuple[float, float, float]) -> str:
    """Return a gain and its interval in percentage points.

    Dots stand for an interval that is not known.

    :param gain: mean, lower and upper end
    """
    mean, low, high = (points(value) for value in gain)
    return f"{mean} [{low}, {high}]" if np.isfinite(gain[1]) else f"{mean} […]"


def comparison_cells(comparison: Comparison) -> list[list[str]]:
    """Return the test metrics as cells, one row per selector.

    The first row has the heads of the columns. With several rounds a cell has mean ± standard
    deviation. Two columns are in points of accuracy:

    - the gap is validation minus test accuracy;
    - a gain has its 95 % interval. All selectors are compared with "none". Those trained by
      reinforcement learning are also compared with the best other selector.

    :param comparison: comparison to show
    """
    names = comparison.selectors
    references = _references(comparison)
    shows_evaluations = any(comparison.of(name)[0].evaluations for name in names)

    heads = ["selection", "selected", "accuracy", "gap"]
    heads += [f"gain over {name}" for name in references]
    heads += SHOWN_METRICS.values()
    heads += ["evaluations"] if shows_evaluations else []
    heads += ["seconds"]

    rows = [heads]
    for name in names:
        outcomes = comparison.of(name)
        counts = np.array([float(outcome.selection.count) for outcome in outcomes])
        seconds = np.mean([outcome.seconds for outcome in outcomes])
        row = [name, spread(counts, ",.0f")]
        row += [spread(comparison.test_metrics(name, "accuracy"), ".4f")]
        row += [points(_mean_gap(comparison, name))]
        row += [_gain_over(comparison, name, reference) for reference in references]
        row += [spread(comparison.test_metrics(name, metric), ".4f") for metric in SHOWN_METRICS]
        row += [f"{outcomes[0].evaluations:,}"] if shows_evaluations else []
        row += [f"{seconds:.1f}"]
        rows.append(row)
    return rows


def _references(comparison: Comparison) -> list[str]:
    """Return the selectors over which gains are shown."""
    names = comparison.selectors
    references = ["none"] if "none" in names else []
    if any(comparison.of(name)[0].is_rl for name in names):
        control = comparison.best_control()
        if control not in (None, "none"):
            references.append(str(control))
    return references


def _gain_over(comparison: Comparison, name: str, reference: str) -> str:
    """Return the cell of a gain; empty if it is not shown."""
    is_rl = comparison.of(name)[0].is_rl
    if name == reference or (reference != "none" and not is_rl):
        return ""
    return gain_cell(comparison.gain(name, reference))


def _mean_gap(comparison: Comparison, name: str) -> float:
    return float(np.mean([outcome.gap for outcome in comparison.of(name)]))


def comparison_title(comparison: Comparison) -> str:
    """Return a table's title: the classifier, and the metrics' classes.

    :param comparison: comparison of the table
    """
    title = f"Test split, classifier: {comparison.classifier}"
    classes = comparison.classes
    if len(classes) == 2:
        return f"{title}; sensitivity to {classes[1]}, specificity of {classes[0]}"
    if classes:
        return f"{title}; AUC, sensitivity and specificity are means over the classes"
    return title


def resampled_units(comparison: Comparison) -> str:
    """Return what the bootstrap behind a comparison's intervals resamples, in words.

    :param comparison: comparison with the intervals
    """
    images = "test images" if comparison.groups is None else "the test split's patients"
    rounds = len(comparison.of(comparison.selectors[0]))
    if rounds > 1:
        return f"rounds and {images}"
    return f"{images} alone: another seed may say otherwise"


def comparison_table(comparison: Comparison) -> str:
    """Return the test metrics as text, one line per selector.

    The classifier's name stands above.

    :param comparison: comparison to show, see :func:`comparison_cells`
    """
    rows = comparison_cells(comparison)
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  ".join(cells))
    rule = "-" * len(lines[0])
    return "\n".join([comparison_title(comparison), lines[0], rule, *lines[1:]])


def comparison_markdown(comparison: Comparison) -> str:
    """Return the same table in Markdown.

    :param comparison: comparison to show, see :func:`comparison_cells`
    """

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace("|", "\\|")

    heads, *rows = [[escaped(cell) for cell in row] for row in comparison_cells(comparison)]
    rule = ["---"] + ["---:"] * (len(heads) - 1)
    return "\n".join(line(cells) for cells in (heads, rule, *rows))


def comparison_latex(comparison: Comparison) -> str:
    r"""Return the same table in LaTeX, for a document with ``\usepackage{booktabs}``.

    :param comparison: comparison to show, see :func:`comparison_cells`
    """
    cells = [[latex(cell) for cell in row] for row in comparison_cells(comparison)]
    heads, *rows = [" & ".join(row) + r" \\" for row in cells]
    columns = "l" + "r" * (len(cells[0]) - 1)
    title = " ".join(comparison_title(comparison).split())  # a line break would end the comment
    lines = [
        f"% {title}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        heads,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def latex(text: str) -> str:
    """Return text with LaTeX's special characters escaped.

    :param text: text to escape
    """
    return "".join(LATEX.get(character, character) for character in text)


def recommendation(
    comparison: Comparison, ours: str | None = None, selection: Selection | None = None
) -> tuple[str, str]:
    """Recommend whether to add what a selector kept.

    By default that is the selector that the annotated images speak for. Its gain in test accuracy
    over adding nothing decides. A last sentence states the validation–test gap: how
    optimistic the images are that decided.

    :param comparison: comparison with "none" among its selectors
    :param ours: name of the selector in question; None for
        :meth:`~agents.evaluation.Comparison.recommended`
    :param selection: candidates in question; None for those of the first round
    :return: decision and text. The decision is "add", "leave", or "undecided" where the 95 %
        interval contains zero
    :raises ValueError: if "none" or ``ours`` was not compared
    """
    chosen = ours is None
    ours = ours or comparison.recommended()
    mean, low, high = comparison.gain(ours)
    if selection is None:
        selection = comparison.of(ours)[0].selection
    gap = f"Validation–test gap: {points(_mean_gap(comparison, ours))} points."

    # Nothing selected: there is nothing to add.
    n, count = len(selection), selection.count
    if count == 0:
        why = f"{ours} keeps none of the {n:,} candidates"
        if chosen:
            why = f"no selection of the {n:,} candidates scored clearly better on the annotated images"
        return "leave", f"Add nothing: {why}. {gap}"

    # The gain, its interval, and what qualifies them.
    facts = f"{points(mean)} points of test accuracy, {_interval(comparison, low, high)}"
    facts += _wins_over_random(comparison, ours)
    facts += _balanced_accuracy_remark(comparison, ours, mean)
    if len(comparison.of(ours)) == 1 and np.isfinite(low):
        facts += f"; one round, so that the interval is over {resampled_units(comparison)}"

    # The decision.
    these = f"all {n:,}" if selection.mask.all() else f"these {count:,} of {n:,}"
    if chosen:
        these += f" ({ours}), {_reason(comparison, ours)}"
    if low > 0:
        return "add", f"Add {these}: {facts}. {gap}"
    if high < 0:
        return "leave", f"Do not add {these}: {facts}. {gap}"
    return "undecided", f"Undecided whether to add {these}: {facts}. {gap}"


def _reason(comparison: Comparison, ours: str) -> str:
    """Return why a selector is recommended."""
    if comparison.few and ours == FEW_DEFAULT:
        return "the default for few annotated images, as nothing scored clearly better on them"
    return "which scored best on the annotated images"


def _interval(comparison: Comparison, low: float, high: float) -> str:
    """Return a gain's interval in words, with a warning of few patients."""
    if np.isfinite(low):
        text = f"95 % interval {points(low)} to {points(high)}"
    else:
        text = "of one patient, which tells nothing of others"
    if comparison.groups is not None:
        patients = len(np.unique(comparison.groups))
        if 1 < patients < FEW_PATIENTS:
            text += f" (too narrow, being over {patients} patients)"
    if low <= 0 <= high:
        text += ", which contains zero"
    return text


def _wins_over_random(comparison: Comparison, ours: str) -> str:
    """Return in how many rounds ``ours`` beat a random selection, if that was compared."""
    random = next((name for name in comparison.selectors if is_random(name)), None)
    if random is None or is_random(ours):
        return ""
    won, rounds = comparison.wins(ours, random)
    return f"; better than {random} in {won} of {rounds} round{'s' if rounds > 1 else ''}"


def _balanced_accuracy_remark(comparison: Comparison, ours: str, gain: float) -> str:
    """Return a remark if balanced accuracy disagrees with the gain."""
    with_ours = comparison.test_metrics(ours, "balanced_accuracy")
    with_none = comparison.test_metrics("none", "balanced_accuracy")
    balanced = float((with_ours - with_none).mean())
    if balanced * gain < 0:
        said = f"{points(balanced)} of balanced accuracy"
        return f", but {said}, in which every class counts the same"
    return ""
