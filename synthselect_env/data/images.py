"""Labelled images: decoded to one uint8 tensor, kept in the encoded form in which they are stored, or rendered when asked for."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image


class LazyImages(ABC):
    """A sequence of images that become pixels on demand."""

    __hash__ = None  # type: ignore[assignment]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: Sequence[int] | np.ndarray | slice) -> LazyImages: ...

    @abstractmethod
    def decode(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """The images' pixels.

        :param size: (height, width) to resize to by area averaging (shrinking) or bicubic interpolation (enlarging);
            None keeps the images' own size, which must then be the same for all
        :return: uint8 (n, h, w, 3)
        :raises ValueError: when a image cannot be decoded, or the sizes differ and no size was asked for
        """

    @abstractmethod
    def update(self, digest: Any) -> None:
        """Feed what the pixels depend on to a ``hashlib`` object."""

    @abstractmethod
    def keys(self) -> list[bytes]:
        """For each image what its pixels depend on, or a digest of it."""


def positions_of(index: Sequence[int] | np.ndarray, n: int) -> np.ndarray:
    """What an index of images means.  int (m,)

    :param index: positions, or a boolean mask
    :param n: number of images
    :raises ValueError: when a mask does not have one entry a image
    """
    index = np.asarray(index)
    if index.dtype != bool:
        return (
            index if index.size else index.astype(np.int64)
        )  # numpy takes an empty list for floats
    if index.shape != (n,):
        raise ValueError(f"a mask of {n} pictures must be bool ({n},), got {index.shape}")
    return np.flatnonzero(index)


class EncodedImages(LazyImages):
    """A sequence of encoded images (WebP, PNG, JPEG, TIFF) that decodes on demand.

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
        return EncodedImages(self.blobs[int(i)] for i in positions_of(index, len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedImages) and self.blobs == other.blobs

    __hash__ = None  # type: ignore[assignment]

    def decode(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Decode all images to RGB."""
        if not self.blobs:
            return np.zeros((0, *(size or (0, 0)), 3), np.uint8)
        pictures = []
        for position, blob in enumerate(self.blobs):
            try:
                with Image.open(io.BytesIO(blob)) as picture:
                    pictures.append(np.asarray(_resize(_to_rgb(picture), size)))
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                raise UndecodableError(position, len(self), error) from error
        if len({p.shape for p in pictures}) > 1:
            sizes = sorted({p.shape[:2] for p in pictures})
            raise ValueError(
                f"pictures differ in size ({sizes[0]} and {sizes[-1]} among others); pass size=(height, width)"
            )
        return np.stack(pictures)

    def update(self, digest: Any) -> None:
        """Feed the encoded bytes."""
        for blob in self.blobs:
            digest.update(len(blob).to_bytes(8, "little") + blob)

    def keys(self) -> list[bytes]:
        """Digests of the encoded bytes."""
        return [hashlib.sha256(blob).digest() for blob in self.blobs]

    @classmethod
    def encode(cls, images: Iterable[np.ndarray], quality: int = 90) -> EncodedImages:
        """Encode images as WebP.

        :param images: uint8 (h, w, 3) each; their sizes may differ
        :param quality: WebP quality, 0 to 100
        """
        blobs = []
        for image in images:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "WEBP", quality=quality, method=6)
            blobs.append(buffer.getvalue())
        return cls(blobs)


Renderer = Callable[..., np.ndarray]
"""Called with positions, int64 (n,), and keyword arguments; answers uint8 (n, h, w, 3), the same for the same image each time."""

RENDERERS: dict[str, Renderer] = {}
"""What can render images, by the name that banks store."""

SIZED = 256
"""Encoded images whose sizes are looked at, evenly spaced."""

DIM = 4096
"""A image of 16 bits that has no value as large is doubted."""

RENDERED_AT_ONCE = 256
"""Images that are rendered before they are resized, which bounds memory."""


class RenderedImages(LazyImages):
    """A sequence of images that are made again whenever they are asked for: a bank stores the recipe, a few bytes a image.

    :param renderer: a key of :data:`RENDERERS`
    :param arguments: its keyword arguments, JSON-able
    :param positions: which images, int (n,)
    :raises ValueError: when there is no such renderer
    """

    def __init__(self, renderer: str, arguments: dict[str, Any], positions: np.ndarray) -> None:
        if renderer not in RENDERERS:
            raise ValueError(
                f"no renderer {renderer!r} in this release; there are {', '.join(RENDERERS)}"
            )
        self.renderer, self.arguments, self.positions = (
            renderer,
            arguments,
            np.asarray(positions, np.int64),
        )

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: Sequence[int] | np.ndarray | slice) -> RenderedImages:
        return RenderedImages(
            self.renderer,
            self.arguments,
            self.positions[index if isinstance(index, slice) else positions_of(index, len(self))],
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RenderedImages):
            return False
        return (self.renderer, self.arguments) == (
            other.renderer,
            other.arguments,
        ) and np.array_equal(self.positions, other.positions)

    __hash__ = None  # type: ignore[assignment]

    def decode(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Render all images."""
        if not len(self):
            return np.zeros((0, *(size or (0, 0)), 3), np.uint8)
        render = RENDERERS[self.renderer]
        starts = range(0, len(self), RENDERED_AT_ONCE)
        return np.concatenate(
            [
                decode(render(self.positions[i : i + RENDERED_AT_ONCE], **self.arguments), size)
                for i in starts
            ]
        )

    def update(self, digest: Any) -> None:
        """Feed the recipe."""
        digest.update(self._recipe + self.positions.tobytes())

    def keys(self) -> list[bytes]:
        """The recipes."""
        recipe = self._recipe
        return [recipe + position.tobytes() for position in self.positions]

    @property
    def _recipe(self) -> bytes:
        return json.dumps([self.renderer, self.arguments], sort_keys=True).encode()


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):  # convert() would clip everything above 255 to white
        values = np.asarray(picture, np.uint16)
        if values.max(initial=0) < DIM:
            warnings.warn(
                f"a picture of 16 bits a pixel has no value above {DIM - 1}, as where a camera gave 12 bits, and is read as nearly black; "
                "rescale such pictures to 8 bits, or to all 16",
                stacklevel=2,
            )
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise OSError(
            f"mode {picture.mode} has no fixed range; save it with 8 or 16 bits a channel"
        )
    if picture.has_transparency_data:  # what lies beneath is usually black; glass is white
        coloured = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert(
            "RGB"
        )
    return picture.convert("RGB")


def _resize(picture: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    if size is None or picture.size == (size[1], size[0]):
        return picture
    shrinking = size[0] <= picture.height and size[1] <= picture.width
    return picture.resize(
        (size[1], size[0]), Image.Resampling.BOX if shrinking else Image.Resampling.BICUBIC
    )


class UndecodableError(ValueError):
    """A image that cannot be decoded.

    :param position: which
    :param n: of how many
    :param why: what the decoder says
    """

    def __init__(self, position: int, n: int, why: Exception) -> None:
        super().__init__(
            f"picture {position} of {n} cannot be decoded ({why}); replace or remove it"
        )
        self.position, self.n, self.why = position, n, why

    def __reduce__(self) -> tuple[type[UndecodableError], tuple[int, int, Exception]]:
        return type(self), (
            self.position,
            self.n,
            self.why,
        )  # it may have to come from another process


def images_digest(images: LazyImages | np.ndarray | None, labels: np.ndarray) -> str:
    """A name for labelled images, to key caches by.

    :param images: lazy images, uint8 (n, h, w, 3), or None
    :param labels: int (n,)
    """
    content = hashlib.sha256(np.asarray(labels, np.int64).tobytes())
    if isinstance(images, LazyImages):
        images.update(content)
    elif images is not None:
        content.update(repr(images.shape).encode() + np.ascontiguousarray(images).tobytes())
    return content.hexdigest()


def image_keys(images: LazyImages | np.ndarray) -> list[bytes]:
    """For each image something that only the same image has.

    :param images: lazy images, or uint8 (n, h, w, 3)
    """
    if isinstance(images, LazyImages):
        return images.keys()
    return [
        hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest() for image in images
    ]


def image_size(images: LazyImages | np.ndarray | None) -> tuple[int, int]:
    """(height, width) of the images, in pixels; the median of up to :data:`SIZED` of them where they may differ.

    :param images: lazy images, uint8 (n, h, w, 3), or None
    :raises ValueError: when there is none, or one of those looked at is no image
    """
    if images is None or not len(images):
        raise ValueError("there are no pictures that could have a size")
    if not isinstance(images, EncodedImages):
        height, width = decode(images[:1]).shape[1:3]
        return height, width
    sizes = []
    for i in np.unique(np.linspace(0, len(images) - 1, SIZED).round().astype(int)):
        try:
            with Image.open(io.BytesIO(images.blobs[i])) as picture:
                sizes.append((picture.height, picture.width))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise UndecodableError(int(i), len(images), error) from error
    height, width = np.median(sizes, axis=0).round().astype(int).tolist()
    return height, width


def decode(images: LazyImages | np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """Images as uint8 (n, h, w, 3), whether they are lazy or an array.

    :param images: lazy images, or uint8 (n, h, w, 3)
    :param size: (height, width), or None for their own
    """
    if isinstance(images, LazyImages):
        return images.decode(size)
    if size is None or images.shape[1:3] == tuple(size):
        return images
    return np.stack([np.asarray(_resize(Image.fromarray(image), size)) for image in images])


class ConcatenatedImages(LazyImages):
    """Images of several sequences, one after the other.

    :param parts: lazy images, or uint8 (n, h, w, 3)
    """

    def __init__(self, parts: Sequence[LazyImages | np.ndarray]) -> None:
        self.parts = tuple(parts)
        self._ends = np.cumsum([0, *map(len, self.parts)])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Sequence[int] | np.ndarray | slice) -> ConcatenatedImages:
        everything = np.arange(len(self))
        positions = everything[
            index if isinstance(index, slice) else positions_of(index, len(self))
        ]
        part = np.searchsorted(self._ends, positions, side="right") - 1
        # Runs of positions in the same part stay together.
        starts = np.flatnonzero(np.diff(part, prepend=-1))
        runs = np.split(positions, starts[1:]) if len(starts) else []
        chosen = [self.parts[p][run - self._ends[p]] for p, run in zip(part[starts], runs)]
        return ConcatenatedImages(chosen)

    def decode(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Decode all images."""
        if not len(self):
            return np.zeros((0, *(size or (0, 0)), 3), np.uint8)
        decoded = []
        for start, part in zip(self._ends, self.parts):
            if not len(part):
                continue
            try:
                decoded.append(decode(part, size))
            except UndecodableError as error:
                position = int(start) + error.position
                raise UndecodableError(position, len(self), error.why) from error
        if len({pixels.shape[1:] for pixels in decoded}) > 1:
            raise ValueError("images differ in size; pass size=(height, width)")
        return np.concatenate(decoded)

    def update(self, digest: Any) -> None:
        """Feed what the images of each part depend on."""
        for part in self.parts:
            digest.update(images_digest(part, np.zeros(0)).encode())

    def keys(self) -> list[bytes]:
        """Return the keys of all images."""
        return [key for part in self.parts for key in image_keys(part)]


def image_grid(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Lay images out in rows on white.

    :param images: uint8 (n, h, w, 3)
    :param columns: images per row
    :param gap: white pixels between images
    :return: uint8 (H, W, 3)
    """
    n, height, width, _ = images.shape
    rows = -(-n // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    sheet = np.full(shape, 255, np.uint8)
    for i, image in enumerate(images):
        top = i // columns * (height + gap)
        left = i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet
