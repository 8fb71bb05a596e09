"""Find images that are changed copies of others: flipped, turned, cropped, brightened.

Such a copy of a test image among the candidates makes every score too good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from synthselect_env.data.dataset import Dataset
from synthselect_env.data.images import Images, decode

THRESHOLD = 0.95
"""Least correlation of a copy with its original, once they are aligned; see
benchmarks/results/near_copies.md."""

COARSE, FINE = 16, 48
"""Pixels per side at which originals are looked up, and at which one is compared."""

LIKELY = 0.6
"""Correlation of thumbnails from which a pair is aligned and compared."""

COARSE_SCALES = (1.0, 0.9, 0.8)
"""Sizes of the crops that are looked up, as shares of the side."""

ENLARGED = range(FINE, 62)
"""Pixels per side of the original when a copy is laid over it; the copy has :data:`FINE`."""

CHUNK_SIZE = 2048
"""Images looked up at once, which bounds memory."""


@dataclass(frozen=True)
class NearCopy:
    """An image, and the one that it is a copy of.

    :param copy: position of the copy
    :param original: position of the original
    :param correlation: correlation of their grey levels, once they are aligned
    """

    copy: int
    original: int
    correlation: float


@dataclass(frozen=True)
class Leak:
    """An image that is added or trained on, and the scored image that it is a copy of.

    :param pool: split of the copy: "train" or "candidates"
    :param copy: position of the copy in its split
    :param split: split of the original: "valid" or "test"
    :param original: position of the original in its split
    """

    pool: str
    copy: int
    split: str
    original: int


POOLS, SCORED = ("train", "candidates"), ("valid", "test")
"""Splits whose images may be copies, and splits whose images make scores."""


def find_leaks(
    datasets: Mapping[str, Dataset], on_chunk: Callable[[int], object] | None = None
) -> list[Leak]:
    """Return the train images and candidates that are changed copies of scored images.

    :param datasets: datasets with images by split; all of :data:`POOLS` and :data:`SCORED`
    :param on_chunk: function that is called with the number of images done
    :raises ValueError: if a dataset has no images
    """
    without = [name for name in (*POOLS, *SCORED) if datasets[name].images is None]
    if without:
        raise ValueError(f"{', '.join(without)} have features only; copies are found by images")
    originals = Dataset.concatenate([datasets[name] for name in SCORED])
    places = [(name, i) for name in SCORED for i in range(len(datasets[name]))]
    leaks = []
    for name in POOLS:
        images = datasets[name].images
        assert images is not None and originals.images is not None
        for pair in find_near_copies(images, originals.images, on_chunk):
            leaks.append(Leak(name, pair.copy, *places[pair.original]))
    return leaks


@torch.no_grad()
def find_near_copies(
    images: Images, originals: Images, on_chunk: Callable[[int], object] | None = None
) -> list[NearCopy]:
    """Return the images that are copies of originals, the surest first.

    Each image's likeliest original is looked up among small thumbnails of all flips, quarter turns
    and a few crops. That pair is then aligned and compared.

    .. code-block:: python

        copies = find_near_copies(bank.candidates.images, bank.test.images)

    :param images: n images that may be copies
    :param originals: m images that may be originals
    :param on_chunk: function that is called with the number of images done
    """
    if not len(images) or not len(originals):
        return []
    sources = _grey(originals)  # (m, 48, 48)
    found = []
    for start in range(0, len(images), CHUNK_SIZE):
        chunk = _grey(images[start : start + CHUNK_SIZE])
        position, turn, correlations = _look_up(chunk, sources)
        for i in torch.nonzero(correlations >= LIKELY).flatten().tolist():
            image, original = chunk[i], int(position[i])
            correlation = _aligned(image, _turned(sources[original], int(turn[i])))
            if correlation >= THRESHOLD:
                found.append(NearCopy(start + i, original, correlation))
        if on_chunk:
            on_chunk(len(chunk))
    return sorted(found, key=lambda pair: -pair.correlation)


def _grey(images: Images) -> torch.Tensor:
    """Return blurred grey levels at the fine size, so that a fraction of a pixel matters little.

    :return: (n, 48, 48)
    """
    pixels = torch.from_numpy(np.ascontiguousarray(decode(images, (FINE, FINE))))
    grey = pixels.float().mean(-1)
    return F.avg_pool2d(grey[:, None], 3, 1, 1, count_include_pad=False)[:, 0]


def _turned(images: torch.Tensor, turn: int) -> torch.Tensor:
    """Return images in one of the eight flips and quarter turns.  (…, h, w)"""
    rotated = torch.rot90(images, turn % 4, (-2, -1))
    return rotated.flip(-1) if turn >= 4 else rotated


def _unit(values: torch.Tensor) -> torch.Tensor:
    """Return rows of mean zero and length one.  (…, d)"""
    centred = values - values.mean(-1, keepdim=True)
    return centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-6)


def _thumbnails(images: torch.Tensor) -> torch.Tensor:
    """Return thumbnails of grey images as unit rows.  (n, h, w) -> (n, 256)"""
    return _unit(F.adaptive_avg_pool2d(images[:, None], COARSE).flatten(1))


def _look_up(
    images: torch.Tensor, sources: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return each image's likeliest original, the turn in which it was found, and how alike they are.

    :param images: (n, 48, 48)
    :param sources: (m, 48, 48)
    :return: positions, turns and correlations (n,)
    """
    wanted = _thumbnails(images)
    best = torch.full((len(images),), -1.0)
    position = torch.zeros(len(images), dtype=torch.long)
    turns = torch.zeros(len(images), dtype=torch.long)
    for scale in COARSE_SCALES:
        side = round(FINE * scale)
        offsets = sorted({0, (FINE - side) // 2, FINE - side})
        for turn in range(8):
            turned = _turned(sources, turn)
            for top in offsets:
                for left in offsets:
                    crop = turned[:, top : top + side, left : left + side]
                    correlation, where = (wanted @ _thumbnails(crop).T).max(1)
                    better = correlation > best
                    best = torch.where(better, correlation, best)
                    position = torch.where(better, where, position)
                    turns = torch.where(better, torch.tensor(turn), turns)
    return position, turns, best


def _aligned(image: torch.Tensor, source: torch.Tensor) -> float:
    """Return the largest correlation of an image with a crop of its source.

    :param image: (48, 48)
    :param source: (48, 48)
    """
    best, wanted = -1.0, _unit(image.flatten())
    for side in ENLARGED:
        enlarged = F.interpolate(
            source[None, None], (side, side), mode="bilinear", align_corners=False
        )
        crops = F.unfold(enlarged, FINE)[0].T  # (places, 48 · 48)
        best = max(best, float((_unit(crops) @ wanted).max()))
    return best
