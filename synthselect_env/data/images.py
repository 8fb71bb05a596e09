"""Images that are decoded or rendered when their pixels are asked for."""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from synthselect_env.data.decoding import (
    NARROW,
    NEVER_DEEP_SUFFIXES,
    Size,
    Window,
    decode_image,
    deep_range,
    find_window,
    shown_size,
)

T = TypeVar("T")

Index = Sequence[int] | np.ndarray | slice
"""Positions, a boolean mask, or a slice."""

Renderer = Callable[..., np.ndarray]
"""Function of positions, int64 (n,), and keyword arguments that returns uint8 (n, h, w, 3).

The same position and arguments must give the same image each time.
"""

RENDERERS: dict[str, Renderer] = {}
"""Renderers by the name that banks store."""

MOST_NAMED = 20
"""Images that cannot be decoded and are named in one message."""

CHUNK_SIZE = 256
"""Images rendered before they are resized, which bounds memory."""

THREADED = 64
"""Images that several threads decode ahead, which bounds memory. Fewer are decoded in one thread."""

SIZE_SAMPLE = 256
"""Most encoded images, evenly spaced, whose sizes are read to find the median."""


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
    """Images cannot be decoded.

    :param reasons: position of each such image to the error of its decoder
    :param n: number of images
    """

    def __init__(self, reasons: dict[int, Exception], n: int) -> None:
        self.reasons = reasons
        self.n = n
        super().__init__(self.told([f"image {i} of {n}" for i in range(n)]))

    def told(self, names: Sequence[str]) -> str:
        """Return a message that names the images.

        :param names: name of each of the n images
        """
        told = [f"{names[i]} cannot be decoded ({_reason(why)})" for i, why in self.reasons.items()]
        if len(told) == 1:
            return f"{told[0]}; replace or remove it"
        hidden = len(told) - MOST_NAMED
        listed = "\n  ".join(told[:MOST_NAMED]) + (f"\n  and {hidden} more" if hidden > 0 else "")
        return f"{len(told)} of {self.n} images cannot be read; replace or remove them:\n  {listed}"

    def __reduce__(self) -> tuple[type[UndecodableError], tuple[dict[int, Exception], int]]:
        # Pickled where another process decodes.
        return type(self), (self.reasons, self.n)


def _reason(error: Exception) -> str:
    """Return a decoder's error in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "of a format that is not known, or damaged"
    return " ".join(str(error).split()) or type(error).__name__


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


class Contents(Protocol):
    """Contents of image files, read when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> bytes: ...


class ImageSet:
    """Contents of image files that belong together, and how they are shown.

    Images of more than 8 bits share one window, or they could not be compared.

    :param contents: contents of the files
    :param names: name of each for messages; None for their numbers
    :param window: values of black and white of images of more than 8 bits; None to find them
    :param page: number of the page in files of several
    :param in_files: whether the names are those of files
    """

    def __init__(
        self,
        contents: Contents,
        names: Sequence[str] | None = None,
        window: Window | None = None,
        page: int = 0,
        in_files: bool = True,
    ) -> None:
        self.contents = contents
        self.names = names
        self.page = page
        self.in_files = in_files
        self._given_window = window

    @cached_property
    def window(self) -> Window | None:
        """Values of black and white; None if all images have 8 bits.

        :raises ValueError: if the values have no range that is known
        """
        return self._given_window or self._find_window()

    def decode(self, position: int, size: Size | None) -> np.ndarray:
        """Return one image, uint8 (h, w, 3), resized to (height, width)."""
        image = decode_image(self.contents[position], self.window, self.page)
        return np.asarray(_resize(image, size))

    def _find_window(self) -> Window | None:
        """Look at all images of more than 8 bits, and doubt what looks odd."""
        ranges: dict[int, Window] = {}
        for position in range(len(self.contents)):
            if self.names and self.names[position].lower().endswith(NEVER_DEEP_SUFFIXES):
                continue  # so that large files are read once
            try:
                found = deep_range(self.contents[position], self.page)
            except Exception:  # it is named when it is decoded
                continue
            if found is not None:
                ranges[position] = found
        if not ranges:
            return None
        black, white = window = find_window(ranges.values())
        least = min(low for low, _ in ranges.values())
        largest = max(high for _, high in ranges.values())
        first = next(iter(ranges))
        name = self.names[first] if self.names else f"image {first}"
        told = f"{len(ranges)} images of more than 8 bits (first: {name}) have values from "
        told += f"{least:g} to {largest:g}"
        if (largest - least) * 256 < NARROW * (white - black):
            warnings.warn(
                f"{told}, a small part of {black:g} to {white:g}, as which they are read; give "
                f"the values of black and white, e.g. --window {least:g} {largest:g}",
                stacklevel=2,
            )
        elif 1 < white < 2**16 - 1:
            warnings.warn(
                f"{told} and are read as {black:g} to {white:g}; give other values of black and "
                "white with --window",
                stacklevel=2,
            )
        return window


