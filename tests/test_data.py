from __future__ import annotations

import io
import os
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from synthselect_env.data import (
    EncodedImages,
    Dataset,
    compute_image_stats,
    decode,
    draw_per_class,
    read_class_folders,
    read_pcam,
)
from synthselect_env.data.images import UndecodableError, image_size
from synthselect_env.training.augmentation import AUGMENTATIONS


def test_folder_and_zip_read_the_same(image_folder: Path, picture_zip: Path) -> None:
    folder, archive = (
        read_class_folders(image_folder, "train"),
        read_class_folders(picture_zip, "train"),
    )
    assert folder.classes == archive.classes == ("normal", "tumor")
    assert folder.ids == archive.ids and len(folder) == 16
    assert (folder.labels == archive.labels).all()
    assert (folder.pixels() == archive.pixels()).all()
    assert folder.pixels().shape == (16, 24, 20, 3)
    brightness = folder.pixels().mean((1, 2, 3))
    assert (
        brightness[folder.labels == 0].max() < brightness[folder.labels == 1].min()
    )  # labels belong to their images


def test_class_folders_at_the_top(image_folder: Path) -> None:
    assert len(read_class_folders(image_folder / "valid")) == 16


@pytest.mark.parametrize("pattern", [r"^[^-]+-[^-]+", r"^([^-]+-[^-]+)-\d"])
def test_patients_in_names(image_folder: Path, pattern: str) -> None:
    data = read_class_folders(image_folder, "train", group=pattern)
    assert data.groups == ("train-normal",) * 8 + ("train-tumor",) * 8
    assert data.subset(np.array([8, 0])).groups == ("train-tumor", "train-normal")
    assert read_class_folders(image_folder, "train").groups is None


def test_a_pattern_with_choices(tmp_path: Path) -> None:
    for i, name in enumerate(("P1_0.png", "Q7_1.png")):
        (tmp_path / "ab"[i]).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / "ab"[i] / name)
    assert read_class_folders(tmp_path, group=r"P(\d+)_|Q(\d+)_").groups == ("1", "7")
    with pytest.raises(ValueError, match="finds no patient or slide in the name 'Q7_1.png'"):
        read_class_folders(tmp_path, group=r"(P\d+)?_")


def test_resizes_and_selects(image_folder: Path) -> None:
    data = read_class_folders(image_folder, "train").subset(np.array([3, 1]))
    assert data.pixels((12, 10)).shape == (2, 12, 10, 3)
    assert data.ids == tuple(read_class_folders(image_folder, "train").ids[i] for i in (3, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "no pictures"),
        (
            {"split": "train", "classes": ("normal", "benign")},
            r"class folders \['tumor'\] are none of the classes \['normal', 'benign'\]",
        ),
        ({"split": "train", "group": "(patient"}, "is not a regular expression"),
        (
            {"split": "train", "group": "train-normal|$^"},
            "finds no patient or slide in the name 'train-tumor-0.png'",
        ),
    ],
)
def test_reader_errors(image_folder: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_class_folders(image_folder, **arguments)


def test_missing_and_broken_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_class_folders(tmp_path / "nowhere")
    (tmp_path / "broken.zip").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="neither a directory nor a readable zip"):
        read_class_folders(tmp_path / "broken.zip")


def test_broken_picture_is_named() -> None:
    with pytest.raises(ValueError, match="picture 1 of 2 cannot be decoded"):
        EncodedImages(
            [*EncodedImages.encode(np.zeros((1, 8, 8, 3), np.uint8)).blobs, b"nonsense"]
        ).decode()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_pictures_keep_their_range(suffix: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, suffix)
    assert (EncodedImages([buffer.getvalue()]).decode()[0, :, :, 0] == ramp >> 8).all()


def test_dark_sixteen_bit_pictures_are_doubted() -> None:
    """12 bits in 16 would be read as black."""
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, 4095, 256).astype(np.uint16).reshape(16, 16)).save(buffer, "png")
    with pytest.warns(UserWarning, match="no value above 4095, .* rescale such pictures"):
        EncodedImages([buffer.getvalue()]).decode()


def test_a_broken_picture_is_told_by_another_process() -> None:
    with pytest.raises(UndecodableError) as told:
        EncodedImages([b"nonsense"]).decode()
    assert str(pickle.loads(pickle.dumps(told.value))) == str(told.value)


def test_candidates_of_some_classes(image_folder: Path) -> None:
    """Who has few images of one class makes more of that one."""
    shutil.rmtree(image_folder / "train" / "normal")
    data = read_class_folders(image_folder, "train", ("normal", "tumor"))
    assert data.classes == ("normal", "tumor") and set(data.labels) == {1}


