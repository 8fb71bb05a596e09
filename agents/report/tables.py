"""Comparisons as text, Markdown and LaTeX, and what they say in a sentence."""

from __future__ import annotations

import numpy as np

from agents.evaluation.comparison import Comparison
from synthselect_env import Selection

BESIDE = {"auc": "AUC", "sensitivity": "sensitivity", "specificity": "specificity"}
"""Metrics shown beside the accuracy, and their heads."""
FEW_PATIENTS = 20
"""From so many on, a bootstrap over patients covers about what it says (:func:`~agents.evaluation.bootstrap.paired_bootstrap`)."""
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$",
}  # fmt: skip


def spread(values: np.ndarray, form: str) -> str:
    """A figure, with its standard deviation over rounds where there are several.

    :param values: one a round
    :param form: format specification of a number
    """
    text = format(values.mean(), form)
    return text if len(values) == 1 else f"{text} ± {format(values.std(ddof=1), form)}"


def comparison_cells(comparison: Comparison) -> list[list[str]]:
    """The test split's figures as cells: the heads of the columns, then a row a selector.

    :param comparison: what to show; with several rounds mean ± standard deviation. Beside it the gap, validation minus test accuracy, and the gains
        in accuracy over "none" and, for reinforcement learning's rows, over the best of the others, in points with 95 % intervals
    """
    names = comparison.selectors
    control = (
        comparison.best_control() if any(comparison.of(name)[0].is_rl for name in names) else None
    )
    spent = any(comparison.of(name)[0].evaluations for name in names)
    over = (["none"] if "none" in names else []) + (
        [control] if control not in (None, "none") else []
    )
    rows = [
        [
            "selection",
            "selected",
            "accuracy",
            "gap",
            *(f"gain over {name}" for name in over),
            *BESIDE.values(),
        ]
    ]
    rows[0] += (["evaluations"] if spent else []) + ["seconds"]
    for name in names:
        outcomes = comparison.of(name)
        row = [name, spread(np.array([float(o.selection.count) for o in outcomes]), ",.0f")]
        row += [
            spread(comparison.test_metrics(name, "accuracy"), ".4f"),
            points(float(np.mean([o.gap for o in outcomes]))),
        ]
        for other in over:
            said = name != other and (other == "none" or outcomes[0].is_rl)
            row.append(gain_cell(comparison.gain(name, other)) if said else "")
        row += [spread(comparison.test_metrics(name, metric), ".4f") for metric in BESIDE]
        row += ([f"{outcomes[0].evaluations:,}"] if spent else []) + [
            f"{np.mean([o.seconds for o in outcomes]):.1f}"
        ]
        rows.append(row)
    return rows


def gain_cell(gain: tuple[float, float, float]) -> str:
    """A gain and the ends of its interval, in percentage points; dots where there is none."""
    mean, low, high = map(points, gain)
    return f"{mean} [{low}, {high}]" if np.isfinite(gain[1]) else f"{mean} […]"


def comparison_title(comparison: Comparison) -> str:
    """What stands above a comparison's table: whose figures they are, and what is sensitive to which class."""
    title, classes = f"Test split, classifier: {comparison.classifier}", comparison.classes
    if len(classes) == 2:
        return f"{title}; sensitivity to {classes[1]}, specificity of {classes[0]}"
    return (
        f"{title}; AUC, sensitivity and specificity are means over the classes"
        if classes
        else title
    )


def drawn_again(comparison: Comparison) -> str:
    """What the bootstrap behind a comparison's intervals draws again."""
    pictures = "test pictures" if comparison.groups is None else "the test split's patients"
    rounds = len(comparison.of(comparison.selectors[0]))
    return (
        f"rounds and {pictures}"
        if rounds > 1
        else f"{pictures} alone: another seed may say otherwise"
    )


