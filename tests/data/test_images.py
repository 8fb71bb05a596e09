from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from synthselect_env.data import EncodedImages, RenderedImages, decode, image_grid
from synthselect_env.data.images import UndecodableError, image_keys, image_size, images_digest


def encoded(image: Image.Image, suffix: str = "png", **options: object) -> EncodedImages:
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return EncodedImages([buffer.getvalue()])


def blank(n: int, height: int, width: int) -> EncodedImages:
    return EncodedImages.encode(np.zeros((n, height, width, 3), np.uint8))


def ramp(largest: int) -> np.ndarray:
    """A 16-bit image of all shades from 0 to the largest."""
    return np.linspace(0, largest, 256).astype(np.uint16).reshape(16, 16)


def test_encoding_is_close() -> None:
    images = np.random.default_rng(0).integers(100, 156, (5, 16, 16, 3)).astype(np.uint8)
    decoded = EncodedImages.encode(images, quality=100).decode()
    assert np.abs(decoded.astype(int) - images).mean() < 12


@pytest.mark.parametrize(
    "index",
    [[4, 0], np.array([True, False, False, False, True]), slice(1, None, 2), []],
    ids=["positions", "mask", "slice", "none"],
)
def test_images_can_be_indexed(index: object) -> None:
    shades = np.arange(5, dtype=np.uint8)[:, None, None, None] * 50
    images = EncodedImages.encode(shades * np.ones((5, 8, 8, 3), np.uint8))
    assert (images[index].decode((8, 8)) == images.decode()[index]).all()


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (20, 24)], ids=["shrink", "keep", "enlarge"])
def test_arrays_and_encoded_images_are_resized_alike(size: tuple[int, int]) -> None:
    images = blank(2, 16, 16)
    assert decode(images, size).shape == (2, *size, 3)
    assert (decode(images.decode(), size) == decode(images, size)).all()


def test_shrinking_averages_areas() -> None:
    board = np.zeros((1, 4, 4, 3), np.uint8)
    board[:, ::2] = 200
    assert (decode(board, (2, 2)) == 100).all()


def test_no_images_have_pixels_of_any_size() -> None:
    assert EncodedImages([]).decode().shape == (0, 0, 0, 3)
    assert EncodedImages([]).decode((4, 5)).shape == (0, 4, 5, 3)


def test_images_of_several_sizes_need_one() -> None:
    images = EncodedImages([*blank(1, 5, 7).blobs, *blank(1, 6, 7).blobs])
    with pytest.raises(ValueError, match=r"differ in size \(\(5, 7\) and \(6, 7\) .* pass size="):
        images.decode()
    assert images.decode((4, 4)).shape == (2, 4, 4, 3)


def test_broken_image_is_named() -> None:
    images = EncodedImages([*blank(1, 8, 8).blobs, b"nonsense"])
    with pytest.raises(UndecodableError, match="image 1 of 2 cannot be decoded") as told:
        images.decode()
    copy = pickle.loads(pickle.dumps(told.value))  # as another process sends it
    assert str(copy) == str(told.value)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_images_keep_their_range(suffix: str) -> None:
    image = ramp(65535)
    decoded = encoded(Image.fromarray(image), suffix).decode()
    assert (decoded[0, :, :, 0] == image >> 8).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_glass(mode: str) -> None:
    """Slide readers fill what they have no tissue for with black that cannot be seen."""
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((1, 0), (200, 200, 200, 255))
    options = {}
    if mode == "P":
        options["transparency"] = image.convert("P").getpixel((0, 0))
    pixels = encoded(image.convert(mode), **options).decode()[0]
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert np.abs(pixels[0, 1].astype(int) - 200).max() < 8


def test_size_of_images() -> None:
    images = blank(2, 5, 7)
    assert image_size(images) == image_size(images.decode()) == (5, 7)
    with pytest.raises(ValueError, match="no images that could have a size"):
        image_size(images[:0])


def test_one_odd_image_does_not_say_how_large_all_are() -> None:
    odd = blank(1, 1, 40)
    assert image_size(EncodedImages([*odd.blobs, *blank(4, 5, 7).blobs])) == (5, 7)
    with pytest.raises(UndecodableError, match="image 1 of 2"):
        image_size(EncodedImages([*odd.blobs, b"nonsense"]))


@pytest.mark.parametrize("as_pixels", [False, True], ids=["encoded", "array"])
def test_keys_and_digests_tell_images_apart(as_pixels: bool) -> None:
    images = EncodedImages([*blank(2, 6, 6).blobs, *blank(1, 6, 6).blobs])
    pixels = images.decode()
    pixels[2] = 90
    other = pixels if as_pixels else EncodedImages.encode(pixels)
    first, second, third = image_keys(other)
    assert first == second != third
    labels = np.array([0, 1, 1])
    assert images_digest(other, labels) == images_digest(other[:], labels)
    assert images_digest(other, labels) != images_digest(other, 1 - labels)
    assert images_digest(other, labels) != images_digest(other[[0, 2, 1]], labels)


def test_all_broken_images_are_named() -> None:
    images = EncodedImages([b"nonsense", *blank(1, 8, 8).blobs, b"", b"x"])
    with pytest.raises(UndecodableError, match="3 of 4 images cannot be read") as told:
        images.decode()
    assert [f"image {i} of 4" in str(told.value) for i in range(4)] == [True, False, True, True]


def test_many_images_are_decoded_in_order() -> None:
    shades = np.arange(200, dtype=np.uint8)[:, None, None, None]
    images = EncodedImages.encode(shades * np.ones((200, 4, 4, 3), np.uint8), quality=100)
    assert np.abs(images.decode().mean((1, 2, 3)) - np.arange(200)).max() < 3
    assert (pickle.loads(pickle.dumps(images[5:9])).decode() == images.decode()[5:9]).all()


def test_unknown_renderers_are_refused() -> None:
    with pytest.raises(ValueError, match="no renderer 'os:system' .* there are cervical phantom"):
        RenderedImages("os:system", {}, np.arange(2))


def test_grid_of_images() -> None:
    images = np.zeros((3, 4, 5, 3), np.uint8)
    sheet = image_grid(images, columns=2, gap=1)
    assert sheet.shape == (9, 11, 3)
    assert (sheet == 0).sum() == images.size
    assert (sheet[5:, 6:] == 255).all()  # no fourth image
