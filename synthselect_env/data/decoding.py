"""Decode one image file to RGB, as it is meant to be seen."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

Size = tuple[int, int]
"""Height and width in pixels."""

Window = tuple[float, float]
"""Values that are shown as black and as white."""

BIT_DEPTHS = (8, 10, 12, 14, 16, 24, 32)
"""Bits that cameras and scanners use."""

MOST_TEXT = 64 * 2**20
"""Bytes of text or of a colour profile in a PNG file. Pillow's own limit refuses sound files."""

PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, MOST_TEXT)

ORIENTATION = 0x0112
"""EXIF tag of how an image is to be turned."""

WHITE_IS_ZERO, PHOTOMETRIC = 0, 262
"""Tag of a TIFF file and its value where large numbers are dark."""

LOW_BYTE = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGB;16N": "RGB;16B"}
"""Pillow's name of 16-bit colour, of which it keeps the high byte, to the one that keeps the low."""

NEVER_DEEP = (b"RIFF", b"\xff\xd8", b"GIF8", b"BM")
"""First bytes of formats that have 8 bits per channel."""

NEVER_DEEP_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif")
"""Suffixes of their files."""

NARROW = 64
"""Grey levels that a set of images should use at least."""


def decode_image(content: bytes, window: Window | None = None, page: int = 0) -> Image.Image:
    """Return an image file as RGB, turned as its EXIF orientation says.

    What is transparent is white, like glass. A transparency of all pixels is ignored, as programs
    that know none write it.

    :param content: content of the file
    :param window: values of black and white, for images of more than 8 bits; None to find them
    :param page: number of the page in a file of several
    :raises Exception: whatever the decoder raises
    """
    if _is_dicom(content):
        return Image.fromarray(_decode_dicom(content, window, page)).convert("RGB")
    with _opened(content, page) as image:
        if _is_deep(image):
            inverted = _white_is_zero(image)
            values = _deep_values(image, content, page)
            shown = apply_window(values, window or find_window([values_range(values)]))
            if inverted:
                shown = 255 - shown
            # Known only now, as Pillow loads a PNG for it, and TIFF files are turned when loaded.
            orientation = 1 if image.format == "TIFF" else image.getexif().get(ORIENTATION, 1)
            turned = Image.fromarray(shown)
            turned.getexif()[ORIENTATION] = orientation
            return ImageOps.exif_transpose(turned).convert("RGB")
        image = ImageOps.exif_transpose(image)
        return _on_white(image) if image.has_transparency_data else image.convert("RGB")


def shown_size(content: bytes, page: int = 0) -> Size:
    """Return (height, width) of an image file as it is shown.

    :param content: content of the file
    :param page: number of the page in a file of several
    """
    if _is_dicom(content):
        height, width = _decode_dicom(content, None, page).shape[:2]
        return height, width
    with _opened(content, page) as image:
        turned = image.format != "TIFF" and image.getexif().get(ORIENTATION, 1) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def deep_range(content: bytes, page: int = 0) -> Window | None:
    """Return the least and largest value of an image of more than 8 bits; None for one of 8.

    :param content: content of the file
    :param page: number of the page in a file of several
    """
    if content.startswith(NEVER_DEEP) or _is_dicom(content):
        return None
    with _opened(content, page) as image:
        if not _is_deep(image):
            return None
        return values_range(_deep_values(image, content, page))