def test_names_in_any_spelling(tmp_path: Path) -> None:
    """Umlauts composed or not, folders in a zip set apart by backslashes: as the system has it that wrote them."""
    composed, apart = "L\u00e4sion", "La\u0308sion"
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    for name in (composed, apart):
        folder = tmp_path / f"{len(name)}" / "train" / name
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(buffer.getvalue())
        data = read_class_folders(tmp_path / f"{len(name)}", "train", (composed, "normal"))
        assert data.ids == (f"{composed}/1.png",) and data.pixels().shape == (1, 4, 4, 3)
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for name in ("a", "b"):
            archive.writestr(f"data\\train\\{name}\\1.png", buffer.getvalue())
    assert read_class_folders(tmp_path / "w.zip", "train").ids == ("a/1.png", "b/1.png")


def test_same_name_in_two_classes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0001.png")
    assert read_class_folders(tmp_path).ids == ("a/0001.png", "b/0001.png")


def test_encoding_is_close_and_indexable() -> None:
    images = np.random.default_rng(0).integers(100, 156, (5, 16, 16, 3)).astype(np.uint8)
    encoded = EncodedImages.encode(images, quality=100)
    assert np.abs(encoded.decode().astype(int) - images).mean() < 12
    assert (
        encoded[np.array([True, False, False, False, True])].decode() == encoded.decode()[[0, 4]]
    ).all()
    assert decode(images, (8, 8)).shape == (5, 8, 8, 3)


@pytest.fixture
def pcam_files(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "camelyonpatch_level_2_split_valid_x.h5", "w") as file:
        file["x"] = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones(
            (1, 96, 96, 3), np.uint8
        )
    with h5py.File(tmp_path / "camelyonpatch_level_2_split_valid_y.h5", "w") as file:
        file["y"] = (np.arange(6) % 2).astype(np.uint8).reshape(6, 1, 1, 1)
    return tmp_path


@pytest.mark.parametrize(
    "indices", [None, np.array([5, 0, 3]), np.array([2, 2])], ids=["all", "unordered", "repeated"]
)
def test_pcam_reader(pcam_files: Path, indices: np.ndarray | None) -> None:
    data = read_pcam(pcam_files, "valid", indices)
    expected = np.arange(6) if indices is None else indices
    assert (data.images[:, 0, 0, 0] == expected).all()
    assert (data.labels == expected % 2).all()
    assert data.images.shape[1:] == (96, 96, 3) and data.classes == ("normal", "tumor")


def test_pcam_errors(pcam_files: Path) -> None:
    with pytest.raises(FileNotFoundError, match="split_train_x.h5"):
        read_pcam(pcam_files, "train")
    with pytest.raises(ValueError, match="must lie in 0..5"):
        read_pcam(pcam_files, "valid", np.array([6]))
    with h5py.File(pcam_files / "camelyonpatch_level_2_split_valid_y.h5", "a") as file:
        file["y"][0] = 7
    with pytest.raises(ValueError, match="labels must be 0"):
        read_pcam(pcam_files, "valid")


