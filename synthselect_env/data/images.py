"""Images that are decoded or rendered when their pixels are asked for."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

Index = Sequence[int] | np.ndarray | slice
"""Positions, a boolean mask, or a slice."""

Size = tuple[int, int]
"""Height and width in pixels."""

Renderer = Callable[..., np.ndarray]
"""Function of positions, int64 (n,), and keyword arguments that returns uint8 (n, h, w, 3).

The same position and arguments must give the same image each time.
"""

RENDERERS: dict[str, Renderer] = {}
"""Renderers by the name that banks store."""

CHUNK_SIZE = 256
"""Images rendered before they are resized, which bounds memory."""

SIZE_SAMPLE = 256
"""Most encoded images, evenly spaced, whose sizes are read to find the median."""

DARK_16_BIT = 4096
"""Value that a 16-bit image should reach. One that does not may hold 12 bits."""

DECODER_ERRORS = (OSError, SyntaxError, Image.DecompressionBombError)
"""Exceptions that Pillow raises for files that it cannot decode."""


class LazyImages(ABC):
    """A sequence of images that become pixels on demand."""

    __hash__ = None  # type: ignore[assignment]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: Index) -> LazyImages: ...

    @abstractmethod
    def decode(self, size: Size | None = None) -> np.ndarray:
        """Return the images' pixels.

        :param size: (height, width) to resize to, by area averaging (shrinking) or bicubic
            interpolation (enlarging). None keeps the images' own size, which must be one for all
        :return: uint8 (n, h, w, 3)
        :raises ValueError: if an image cannot be decoded, or sizes differ and no size is given
        """

    @abstractmethod
    def update(self, digest: Any) -> None:
        """Feed what the pixels depend on to a ``hashlib`` object."""

    @abstractmethod
    def keys(self) -> list[bytes]:
        """Return one key per image: what its pixels depend on."""


Images = LazyImages | np.ndarray
"""Lazy images, or their pixels, uint8 (n, h, w, 3)."""


class UndecodableError(ValueError):
    """An image cannot be decoded.

    :param position: position of the image
    :param n: number of images
    :param why: error of the decoder
    """

    def __init__(self, position: int, n: int, why: Exception) -> None:
        super().__init__(f"image {position} of {n} cannot be decoded ({why}); replace or remove it")
        self.position = position
        self.n = n
        self.why = why

    def __reduce__(self) -> tuple[type[UndecodableError], tuple[int, int, Exception]]:
        # Pickled where another process decodes.
        return type(self), (self.position, self.n, self.why)


def positions_of(index: Index, n: int) -> np.ndarray:
    """Return the positions that an index of images stands for.  int (m,)

    :param index: positions, a boolean mask, or a slice
    :param n: number of images
    :raises ValueError: if a mask does not have one entry per image
    """
    if isinstance(index, slice):
        return np.arange(n)[index]
    index = np.asarray(index)
    if index.dtype == bool:
        if index.shape != (n,):
            raise ValueError(f"a mask of {n} images must be bool ({n},), got {index.shape}")
        return np.flatnonzero(index)
    # numpy takes an empty list for floats.
    return index if index.size else index.astype(np.int64)


class EncodedImages(LazyImages):
    """Encoded images (WebP, PNG, JPEG, TIFF) that are decoded on demand.

    Encoded images take a fraction of the memory of their pixels, so banks keep them encoded.

    .. code-block:: python

        images = EncodedImages.encode(np.zeros((2, 96, 96, 3), np.uint8))
        images[[1]].decode((48, 48)).shape  # (1, 48, 48, 3)

    :param blobs: content of one image file each
    """

    def __init__(self, blobs: Iterable[bytes]) -> None:
        self.blobs: tuple[bytes, ...] = tuple(blobs)

    def __len__(self) -> int:
        return len(self.blobs)

    def __getitem__(self, index: Index) -> EncodedImages:
        positions = positions_of(index, len(self))
        return EncodedImages(self.blobs[int(i)] for i in positions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedImages) and self.blobs == other.blobs

    __hash__ = None  # type: ignore[assignment]

    def decode(self, size: Size | None = None) -> np.ndarray:
        """Decode all images to RGB."""
        if not self.blobs:
            return _no_pixels(size)
        decoded = []
        for position in range(len(self)):
            with self._opened(position) as image:
                resized = _resize(_to_rgb(image), size)
                decoded.append(np.asarray(resized))
        _refuse_several_sizes(decoded)
        return np.stack(decoded)

    def size_of(self, position: int) -> Size:
        """Return (height, width) of one image in pixels, without decoding it.

        :raises UndecodableError: if it is no image
        """
        with self._opened(position) as image:
            return image.height, image.width

    def update(self, digest: Any) -> None:
        """Feed the encoded bytes to a ``hashlib`` object."""
        for blob in self.blobs:
            length = len(blob).to_bytes(8, "little")
            digest.update(length + blob)

    def keys(self) -> list[bytes]:
        """Return digests of the encoded bytes."""
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

    @contextmanager
    def _opened(self, position: int) -> Iterator[Image.Image]:
        try:
            with Image.open(io.BytesIO(self.blobs[position])) as image:
                yield image
        except DECODER_ERRORS as error:
            raise UndecodableError(position, len(self), error) from error


class RenderedImages(LazyImages):
    """Images that are rendered again whenever they are asked for.

    A bank stores the recipe: the renderer's name, its arguments, and one position per image.

    .. code-block:: python

        images = cervical_phantom()["valid"].images
        images[[0, 5]].decode((64, 32)).shape  # (2, 64, 32, 3)

    :param renderer: a key of :data:`RENDERERS`
    :param arguments: keyword arguments of the renderer, JSON-able
    :param positions: positions of the images, int (n,)
    :raises ValueError: if there is no such renderer
    """

    def __init__(
        self,
        renderer: str,
        arguments: dict[str, Any],
        positions: np.ndarray,
    ) -> None:
        if renderer not in RENDERERS:
            raise ValueError(
                f"no renderer {renderer!r} in this release; there are {', '.join(RENDERERS)}"
            )
        self.renderer = renderer
        self.arguments = arguments
        self.positions = np.asarray(positions, np.int64)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: Index) -> RenderedImages:
        chosen = self.positions[positions_of(index, len(self))]
        return RenderedImages(self.renderer, self.arguments, chosen)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, RenderedImages)
            and self.renderer == other.renderer
            and self.arguments == other.arguments
            and np.array_equal(self.positions, other.positions)
        )

    __hash__ = None  # type: ignore[assignment]

    def decode(self, size: Size | None = None) -> np.ndarray:
        """Render all images."""
        if not len(self):
            return _no_pixels(size)
        render = RENDERERS[self.renderer]
        parts = []
        for start in range(0, len(self), CHUNK_SIZE):
            positions = self.positions[start : start + CHUNK_SIZE]
            rendered = render(positions, **self.arguments)
            parts.append(decode(rendered, size))
        return np.concatenate(parts)

    def update(self, digest: Any) -> None:
        """Feed the recipe to a ``hashlib`` object."""
        digest.update(self._recipe + self.positions.tobytes())

    def keys(self) -> list[bytes]:
        """Return the recipe of each image."""
        recipe = self._recipe
        return [recipe + position.tobytes() for position in self.positions]

    @property
    def _recipe(self) -> bytes:
        recipe = [self.renderer, self.arguments]
        return json.dumps(recipe, sort_keys=True).encode()


class ConcatenatedImages(LazyImages):
    """Images of several sequences, one after the other.

    :param parts: lazy images, or uint8 (n, h, w, 3)
    """

    def __init__(self, parts: Sequence[Images]) -> None:
        self.parts = tuple(parts)
        lengths = [len(part) for part in self.parts]
        self._ends = np.cumsum([0, *lengths])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Index) -> ConcatenatedImages:
        chosen = positions_of(index, len(self))
        positions = np.arange(len(self))[chosen]
        part_of = np.searchsorted(self._ends, positions, side="right") - 1
        # Runs of positions in the same part stay together.
        starts = np.flatnonzero(np.diff(part_of, prepend=-1))
        runs = np.split(positions, starts[1:])
        parts = []
        for run_part, run in zip(part_of[starts], runs):
            within = run - self._ends[run_part]
            parts.append(self.parts[run_part][within])
        return ConcatenatedImages(parts)

    def decode(self, size: Size | None = None) -> np.ndarray:
        """Decode all images."""
        if not len(self):
            return _no_pixels(size)
        decoded = []
        for start, part in zip(self._ends, self.parts):
            if not len(part):
                continue
            try:
                decoded.append(decode(part, size))
            except UndecodableError as error:
                position = int(start) + error.position
                raise UndecodableError(position, len(self), error.why) from error
        _refuse_several_sizes(decoded)
        return np.concatenate(decoded)

    def update(self, digest: Any) -> None:
        """Feed the digest of each part to a ``hashlib`` object."""
        no_labels = np.zeros(0)
        for part in self.parts:
            part_digest = images_digest(part, no_labels)
            digest.update(part_digest.encode())

    def keys(self) -> list[bytes]:
        """Return the keys of all images."""
        return [key for part in self.parts for key in image_keys(part)]


def decode(images: Images, size: Size | None = None) -> np.ndarray:
    """Return the pixels of lazy images or of an array.

    :param images: lazy images, or uint8 (n, h, w, 3)
    :param size: (height, width) in pixels, or None for the images' own size
    """
    if isinstance(images, LazyImages):
        return images.decode(size)
    if size is None or images.shape[1:3] == tuple(size):
        return images
    resized = [_resize(Image.fromarray(image), size) for image in images]
    return np.stack([np.asarray(image) for image in resized])


def images_digest(images: Images | None, labels: np.ndarray) -> str:
    """Return a SHA-256 digest of labelled images, for cache keys.

    :param images: lazy images, uint8 (n, h, w, 3), or None
    :param labels: int (n,)
    """
    labels = np.asarray(labels, np.int64)
    content = hashlib.sha256(labels.tobytes())
    if isinstance(images, LazyImages):
        images.update(content)
    elif images is not None:
        content.update(_array_bytes(images))
    return content.hexdigest()


def image_keys(images: Images) -> list[bytes]:
    """Return one key per image. Different images have different keys.

    :param images: lazy images, or uint8 (n, h, w, 3)
    """
    if isinstance(images, LazyImages):
        return images.keys()
    return [hashlib.sha256(_array_bytes(image)).digest() for image in images]


def _array_bytes(array: np.ndarray) -> bytes:
    """Return shape and content of an array, for digests."""
    return repr(array.shape).encode() + array.tobytes()


def image_size(images: Images | None) -> Size:
    """Return (height, width) of images in pixels.

    The sizes of encoded images may differ. The median of up to :data:`SIZE_SAMPLE` is returned.

    :param images: lazy images, uint8 (n, h, w, 3), or None
    :raises ValueError: if there are no images, or one that is looked at is no image
    """
    if images is None or not len(images):
        raise ValueError("there are no images that could have a size")
    if not isinstance(images, EncodedImages):
        height, width = decode(images[:1]).shape[1:3]
        return height, width
    spaced = np.linspace(0, len(images) - 1, SIZE_SAMPLE)
    positions = np.unique(spaced.round().astype(int))
    sizes = [images.size_of(int(i)) for i in positions]
    height, width = np.median(sizes, axis=0).round()
    return int(height), int(width)


def image_grid(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Lay images out in rows on white.

    :param images: uint8 (n, h, w, 3)
    :param columns: images per row
    :param gap: white pixels between images
    :return: uint8 (H, W, 3)
    """
    n, height, width, _ = images.shape
    rows = -(-n // columns)
    row_step = height + gap
    column_step = width + gap
    shape = (rows * row_step - gap, columns * column_step - gap, 3)
    sheet = np.full(shape, 255, np.uint8)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        top = row * row_step
        left = column * column_step
        sheet[top : top + height, left : left + width] = image
    return sheet


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Return grey levels cut off at 0 and 255, as pixels.  (…,) -> uint8 (…,)"""
    return np.clip(values, 0, 255).astype(np.uint8)


def _no_pixels(size: Size | None) -> np.ndarray:
    height, width = size or (0, 0)
    return np.zeros((0, height, width, 3), np.uint8)


def _refuse_several_sizes(decoded: Sequence[np.ndarray]) -> None:
    sizes = sorted({pixels.shape[-3:-1] for pixels in decoded})  # (..., h, w, 3) -> (h, w)
    if len(sizes) > 1:
        raise ValueError(
            f"images differ in size ({sizes[0]} and {sizes[-1]} among others); "
            "pass size=(height, width)"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _high_bytes(image).convert("RGB")
    if image.mode in ("I", "F"):
        raise OSError(f"mode {image.mode} has no fixed range; save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        # Below transparent pixels lies black, as a rule. Glass is white.
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _high_bytes(image: Image.Image) -> Image.Image:
    """Return the upper 8 of 16 bits. Pillow's own conversion clips all above 255 to white."""
    values = np.asarray(image, np.uint16)
    if values.max(initial=0) < DARK_16_BIT:
        warnings.warn(
            f"a 16-bit image has no value above {DARK_16_BIT - 1}, as from a camera of 12 bits, "
            "and is read as nearly black; rescale such images to 8 bits, or to all 16",
            stacklevel=3,
        )
    return Image.fromarray((values >> 8).astype(np.uint8))


def _resize(image: Image.Image, size: Size | None) -> Image.Image:
    if size is None or image.size == (size[1], size[0]):
        return image
    height, width = size
    shrinking = height <= image.height and width <= image.width
    method = Image.Resampling.BOX if shrinking else Image.Resampling.BICUBIC
    return image.resize((width, height), method)
