"""Rendering: the last batch as one image."""

from __future__ import annotations

import numpy as np

from synthselect_env.bank import FeatureBank
from synthselect_env.data import decode
from synthselect_env.data.images import image_grid

KEPT = (40, 160, 60)
"""Frame colour of a kept candidate, RGB."""

DISCARDED = (200, 50, 40)
"""Frame colour of a discarded candidate, RGB."""

UNDECIDED = (128, 128, 128)
"""Frame colour before the decision, RGB."""

FRAME = 2
"""Width of a frame in pixels."""


def framed_candidates(
    bank: FeatureBank,
    batch: np.ndarray,
    kept: np.ndarray | None,
    width: int = 24,
    columns: int = 32,
) -> np.ndarray:
    """Draw candidates in rows, each framed by its decision.

    Frames are green if kept, red if discarded, grey if undecided. Images keep their proportions.
    Without images, frames are filled with a lighter shade.

    :param bank: feature bank
    :param batch: candidate positions (m,)
    :param kept: decisions, bool (m,), or None
    :param width: width of a tile in pixels, frame included
    :param columns: tiles per row
    :return: uint8 (h, w, 3)
    """
    images = bank.candidates.images
    n = len(batch)
    inner_width = width - 2 * FRAME
    inner_height = inner_width
    if images is not None and n:
        first = decode(images[batch[:1]])
        _, image_height, image_width, _ = first.shape
        inner_height = round(inner_width * image_height / image_width)

    # One colour per tile.
    if kept is None:
        colours = np.full((n, 3), UNDECIDED, np.uint8)
    else:
        colours = np.where(kept[:, None], KEPT, DISCARDED).astype(np.uint8)
    colours = colours[:, None, None, :]  # (m, 1, 1, 3)
    height = inner_height + 2 * FRAME
    tiles = np.empty((n, height, width, 3), np.uint8)
    tiles[:] = colours

    # The image, or a lighter shade, inside the frame.
    inside = tiles[:, FRAME:-FRAME, FRAME:-FRAME]
    if images is None:
        inside[:] = 255 - (255 - colours) // 3
    else:
        inside[:] = decode(images[batch], (inner_height, inner_width))
    return image_grid(tiles, columns, gap=0)
