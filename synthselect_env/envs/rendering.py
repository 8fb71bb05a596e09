"""Rendering: the last batch as one image."""

from __future__ import annotations

import numpy as np

from synthselect_env.bank import FeatureBank
from synthselect_env.data import decode
from synthselect_env.data.images import image_grid

KEPT, DISCARDED, UNDECIDED = (40, 160, 60), (200, 50, 40), (128, 128, 128)
"""Frame colours, RGB."""
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
    inner = width - 2 * FRAME
    height = width
    if images is not None and len(batch):
        image_height, image_width = decode(images[batch[:1]]).shape[1:3]
        height = round(inner * image_height / image_width) + 2 * FRAME
    if kept is None:
        colours = np.full((len(batch), 3), UNDECIDED, np.uint8)
    else:
        colours = np.where(kept[:, None], KEPT, DISCARDED).astype(np.uint8)
    # (m, 3) -> (m, height, width, 3), one colour per tile, then the image inside its frame
    tiles = np.repeat(np.repeat(colours[:, None, None, :], height, 1), width, 2)
    rows, cols = slice(FRAME, height - FRAME), slice(FRAME, width - FRAME)
    if images is None:
        tiles[:, rows, cols] = 255 - (255 - colours[:, None, None, :]) // 3
    else:
        tiles[:, rows, cols] = decode(images[batch], (height - 2 * FRAME, inner))
    return image_grid(tiles, columns, gap=0)