class EncodedImages(LazyImages):
    """Encoded images (WebP, PNG, JPEG, TIFF, DICOM) that are decoded on demand.

    Encoded images take a fraction of the memory of their pixels, so banks keep them encoded. Those
    of a folder stay in their files until they are asked for.

    .. code-block:: python

        images = EncodedImages.encode(np.zeros((2, 96, 96, 3), np.uint8))
        images[[1]].decode((48, 48)).shape  # (1, 48, 48, 3)

    :param blobs: content of one image file each, or an :class:`ImageSet`
    """

    def __init__(self, blobs: Iterable[bytes] | ImageSet) -> None:
        self._set = blobs if isinstance(blobs, ImageSet) else ImageSet(tuple(blobs))
        self._positions = np.arange(len(self._set.contents))

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """Content of one image file each."""
        return tuple(self.blob(i) for i in range(len(self)))

    def blob(self, position: int) -> bytes:
        """Return the content of one image's file."""
        return self._set.contents[int(self._positions[position])]

    @property
    def files(self) -> tuple[str, ...] | None:
        """Name of each image's file within its directory or archive; None if they have none."""
        names = self._set.names if self._set.in_files else None
        return None if names is None else tuple(names[int(i)] for i in self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: Index) -> EncodedImages:
        part = EncodedImages.__new__(EncodedImages)
        part._set = self._set
        part._positions = self._positions[positions_of(index, len(self))]
        return part

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedImages) and self.blobs == other.blobs

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[EncodedImages], tuple[ImageSet]]:
        # Other processes get these images alone, in the window of all.
        contents = _Chosen(self._set.contents, self._positions)
        names = self._set.names and [self._set.names[int(i)] for i in self._positions]
        shown = self._set
        return EncodedImages, (ImageSet(contents, names, shown.window, shown.page, shown.in_files),)

    def decode(self, size: Size | None = None) -> np.ndarray:
        """Decode all images to RGB."""
        if not len(self):
            return _no_pixels(size)
        decoded: list[np.ndarray] = []
        reasons: dict[int, Exception] = {}
        for position, image in enumerate(self.map(lambda image: image, size)):
            if isinstance(image, Exception):
                reasons[position] = image
            else:
                decoded.append(image)
        if reasons:
            raise UndecodableError(reasons, len(self))
        _refuse_several_sizes(decoded)
        return np.stack(decoded)

    def map(
        self, function: Callable[[np.ndarray], T], size: Size | None = None
    ) -> Iterator[T | Exception]:
        """Yield a function of each image, or the error of its decoder. Threads work ahead.

        :param function: function of an image, uint8 (h, w, 3)
        :param size: (height, width) to resize to before; None for each image's own
        """
        self._set.window  # noqa: B018  (found once, before there are threads)
        positions = [int(i) for i in self._positions]

        def one(position: int) -> T | Exception:
            try:
                image = self._set.decode(position, size)
            except Exception as error:  # whatever a file makes its decoder do
                return error
            return function(image)

        if len(positions) < THREADED:
            yield from map(one, positions)
            return
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(positions), THREADED):
                yield from pool.map(one, positions[start : start + THREADED])

    def size_of(self, position: int) -> Size:
        """Return (height, width) of one image in pixels, without decoding it.

        :raises UndecodableError: if it is no image
        """
        try:
            content = self._set.contents[int(self._positions[position])]
            return shown_size(content, self._set.page)
        except Exception as error:
            raise UndecodableError({position: error}, len(self)) from error

    def update(self, digest: Any) -> None:
        """Feed the encoded bytes to a ``hashlib`` object."""
        for position in self._positions:
            content = self._set.contents[int(position)]
            length = len(content).to_bytes(8, "little")
            digest.update(length + content)
        digest.update(self._shown)

    def keys(self) -> list[bytes]:
        """Return digests of the encoded bytes."""
        contents = (self._set.contents[int(i)] for i in self._positions)
        return [hashlib.sha256(content + self._shown).digest() for content in contents]

    @property
    def _shown(self) -> bytes:
        """Bytes of the window and page, on which the pixels depend, too."""
        window, page = self._set.window, self._set.page
        return b"" if window is None and not page else repr((window, page)).encode()

    @classmethod
    def encode(cls, images: Iterable[np.ndarray], quality: int = 90) -> EncodedImages:
        """Encode images as WebP.

        :param images: uint8 (h, w, 3) each; their sizes may differ
        :param quality: WebP quality, 0 to 100
        """
        return cls(encode_webp(image, quality) for image in images)


class _Chosen:
    """Some of the contents of files."""

    def __init__(self, contents: Contents, positions: np.ndarray) -> None:
        self.contents: Contents | tuple[bytes, ...] = contents
        self.positions = positions
        if isinstance(contents, tuple):
            self.contents = tuple(contents[int(i)] for i in positions)
            self.positions = np.arange(len(positions))

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> bytes:
        return self.contents[int(self.positions[position])]


def encode_webp(image: np.ndarray, quality: int) -> bytes:
    """Return an image as the content of a WebP file.

    :param image: uint8 (h, w, 3)
    :param quality: WebP quality, 0 to 100
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()


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
                reasons = {int(start) + i: why for i, why in error.reasons.items()}
                raise UndecodableError(reasons, len(self)) from error
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


def shrunk_size(height: int, width: int, short_side: int) -> Size:
    """Return the size at which the short side has at most so many pixels.

    :param height: height in pixels
    :param width: width in pixels
    :param short_side: most pixels on the short side. Smaller images stay as they are
    """
    scale = min(1.0, short_side / min(height, width))
    return round(height * scale), round(width * scale)


def resized(image: np.ndarray, size: Size) -> np.ndarray:
    """Return an image at another size, by area averaging where it shrinks.

    :param image: uint8 (h, w, 3)
    :param size: (height, width) in pixels
    """
    return np.asarray(_resize(Image.fromarray(image), size))


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


def _resize(image: Image.Image, size: Size | None) -> Image.Image:
    if size is None or image.size == (size[1], size[0]):
        return image
    height, width = size
    shrinking = height <= image.height and width <= image.width
    method = Image.Resampling.BOX if shrinking else Image.Resampling.BICUBIC
    return image.resize((width, height), method)
