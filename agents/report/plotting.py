"""Start and save matplotlib figures, in the colours of the report."""

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
"""Colour of the background, then one per series; mid-tones, which show on white and on black."""
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
"""The same colours for a page that is known to be dark."""
POOL, KEPT, DISCARDED = COLOURS[:3]
SAVED_DPI = 150
"""Dots per inch of saved figures, and of the points inside an SVG."""


def series_colours(n: int) -> list[str]:
    """Return one colour for each of n series.

    Colours repeat when they run out.

    :param n: number of series
    """
    colours = COLOURS[1:]
    return [colours[i % len(colours)] for i in range(n)]


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure.

    :param width: width in inches
    :param height: height in inches
    :raises ImportError: if matplotlib is not installed
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: no global state, no display
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "synthselect[report]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def panels(n: int, width: float, height: float, columns: int = 2) -> tuple[Figure, list[Axes]]:
    """Return a figure with n panels, filled row by row.

    :param n: number of panels
    :param width: width of a panel in inches
    :param height: height of a panel in inches
    :param columns: largest number of panels in a row
    :raises ImportError: if matplotlib is not installed
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
    """Return text in a form that matplotlib shows unchanged.

    Two dollar signs would enclose a formula. A leading underscore would hide a legend entry.
    """
    start = "\u200b" if text.startswith("_") else ""
    return start + text.replace("$", r"\$")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format that the path's suffix names.

    :param figure: figure to write
    :param path: file to write, e.g. ``gap.png`` or ``gap.svg``
    :raises ValueError: if the path has no suffix
    """
    if not Path(path).suffix:
        raise ValueError(f"{path}: name the plot's format by a suffix, .png or .svg")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=SAVED_DPI)
