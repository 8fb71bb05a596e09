"""Image files as people have them: turned, deep, transparent, paged, odd."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from synthselect_env.data import EncodedImages
from synthselect_env.data.decoding import decode_image, shown_size


def content_of(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def deep_png(values: np.ndarray) -> bytes:
    """A PNG file of 16 bits per colour, which Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def deep_tiff(values: np.ndarray, photometric: int = 2, order: str = "<") -> bytes:
    """A TIFF file of 16 bits per channel, uncompressed."""
    height, width, channels = values.shape
    data = values.astype(f"{order}u2").tobytes()
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, channels),
        (278, 4, height),
        (279, 4, len(data)),
    ]
    count = len(tags)
    directory = struct.pack(f"{order}H", count)
    bits_at = 8 + len(data)
    for tag, kind, value in tags:
        number, packed = (
            1,
            struct.pack(f"{order}{'H' if kind == 3 else 'I'}", value).ljust(4, b"\0"),
        )
        if tag == 258 and channels == 3:
            number, packed = 3, struct.pack(f"{order}I", bits_at)
        directory += struct.pack(f"{order}HHI", tag, kind, number) + packed
    magic = b"II*\0" if order == "<" else b"MM\0*"
    bits = struct.pack(f"{order}3H", 16, 16, 16)
    start = struct.pack(f"{order}I", bits_at + len(bits))
    return magic + start + data + bits + directory + b"\0" * 4


def ramp(largest: int, channels: int) -> np.ndarray:
    values = np.linspace(0, largest, 64 * channels).round().astype(np.uint16)
    return values.reshape(8, 8, channels)


DEEP = {
    "colour png": (3, deep_png),
    "colour tiff": (3, deep_tiff),
    "colour tiff, big-endian": (3, lambda values: deep_tiff(values, order=">")),
    "grey tiff": (1, lambda values: deep_tiff(values, photometric=1)),
    "grey png": (1, lambda values: content_of(Image.fromarray(values[:, :, 0]))),
}


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("kind", DEEP)
def test_the_bits_of_deep_images_are_found(kind: str, bits: int) -> None:
    channels, write = DEEP[kind]
    values = ramp(2**bits - 1, channels)
    images = EncodedImages([write(values)])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pixels = images.decode()[0]
    expected = np.broadcast_to(values / (2**bits - 1) * 255, (8, 8, 3))
    assert np.abs(pixels - expected).max() <= 1
    assert [f"are read as 0 to {2**bits - 1}" in str(w.message) for w in told] == [True] * (
        bits < 16
    )


def test_images_of_one_set_share_their_bits() -> None:
    """Else a dark image of a set would be as bright as a light one."""
    images = EncodedImages([deep_png(ramp(900, 3)), deep_png(ramp(4000, 3))])
    with pytest.warns(UserWarning, match="2 images of more than 8 bits .* read as 0 to 4095"):
        dark, light = images.decode()
    assert dark.max() == round(900 / 4095 * 255) and light.max() == round(4000 / 4095 * 255)
    assert (images[[0]].decode()[0] == dark).all()


def test_a_narrow_range_is_doubted() -> None:
    values = np.linspace(7301, 8206, 64).astype(np.uint16).reshape(8, 8, 1)
    with pytest.warns(UserWarning, match=r"from 7301 to 8206, a small part .* --window 7301 8206"):
        EncodedImages([deep_tiff(values, photometric=1)]).decode()
    pixels = np.asarray(decode_image(deep_tiff(values, photometric=1), window=(7301, 8206)))
    assert pixels.min() == 0 and pixels.max() == 255


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_without_a_known_range_need_a_window(dtype: type) -> None:
    values = np.linspace(-40, 80, 64).reshape(8, 8).astype(dtype)
    content = content_of(Image.fromarray(values), "TIFF")
    with pytest.raises(ValueError, match="from -40 to 80 have no range that is known; give the"):
        EncodedImages([content]).decode()
    assert np.asarray(decode_image(content, window=(-40, 80))).max() == 255


def test_floats_from_zero_to_one() -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    pixels = EncodedImages([content_of(Image.fromarray(values), "TIFF")]).decode()[0, :, :, 0]
    assert np.abs(pixels - values * 255).max() <= 0.5 + 1e-4


