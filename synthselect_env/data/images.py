"""Labelled pictures in memory: decoded to one uint8 tensor, or kept in the encoded form in which they are stored."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image


class EncodedImages:
    """A sequence of encoded pictures (WebP, PNG, JPEG, TIFF) that decodes on demand.

    Ten thousand 96×96 patches are about 50 MB encoded and 280 MB decoded, which is why banks keep them encoded.

    :param blobs: one encoded file each
    """

    def __init__(self, blobs: Iterable[bytes]) -> None:
        self.blobs: tuple[bytes, ...] = tuple(blobs)

    def __len__(self) -> int:
        return len(self.blobs)

    def __getitem__(self, index: Sequence[int] | np.ndarray | slice) -> EncodedImages:
        if isinstance(index, slice):
            return EncodedImages(self.blobs[index])
        index = np.asarray(index)
        positions = np.flatnonzero(index) if index.dtype == bool else index
        return EncodedImages(self.blobs[int(i)] for i in positions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedImages) and self.blobs == other.blobs

    __hash__ = None  # type: ignore[assignment]

    def decode(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Decode all pictures to RGB.

        :param size: (height, width) to resize to by area averaging (shrinking) or bicubic interpolation (enlarging);
            None keeps the pictures' own size, which must then be the same for all
        :return: uint8 (n, h, w, 3)
        :raises ValueError: when a picture cannot be decoded, or the sizes differ and no size was asked for
        """
        if not self.blobs:
            return np.zeros((0, *(size or (0, 0)), 3), np.uint8)
        pictures = []
        for position, blob in enumerate(self.blobs):
            try:
                with Image.open(io.BytesIO(blob)) as picture:
                    pictures.append(np.asarray(_resize(_to_rgb(picture), size)))
            except (OSError, SyntaxError) as error:
                raise ValueError(f"picture {position} of {len(self)} cannot be decoded ({error}); replace or remove it") from error
        if len({p.shape for p in pictures}) > 1:
            sizes = sorted({p.shape[:2] for p in pictures})
            raise ValueError(f"pictures differ in size ({sizes[0]} and {sizes[-1]} among others); pass size=(height, width)")
        return np.stack(pictures)

    @classmethod
    def encode(cls, images: np.ndarray, quality: int = 90) -> EncodedImages:
        """Encode pictures as WebP.

        :param images: uint8 (n, h, w, 3)
        :param quality: WebP quality, 0 to 100
        """
        blobs = []
        for image in images:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "WEBP", quality=quality, method=6)
            blobs.append(buffer.getvalue())
        return cls(blobs)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):  # convert() would clip everything above 255 to white
        return Image.fromarray((np.asarray(picture, np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise OSError(f"mode {picture.mode} has no fixed range; save it with 8 or 16 bits a channel")
    return picture.convert("RGB")


def _resize(picture: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    if size is None or picture.size == (size[1], size[0]):
        return picture
    shrinking = size[0] <= picture.height and size[1] <= picture.width
    return picture.resize((size[1], size[0]), Image.Resampling.BOX if shrinking else Image.Resampling.BICUBIC)


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Pictures with their classes, as a reader returns them.

    :param images: encoded pictures, or uint8 (n, h, w, 3)
    :param labels: int64 (n,), positions in ``classes``
    :param ids: one name a picture, unique
    :param classes: class names
    """

    images: EncodedImages | np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """The pictures decoded.

        :param size: (height, width), or None for their own
        :return: uint8 (n, h, w, 3)
        """
        return decode(self.images, size)

    def subset(self, index: np.ndarray) -> LabelledImages:
        """The pictures at ``index`` (positions or a boolean mask), in that order."""
        positions = np.flatnonzero(index) if index.dtype == bool else index
        ids = tuple(self.ids[int(i)] for i in positions)
        return LabelledImages(self.images[positions], self.labels[positions], ids, self.classes)


def decode(images: EncodedImages | np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """Pictures as uint8 (n, h, w, 3), whether they came encoded or as an array.

    :param images: encoded pictures, or uint8 (n, h, w, 3)
    :param size: (height, width), or None for their own
    """
    if isinstance(images, EncodedImages):
        return images.decode(size)
    if size is None or images.shape[1:3] == tuple(size):
        return images
    return np.stack([np.asarray(_resize(Image.fromarray(image), size)) for image in images])
