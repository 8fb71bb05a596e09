"""Prepare images for a bank: give each a split, shrink and encode it once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from synthselect_env.data.dataset import Dataset
from synthselect_env.data.folders import FoundImages
from synthselect_env.data.images import (
    EncodedImages,
    LazyImages,
    UndecodableError,
    encode_webp,
    resized,
    shrunk_size,
)
from synthselect_env.data.splitting import split_by_group

SHARES = {"train": 0.6, "valid": 0.2, "test": 0.2}
"""Shares of the real images where they come without splits."""

QUALITY = 80
"""WebP quality of all images, so that it tells no candidate from a real image."""

SHORT_SIDE = 128
"""Pixels on the short side to which images are shrunk."""


def split_real(found: FoundImages, seed: int) -> tuple[dict[str, Dataset], list[str]]:
    """Return real images as train, valid and test, and notes on what was split here.

    Splits that are missing are taken from the train split, by patient where patients are known.

    :param found: real images, with all splits, some, or none
    :param seed: random seed of the split
    :raises ValueError: if there is no train split, or there are too few patients
    """
    notes: list[str] = []
    splits = {str(name): data for name, data in found.datasets.items() if name is not None}
    without = found.datasets.get(None)
    if without is not None and not splits:
        splits = {"train": without}
    elif without is not None:
        notes.append(f"{len(without)} images that are in no split are left out")
    others = sorted(set(splits) - set(SHARES))
    if others:
        raise ValueError(
            f"{found.path}: there are splits {', '.join(others)}; call them train, valid and test, "
            "or move them away"
        )
    if "train" not in splits:
        raise ValueError(f"{found.path}: there is no train split, only {', '.join(splits)}")
    missing = [name for name in ("valid", "test") if name not in splits]
    if not missing:
        return {name: splits[name] for name in SHARES}, notes
    train = splits["train"]
    total = SHARES["train"] + sum(SHARES[name] for name in missing)
    shares = {name: SHARES[name] / total for name in ("train", *missing)}
    try:
        parts = split_by_group(train.groups, train.labels, shares, seed)
    except ValueError as error:
        raise ValueError(f"{found.path}: {error}; put the images into splits yourself") from error
    splits |= {name: train.subset(positions) for name, positions in parts.items()}
    by = "by patient" if train.groups else "at random, as no patients are known"
    sizes = ", ".join(f"{name} {len(splits[name]):,}" for name in shares)
    return {name: splits[name] for name in SHARES}, [*notes, f"split {by}: {sizes}"]


def encode_images(
    dataset: Dataset,
    short_side: int | None = SHORT_SIDE,
    skip_unreadable: bool = False,
    on_image: Callable[[], object] | None = None,
) -> tuple[Dataset, list[str]]:
    """Return a dataset with its images shrunk and encoded as WebP, and those left out.

    Each image is read and decoded once, and only a few are in memory at a time.

    :param dataset: dataset with images
    :param short_side: most pixels on the short side; None to keep all
    :param skip_unreadable: whether images that cannot be read are left out, and not an error
    :param on_image: function that is called after each image
    :return: dataset, and a line on each image that was left out
    :raises ValueError: if images cannot be read; the message names all of them
    """
    reasons: dict[int, Exception] = {}
    blobs: list[bytes] = []

    def encode(image: np.ndarray) -> bytes:
        return encode_webp(_shrunk(image, short_side), QUALITY)

    for position, blob in enumerate(_map(dataset.images, encode)):
        if isinstance(blob, Exception):
            reasons[position] = blob
        else:
            blobs.append(blob)
        if on_image:
            on_image()
    encoded = EncodedImages(blobs)
    if not reasons:
        return replace(dataset, images=encoded), []
    names = dataset.ids or [f"image {i}" for i in range(len(dataset))]
    if not skip_unreadable:
        raise ValueError(UndecodableError(reasons, len(dataset)).told(names))
    kept = np.setdiff1d(np.arange(len(dataset)), list(reasons))
    left_out = [UndecodableError({i: why}, len(dataset)).told(names) for i, why in reasons.items()]
    return replace(replace(dataset, images=None).subset(kept), images=encoded), left_out


def _map(
    images: LazyImages | np.ndarray | None, function: Callable[[np.ndarray], bytes]
) -> Iterator[bytes | Exception]:
    """Yield a function of each image, or the error of its decoder."""
    if isinstance(images, EncodedImages):
        yield from images.map(function)
        return
    for position in range(0 if images is None else len(images)):
        part = images[position : position + 1]  # type: ignore[index]
        yield function(part.decode()[0] if isinstance(part, LazyImages) else part[0])


def _shrunk(image: np.ndarray, short_side: int | None) -> np.ndarray:
    if short_side is None:
        return image
    height, width = image.shape[:2]
    return resized(image, shrunk_size(height, width, short_side))