def comparison_table(comparison: Comparison) -> str:
    """The test split's figures as text, a line a selector; the classifier that gave them stands above.

    :param comparison: what to show, see :func:`comparison_cells`
    """
    rows = comparison_cells(comparison)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    return "\n".join([comparison_title(comparison), lines[0], "-" * len(lines[0]), *lines[1:]])


def comparison_markdown(comparison: Comparison) -> str:
    """The same table in Markdown.

    :param comparison: what to show, see :func:`comparison_cells`
    """
    head, *rows = [
        [cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row]
        for row in comparison_cells(comparison)
    ]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def comparison_latex(comparison: Comparison) -> str:
    r"""The same table in LaTeX, for a document with ``\usepackage{booktabs}``.

    :param comparison: what to show, see :func:`comparison_cells`
    """
    cells = [[latex(cell) for cell in row] for row in comparison_cells(comparison)]
    head, *rows = [f"{' & '.join(row)} \\\\" for row in cells]
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(cells[0]) - 1)}}}",
        r"\toprule",
        head,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    title = " ".join(comparison_title(comparison).split())  # a line break would end the comment
    return "\n".join([f"% {title}", *lines])


def latex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(LATEX.get(character, character) for character in text)


def points(value: float) -> str:
    """A difference in percentage points, with its sign.

    :param value: a share, e.g. a gain in accuracy
    """
    return f"{100 * value:+.1f}".replace("-", "−")


def recommendation(
    comparison: Comparison, ours: str, selection: Selection | None = None
) -> tuple[str, str]:
    """Recommend whether to add what ``ours`` selected, by its gain in test accuracy over nothing.

    A second sentence gives the validation–test gap, the optimism of the split that rewards are measured on.

    :param comparison: must have "none"
    :param ours: name of the selector in question
    :param selection: the candidates in question; None for those of the first round
    :return: "add", "leave", or "undecided" where the 95 % interval contains zero; and the text that says so
    :raises ValueError: when "none" or ``ours`` was not compared
    """
    mean, low, high = comparison.gain(ours)
    rounds = len(comparison.of(ours))
    selection = comparison.of(ours)[0].selection if selection is None else selection
    gap = f"Validation–test gap: {points(float(np.mean([outcome.gap for outcome in comparison.of(ours)])))} points."
    if selection.count == 0:
        return (
            "leave",
            f"Add nothing: {ours} keeps none of the {len(selection):,} candidates. {gap}",
        )
    these = (
        f"all {len(selection):,}"
        if selection.mask.all()
        else f"these {selection.count:,} of {len(selection):,}"
    )
    interval = (
        f"95 % interval {points(low)} to {points(high)}"
        if np.isfinite(low)
        else "of one patient, which tells nothing of others"
    )
    patients = np.inf if comparison.groups is None else len(np.unique(comparison.groups))
    if 1 < patients < FEW_PATIENTS:
        interval += f" (too narrow, being over {patients} patients)"
    if low <= 0 <= high:
        interval += ", which contains zero"
    figures = f"{points(mean)} points of test accuracy, {interval}"
    if "random" in comparison.selectors and ours != "random":
        won, _ = comparison.wins(ours, "random")
        figures += f"; better than random in {won} of {rounds} round{'s' if rounds > 1 else ''}"
    balanced = float(
        (
            comparison.test_metrics(ours, "balanced_accuracy")
            - comparison.test_metrics("none", "balanced_accuracy")
        ).mean()
    )
    if balanced * mean < 0:
        figures += (
            f", but {points(balanced)} of balanced accuracy, in which every class counts the same"
        )
    if rounds == 1 and np.isfinite(low):
        figures += f"; one round, so that the interval is over {drawn_again(comparison)}"
    if low > 0:
        return "add", f"Add {these}: {figures}. {gap}"
    if high < 0:
        return "leave", f"Do not add {these}: {figures}. {gap}"
    return "undecided", f"Undecided whether to add {these}: {figures}. {gap}"
