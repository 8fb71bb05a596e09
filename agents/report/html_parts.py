"""Write tables, charts and images as self-contained HTML."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from agents.report.image_rows import ImageRow
from agents.report.plotting import COLOURS, SAVED_DPI
from synthselect_env import Selection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_SIDE = 96
"""Side of a square with as many pixels as an image has at most. PCam's patches stay as they are."""
JPEG_QUALITY = 85
"""Quality of the images, 0 to 100."""
PHONE_WIDTH = 400
"""Width of a phone's screen. Wider charts do not shrink to it but scroll."""
MAX_ZOOM = 1.6
"""Largest enlargement of a chart on a wide screen."""


def html_table(
    rows: Sequence[Sequence[str]], ours: str | None = None, kind: str = "metrics"
) -> str:
    """Return a table that scrolls where the screen is narrow.

    :param rows: heads of the columns, then the rows; a row of empty heads is left out
    :param ours: first cell of the row to set off
    :param kind: CSS class of the table
    """
    heads, *body = rows
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    thead = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    lines = []
    for name, *values in body:
        mark = ' class="ours"' if name == ours else ""
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in values)
        lines.append(f"<tr{mark}><th>{escape(name)}</th>{cells}</tr>")
    tbody = f"<tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide"><table class="{kind}">{thead}{tbody}</table></div>'


def html_figure(figure: Figure, name: str, caption: str) -> str:
    """Return a figure as SVG, with its caption.

    :param figure: figure to show
    :param name: name that is unique in the page
    :param caption: text above the figure
    """
    svg = inline_svg(figure, name, caption)
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """Return a figure as transparent SVG that follows the page's colours.

    Black becomes the text's colour, and :data:`~agents.report.plotting.COLOURS` the page's series.

    :param figure: figure to show
    :param name: name that is unique in the page
    :param label: description for those who do not see the figure
    """
    svg = _drawn_svg(figure, name)

    # Remove metadata, and the style that would hold for the whole page.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)

    # Every figure has a group axes_1: drop the groups' names, and prefix all others.
    svg = re.sub(r'(<g) id="[^"]*"', r"\1", svg)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace("xlink:href", "href")

    # Take font and colours from the page. The font is no wider than that of the layout.
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    svg = svg.replace("stroke: #000000", "stroke: currentColor")
    for i, colour in enumerate(COLOURS):
        svg = svg.replace(f": {colour}", f": var(--series-{i})")

    # At as many pixels as it has points, or a few less, text is still legible.
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    width = float(box[1].split()[2])
    min_width = width if width > PHONE_WIDTH else 0
    size = f"min-width: {min_width:.0f}px; max-width: {MAX_ZOOM * width:.0f}px"
    start = (
        f'<svg class="chart" role="img" aria-label="{escape(label)}" '
        f'viewBox="{box[1]}" style="{size}">'
    )
    svg = re.sub(r"<svg[^>]*>", lambda _: start, svg, count=1)
    return f'<div class="wide">{svg.strip()}</div>'


def _drawn_svg(figure: Figure, name: str) -> str:
    """Return matplotlib's reproducible SVG without its XML header."""
    import matplotlib

    buffer = io.StringIO()
    undated = {"Date": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", dpi=SAVED_DPI, transparent=True, metadata=undated)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def data_uri(image: np.ndarray) -> str:
    """Return an image as a JPEG in a data URI.

    :param image: uint8 (h, w, 3)
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def html_image_rows(rows: Sequence[ImageRow], scored: Selection | None = None) -> str:
    """Return rows of images with their titles.

    Rows without images are left out, unless scores and ids are there to be shown.

    :param rows: rows to show
    :param scored: selection whose scores and ids stand under the images
    """
    parts = []
    for row in rows:
        if row.dataset.images is None and scored is None:
            continue
        images = _row_images(row)
        captions = _row_captions(row, scored)
        items = "".join(f"<li>{image}{caption}</li>" for image, caption in zip(images, captions))
        kind = "images named" if scored else "images"
        parts.append(f'<h3>{escape(row.title)}</h3><ul class="{kind}">{items}</ul>')
    return "".join(parts)


def _row_images(row: ImageRow) -> list[str]:
    """Return an image element per position; empty without images."""
    if row.dataset.images is None or not len(row.positions):
        return [""] * len(row.positions)
    height, width = row.dataset.image_size
    scale = min(1.0, MAX_SIDE / (height * width) ** 0.5)
    size = (max(1, round(scale * height)), max(1, round(scale * width)))
    pixels = row.dataset.subset(row.positions).pixels(size)
    return [f'<img alt="" src="{data_uri(image)}">' for image in pixels]


def _row_captions(row: ImageRow, scored: Selection | None) -> list[str]:
    """Return score and id per position; empty without a selection."""
    if scored is None:
        return [""] * len(row.positions)
    scores = scored.scores[row.positions]
    names = [escape(scored.ids[int(i)]) for i in row.positions]
    return [f"<b>{score:.3g}</b> {name}" for score, name in zip(scores, names)]