def values_range(values: np.ndarray) -> Window:
    """Return the least and largest value of an array, leaving out what is not finite."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("it has no finite value")
    return float(finite.min()), float(finite.max())


def find_window(ranges: Iterable[Window]) -> Window:
    """Return the values of black and white for images of one set.

    Whole numbers from 0 on are taken to fill the fewest bits that hold them all. Numbers between 0
    and 1 fill that range.

    :param ranges: least and largest value of each image
    :raises ValueError: if the values are of no such kind
    """
    low, high = np.array(list(ranges)).T
    least, largest = low.min(), high.max()
    is_whole = float(least).is_integer() and float(largest).is_integer()
    if least >= 0 and largest <= 1:
        return 0.0, 1.0
    if least < 0 or not is_whole:
        raise ValueError(
            f"its values from {least:g} to {largest:g} have no range that is known; give the "
            "values of black and white as its window"
        )
    bits = next((b for b in BIT_DEPTHS if largest < 2**b), BIT_DEPTHS[-1])
    return 0.0, float(2**bits - 1)


def apply_window(values: np.ndarray, window: Window) -> np.ndarray:
    """Return values as grey levels from 0 to 255, cut off outside the window.

    :param values: numbers of any type
    :param window: values of black and white
    """
    black, white = window
    if white <= black:
        raise ValueError(f"its white, {white:g}, must be above its black, {black:g}")
    if (black, white) == (0, 2**16 - 1):
        return (values.astype(np.int64) >> 8).astype(np.uint8)
    with np.errstate(invalid="ignore"):
        scaled = (values.astype(np.float64) - black) / (white - black) * 255
    return np.clip(np.nan_to_num(scaled), 0, 255).round().astype(np.uint8)


@contextmanager
def _opened(content: bytes, page: int) -> Iterator[Image.Image]:
    """Open an image file at a page."""
    with Image.open(io.BytesIO(content)) as image:
        if page:
            image.seek(page)
        yield image


def _is_deep(image: Image.Image) -> bool:
    """Return whether an image that is not loaded yet has more than 8 bits per channel."""
    return image.mode.startswith("I") or image.mode == "F" or _colour_mode(image) is not None


def _colour_mode(image: Image.Image) -> str | None:
    """Return Pillow's name of an image's 16-bit colour; None for other images."""
    for tile in getattr(image, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if arguments and arguments[0] in LOW_BYTE:
            return str(arguments[0])
    return None


def _deep_values(image: Image.Image, content: bytes, page: int) -> np.ndarray:
    """Return the values of an image of more than 8 bits.

    :param image: opened image
    :param content: content of its file
    :param page: number of its page
    :return: (h, w), or (h, w, 3)
    """
    mode = _colour_mode(image)
    if mode is None:
        return np.asarray(image)
    # Pillow keeps 8 of the 16 bits of a colour. Read the other 8 in a second pass.
    high = np.asarray(image.convert("RGB"), np.uint16)
    with _opened(content, page) as second:
        second.tile = [_with_low_byte(tile) for tile in second.tile]  # type: ignore[attr-defined]
        low = np.asarray(second.convert("RGB"), np.uint16)
    return high * 256 + low


def _with_low_byte(tile: Any) -> Any:
    """Return Pillow's description of a stored image, to read the low byte of each colour."""
    arguments = tile[3]
    if isinstance(arguments, tuple):
        arguments = (LOW_BYTE[arguments[0]], *arguments[1:])
    else:
        arguments = LOW_BYTE[arguments]
    return type(tile)(*tile[:3], arguments)


def _white_is_zero(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _on_white(image: Image.Image) -> Image.Image:
    """Return an image with transparency on white. Below transparent pixels lies black, as a rule."""
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema() == (0, 0):
        return layer.convert("RGB")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _is_dicom(content: bytes) -> bool:
    return content[128:132] == b"DICM"


def _decode_dicom(content: bytes, window: Window | None, page: int) -> np.ndarray:
    """Return a DICOM image in the window that it asks for, uint8 (h, w) or (h, w, 3)."""
    try:
        import pydicom
        from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
    except ImportError as error:
        raise ValueError("it is DICOM; pip install 'synthselect[formats]'") from error
    data = pydicom.dcmread(io.BytesIO(content))
    index = page if int(data.get("NumberOfFrames") or 1) > 1 else None
    values = pixel_array(data, index=index, raw=False)
    bits = data.BitsStored
    if data.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, data)
        bits = 8 * values.itemsize
    if values.ndim == 3:
        return (values >> max(0, bits - 8)).astype(np.uint8)

    # Take the window that is asked for, the file's own, or all that its bits can hold.
    values = apply_modality_lut(values, data)
    if window is None and data.get("VOILUTSequence"):
        values = apply_voi_lut(values, data)
        window = 0.0, 2.0 ** data.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif window is None and data.get("WindowWidth"):
        centre, width = (np.ravel(data[name].value)[0] for name in ("WindowCenter", "WindowWidth"))
        window = float(centre) - float(width) / 2, float(centre) + float(width) / 2
    elif window is None:
        signed = data.PixelRepresentation
        ends = np.array([-signed * 2 ** (bits - 1), 2 ** (bits - signed) - 1])
        slope, shift = data.get("RescaleSlope", 1), data.get("RescaleIntercept", 0)
        black, white = ends * float(slope) + float(shift)
        window = black, white
    shown = apply_window(values, window)
    return 255 - shown if data.PhotometricInterpretation == "MONOCHROME1" else shown