def test_deep_images_are_turned_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.arange(128, dtype=np.uint16).reshape(16, 8) * 500
    content = content_of(Image.fromarray(values), exif=exif)
    assert np.asarray(decode_image(content)).shape[:2] == shown_size(content) == (8, 16)


@pytest.mark.parametrize("window", [(100, 100), (4095, 0)])
def test_windows_without_a_width_are_refused(window: tuple[float, float]) -> None:
    content = deep_tiff(ramp(4095, 1), photometric=1)
    with pytest.raises(ValueError, match="must be above its black"):
        decode_image(content, window=window)


def test_white_is_zero() -> None:
    black_is_zero, white_is_zero = (deep_tiff(ramp(65535, 1), photometric=p) for p in (1, 0))
    light, dark = (np.asarray(decode_image(c)) for c in (black_is_zero, white_is_zero))
    assert (light == 255 - dark).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_turned_as_their_file_says(format: str, orientation: int) -> None:
    quadrants = np.array([[0, 80, 160], [240, 120, 40]], np.uint8).repeat(16, 0).repeat(16, 1)
    turn = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda x: np.rot90(x, 3),
        7: lambda x: np.rot90(np.transpose(x), 2),
        8: np.rot90,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = content_of(Image.fromarray(quadrants).convert("RGB"), format, exif=exif)
    shown = np.asarray(decode_image(content))[:, :, 0]
    expected = turn(quadrants)
    assert shown.shape == expected.shape == shown_size(content)
    assert np.abs(shown.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_transparency_of_all_pixels_means_nothing(format: str) -> None:
    options = {"exact": True, "lossless": True} if format == "WEBP" else {}
    content = content_of(Image.new("RGBA", (8, 8), (200, 20, 90, 0)), format, **options)
    assert np.asarray(decode_image(content))[0, 0].tolist() == [200, 20, 90]


def test_pages() -> None:
    pages = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 200)]
    content = content_of(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert [np.asarray(decode_image(content, page=i))[0, 0, 0] for i in (0, 1)] == [10, 200]
    with pytest.raises(EOFError):
        decode_image(content, page=2)


def test_levels_of_a_pyramid_are_pages() -> None:
    levels = [Image.new("RGB", (side, side), (side, 0, 0)) for side in (32, 16, 8)]
    content = content_of(levels[0], "TIFF", save_all=True, append_images=levels[1:])
    for page, side in enumerate((32, 16, 8)):
        assert shown_size(content, page) == (side, side)
        assert (np.asarray(decode_image(content, page=page))[..., 0] == side).all()


def test_large_colour_profiles_are_no_damage() -> None:
    profile = bytes(1_400_000)
    content = content_of(Image.new("RGB", (8, 8), (9, 9, 9)), icc_profile=profile)
    assert np.asarray(decode_image(content)).max() == 9


@pytest.mark.parametrize("format", ["GIF", "PPM", "JPEG2000", "AVIF", "BMP"])
def test_formats(format: str) -> None:
    try:
        content = content_of(Image.new("RGB", (16, 16), (200, 100, 50)), format)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow has no {format}")
    assert np.abs(np.asarray(decode_image(content)).mean((0, 1)) - (200, 100, 50)).max() < 8


def test_dicom_windows() -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    def dicom(photometric: str, **window: float) -> bytes:
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        data.Rows, data.Columns, data.SamplesPerPixel = 8, 8, 1
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
        data.PhotometricInterpretation = photometric
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        for name, value in window.items():
            setattr(data, name, value)
        data.PixelData = np.arange(900, 964, dtype=np.uint16).tobytes()
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, data)
        return buffer.getvalue()

    # -124 to -61 in units of the file, of which -100 to -80 is shown.
    window = {"WindowCenter": -90, "WindowWidth": 20}
    shown = np.asarray(decode_image(dicom("MONOCHROME2", **window)))[:, :, 0].ravel()
    expected = np.clip((np.arange(-124, -60) + 100) / 20 * 255, 0, 255)
    assert np.abs(shown - expected).max() <= 1
    inverted = np.asarray(decode_image(dicom("MONOCHROME1", **window)))[:, :, 0].ravel()
    assert (inverted == 255 - shown).all()
    whole = np.asarray(decode_image(dicom("MONOCHROME2")))[:, :, 0].ravel()
    assert np.abs(whole - np.arange(900, 964) / 4095 * 255).max() <= 1
