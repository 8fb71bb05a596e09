from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from synthselect_env.data import Dataset, EncodedImages
from synthselect_env.data.images import ConcatenatedImages, UndecodableError

CLASSES = ("a", "b")


def dataset(n: int = 4, first: int = 0, **changes: object) -> Dataset:
    """A dataset with everything; image i has the shade ``first`` + i."""
    shades = np.arange(first, first + n)
    complete = Dataset(
        features=shades[:, None] * np.ones((n, 3), np.float32),
        labels=shades % 2,
        ids=tuple(f"image {i}" for i in shades),
        images=shades.astype(np.uint8)[:, None, None, None] * np.ones((n, 6, 6, 3), np.uint8),
        groups=tuple(f"patient {i // 2}" for i in shades),
        flaw=(shades % 3).astype(np.int8),
        image_stats=shades[:, None] * np.ones((n, 2), np.float32),
        classes=CLASSES,
    )
    return replace(complete, **changes)


def assert_same(found: Dataset, expected: Dataset) -> None:
    for name in ("features", "labels", "flaw", "image_stats"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    for name in ("ids", "groups", "classes"):
        assert getattr(found, name) == getattr(expected, name), name
    assert np.array_equal(found.pixels(), expected.pixels())


@pytest.mark.parametrize(
    "index",
    [[2, 3], np.array([2, 3]), np.array([False, False, True, True])],
    ids=["list", "positions", "mask"],
)
def test_subset(index: object) -> None:
    assert_same(dataset().subset(index), dataset(2, first=2))


def test_subset_keeps_the_order_and_repeats() -> None:
    assert dataset().subset([3, 0, 3]).ids == ("image 3", "image 0", "image 3")
    assert len(dataset().subset([])) == 0


def test_masks_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a mask of 4 images must be bool \(4,\), got \(10,\)"):
        dataset().subset(np.ones(10, bool))


def test_concatenate() -> None:
    parts = [dataset(3), dataset(1, first=3), dataset(2, first=4)]
    assert_same(Dataset.concatenate(parts), dataset(6))
    assert_same(Dataset.concatenate(parts).subset([5, 1]), dataset(6).subset([5, 1]))


@pytest.mark.parametrize("name", ["features", "ids", "images", "groups", "flaw", "image_stats"])
def test_what_one_part_lacks_all_lack(name: str) -> None:
    whole = Dataset.concatenate([dataset(), dataset(first=4, **{name: None})])
    assert getattr(whole, name) is None
    assert len(whole) == 8


@pytest.fixture
def joined() -> ConcatenatedImages:
    """Encoded images and an array, with shades 0 to 4."""
    return ConcatenatedImages([EncodedImages.encode(dataset(3).images), dataset(2, first=3).images])


@pytest.mark.parametrize(
    "index",
    [[4, 0, 3, 1], [2, 2], [], slice(1, 4), np.array([True, False, False, True, True])],
    ids=["mixed", "repeated", "none", "slice", "mask"],
)
def test_joined_images_can_be_indexed(joined: ConcatenatedImages, index: object) -> None:
    assert (joined[index].decode((6, 6)) == joined.decode()[index]).all()
    keys = np.array(joined.keys(), object)
    assert joined[index].keys() == list(keys[index])


def test_joined_images_count_broken_ones_from_the_first_part(joined: ConcatenatedImages) -> None:
    broken = ConcatenatedImages([*joined.parts, EncodedImages([b"nonsense"])])
    with pytest.raises(UndecodableError, match="image 5 of 6 cannot be decoded"):
        broken.decode()


def test_joined_images_of_several_sizes_need_one(joined: ConcatenatedImages) -> None:
    mixed = ConcatenatedImages([joined, np.zeros((1, 9, 9, 3), np.uint8)])
    with pytest.raises(ValueError, match=r"\(6, 6\) and \(9, 9\) .* pass size=\(height, width\)"):
        mixed.decode()
    assert mixed.decode((3, 3)).shape == (6, 3, 3, 3)


def test_pixels_name_what_is_broken() -> None:
    images = EncodedImages([*EncodedImages.encode(dataset(1).images).blobs, b"nonsense"])
    with pytest.raises(ValueError, match="^image 1 cannot be decoded .*; replace or remove it"):
        dataset(2, images=images).pixels()
    with pytest.raises(ValueError, match="^image 1 of 2 cannot be decoded"):
        dataset(2, images=images, ids=None).pixels()
    with pytest.raises(ValueError, match="feature vectors only; add images"):
        dataset(images=None).pixels()


def test_image_size() -> None:
    assert dataset().image_size == (6, 6)
    with pytest.raises(ValueError, match="no images that could have a size"):
        _ = dataset(images=None).image_size


@pytest.mark.parametrize("digest", ["features_digest", "images_digest"])
def test_digests_follow_content(digest: str) -> None:
    assert getattr(dataset(), digest) == getattr(dataset(ids=None, flaw=None), digest)
    changed = [dataset(labels=np.array([0, 1, 1, 0])), dataset(first=4)]
    assert len({getattr(data, digest) for data in [dataset(), *changed]}) == 3


def test_checked_returns_one_form() -> None:
    features, labels = dataset().features.tolist(), dataset().labels.astype(np.uint8)
    loose = dataset(features=np.array(features), labels=labels, ids=range(4), classes=())
    checked = loose.checked("train", CLASSES)
    assert checked.features.dtype == np.float32 and checked.labels.dtype == np.int64
    assert checked.ids == ("0", "1", "2", "3") and checked.classes == CLASSES


NAN = np.array([[0, 0], [0, np.nan], [1, 1], [np.inf, 1]], np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": None}, "train/features is missing; extract features"),
        ({"features": np.zeros(4)}, r"features is float64 \(4,\), expected floats \(n, d\)"),
        ({"features": np.zeros((4, 2), int)}, r"features is int64 \(4, 2\), expected floats"),
        ({"features": NAN}, r"features has 2 rows with NaN or infinity \(first: 1\); extract"),
        ({"labels": np.zeros(3, int)}, r"labels is int64 \(3,\), expected integers \(4,\)"),
        ({"labels": np.zeros(4)}, r"labels is float64 \(4,\), expected integers \(4,\)"),
        (
            {"labels": np.array([0, 1, 2, 5])},
            r"labels has 2 labels outside 0..1 \(first: 2 in row 2\)",
        ),
        ({"images": [b"encoded"] * 4}, "images is a list, expected EncodedImages, RenderedImages"),
        ({"images": np.zeros((4, 6, 6, 3))}, r"images is float64 \(4, 6, 6, 3\), expected uint8"),
        (
            {"images": EncodedImages([b""])},
            "images has 1 entries for 4 labels; store one per image",
        ),
        ({"groups": ("p", "q")}, "groups has 2 entries for 4 labels"),
        ({"flaw": np.zeros((4, 1))}, "flaw has 4 entries for 4 labels"),
        ({"ids": ("a", "b", "a", "c")}, "ids has 'a' more than once; .* make them unique"),
        ({"ids": ("a", "", "b", "c")}, r"ids has 1 entries without a name \(first: 1\)"),
        (
            {"groups": ("p", "q", None, np.nan)},
            r"groups has 2 entries without a name \(first: 2\); name each, or give groups=None",
        ),
        ({"image_stats": np.full((4, 2), np.nan)}, r"train/appearance .* not finite, .* again"),
    ],
)
def test_malformed_datasets_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataset(**changes).checked("train", CLASSES)
