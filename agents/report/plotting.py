"""What all figures share: how one is begun and saved, and its colours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from synthselect_env.storage import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    "#8a8a8a",
    "#3b6fb6",
    "#d1495b",
    "#2e8b57",
    "#b8860b",
    "#7b5ea7",
    "#1f8f9c",
    "#cc6b2c",
    "#b9559b",
)
"""The pool or whatever else is background, then one a series; mid-tones, which show on white and on black."""
ON_DARK = (
    "#8f96a0",
    "#6ea3ee",
    "#f0788a",
    "#55c28a",
    "#e0b04c",
    "#b294e6",
    "#4fbfce",
    "#ee9a62",
    "#e48cc8",
)
"""The same where the page is known to be dark."""
POOL, KEPT, DISCARDED = COLOURS[:3]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure.

    :param width: in inches
    :param height: in inches
    :raises ImportError: without matplotlib
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: no global state, no display
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "synthselect[report]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def panels(n: int, width: float, height: float, columns: int = 2) -> tuple[Figure, list[Axes]]:
    """A figure with n panels, row by row, without the box's upper and right side.

    :param n: how many panels
    :param width: of a panel, in inches
    :param height: of a panel, in inches
    :param columns: at most so many in a row
    """
    columns = min(n, columns)
    rows = -(-n // columns)
    figure = new_figure(width * columns, height * rows)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(n)]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
    return figure, axes


def literal(text: str) -> str:
    """Text that matplotlib shows as it is: two dollar signs would begin and end a formula, and an underscore in front hide it from legends."""
    return ("\u200b" if text.startswith("_") else "") + text.replace("$", r"\$")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as the format that the path's suffix names.

    :raises ValueError: when it has no suffix
    """
    if not Path(path).suffix:
        raise ValueError(f"{path}: name the picture's format by a suffix, .png or .svg")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