def test_draw_per_class() -> None:
    labels = np.array([0] * 10 + [1] * 20)
    drawn = draw_per_class(labels, (4, 7), seed=3)
    assert np.bincount(labels[drawn]).tolist() == [4, 7] and len(set(drawn)) == 11
    assert (drawn == draw_per_class(labels, (4, 7), seed=3)).all() and not np.array_equal(
        drawn, draw_per_class(labels, (4, 7), seed=4)
    )
    with pytest.raises(ValueError, match="class 0 has 10"):
        draw_per_class(labels, (11, 1), seed=0)
    with pytest.raises(ValueError, match="1 counts were given, and the labels are of 2 classes"):
        draw_per_class(labels, (4,), seed=0)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_are_seeded_and_stay_in_range(name: str) -> None:
    images = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    first, again = (AUGMENTATIONS[name](images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert (
        torch.equal(first, again)
        and first.shape == images.shape
        and 0 <= first.min() <= first.max() <= 1
    )
    assert torch.equal(first, images) == (name == "none")


def test_appearance_is_what_it_says() -> None:
    """Each statistic by the plainest means, over more images than are worked on at once."""
    images = np.random.default_rng(0).integers(0, 256, (300, 9, 7, 3), dtype=np.uint8)
    found = compute_image_stats(images)
    assert found.shape == (300, 12) and found.dtype == np.float32 and np.isfinite(found).all()
    for i in (0, 299):
        intensity = np.maximum(images[i], 1) / 255
        density = -np.log(intensity)
        expected = [density[:, :, c].mean() for c in range(3)] + [
            density[:, :, c].std() for c in range(3)
        ]
        expected += [
            np.corrcoef(density[:, :, a].ravel(), density[:, :, b].ravel())[0, 1]
            for a, b in ((0, 1), (0, 2), (1, 2))
        ]
        grey = intensity.mean(2)
        expected += [
            np.log(
                np.abs(grey[:, s:] - grey[:, :-s]).mean()
                + np.abs(grey[s:] - grey[:-s]).mean()
                + 1e-3
            )
            for s in (1, 2, 4)
        ]
        assert found[i] == pytest.approx(expected, abs=2e-3)
    flat = compute_image_stats(np.full((2, 8, 8, 3), 200, np.uint8))
    assert np.isfinite(flat).all() and compute_image_stats(images[:0]).shape == (0, 12)


def test_broken_file_is_named(image_folder: Path) -> None:
    file = image_folder / "train" / "tumor" / "train-tumor-0.png"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(
        ValueError, match=r"tumor/train-tumor-0\.png cannot be decoded .* remove it"
    ):
        read_class_folders(image_folder, "train").pixels((8, 8))


def test_splits_are_not_mixed(tmp_path: Path) -> None:
    """Names may differ from split to split: without the split's name, a generator would learn the test images."""
    for split in ("train", "valid", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / f"{split}.png")
    with pytest.raises(ValueError, match="class folders under test, train, valid; name the split"):
        read_class_folders(tmp_path)
    assert read_class_folders(tmp_path, "test").ids == ("a/test.png", "b/test.png")
    (tmp_path / "train" / "a" / "patient").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "a" / "patient" / "1.png")
    with pytest.raises(ValueError, match="class folders under train, train/a"):
        read_class_folders(tmp_path, "train")


def test_links_are_followed(image_folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked" / "train"
    linked.mkdir(parents=True)
    for name in ("normal", "tumor"):
        (linked / name).symlink_to(image_folder / "train" / name)
    ours, theirs = (
        read_class_folders(path, "train") for path in (tmp_path / "linked", image_folder)
    )
    assert ours.ids == theirs.ids and ours.images == theirs.images


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_glass(mode: str) -> None:
    """Slide readers fill what they have no tissue for with black that cannot be seen."""
    picture, buffer = Image.new("RGBA", (4, 4), (0, 0, 0, 0)), io.BytesIO()
    picture.putpixel((1, 0), (200, 200, 200, 255))
    picture.convert(mode).save(
        buffer,
        "PNG",
        **({"transparency": picture.convert("P").getpixel((0, 0))} if mode == "P" else {}),
    )
    pixels = EncodedImages([buffer.getvalue()]).decode()[0]
    assert (
        pixels[0, 0].tolist() == [255, 255, 255]
        and np.abs(pixels[0, 1].astype(int) - 200).max() < 8
    )


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_that_cannot_be_kept(image_folder: Path) -> None:
    os.rename(
        image_folder / "train" / "tumor" / "train-tumor-0.png",
        os.fsencode(image_folder / "train" / "tumor") + b"/M\xfcller.png",
    )
    with pytest.raises(ValueError, match=r"name 'train/tumor/M\\udcfcller\.png' is not UTF-8"):
        read_class_folders(image_folder, "train")


def test_pcam_masks_and_damaged_files(pcam_files: Path) -> None:
    mask = np.array([True, False, False, True, False, False])
    assert read_pcam(pcam_files, "valid", mask).ids == ("valid-0", "valid-3")
    x = pcam_files / "camelyonpatch_level_2_split_valid_x.h5"
    with h5py.File(x, "a") as file:
        file.move("x", "pictures")
    with pytest.raises(ValueError, match="must hold a dataset x and a dataset y"):
        read_pcam(pcam_files, "valid")
    x.write_bytes(b"half a download")
    with pytest.raises(ValueError, match="valid_x.h5 is no complete HDF5 file"):
        read_pcam(pcam_files, "valid")


def test_one_odd_picture_does_not_say_how_large_all_are() -> None:
    odd = [np.zeros((1, 40, 3), np.uint8), *np.zeros((4, 5, 7, 3), np.uint8)]
    assert image_size(EncodedImages.encode(odd)) == (5, 7)
    with pytest.raises(UndecodableError, match="picture 1 of 2"):
        image_size(EncodedImages([*EncodedImages.encode(odd[:1]).blobs, b"nonsense"]))


def test_size_of_pictures() -> None:
    images = np.zeros((2, 5, 7, 3), np.uint8)
    for pictures in (images, EncodedImages.encode(images)):
        assert Dataset.of_images(pictures, np.zeros(2, int), ("a", "b"), ("x", "y")).image_size == (
            5,
            7,
        )
    with pytest.raises(ValueError, match="no pictures that could have a size"):
        image_size(images[:0])
