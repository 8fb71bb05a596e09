from __future__ import annotations

import io
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthselect_env.data import read_class_folders

COMPOSED, DECOMPOSED = "L\u00e4sion", "La\u0308sion"
"""One name, with an umlaut of one character and of two."""


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def test_folder_and_zip_read_the_same(image_folder: Path, image_zip: Path) -> None:
    folder = read_class_folders(image_folder, "train")
    archive = read_class_folders(image_zip, "train")
    assert folder.classes == archive.classes == ("normal", "tumor")
    assert folder.ids == archive.ids and len(folder) == 16
    assert (folder.labels == archive.labels).all()
    assert (folder.pixels() == archive.pixels()).all()


def test_labels_belong_to_their_images(image_folder: Path) -> None:
    data = read_class_folders(image_folder, "train")
    assert data.pixels().shape == (16, 24, 20, 3)
    brightness = data.pixels().mean((1, 2, 3))
    assert brightness[data.labels == 0].max() < brightness[data.labels == 1].min()


def test_class_folders_at_the_top(image_folder: Path) -> None:
    assert len(read_class_folders(image_folder / "valid")) == 16


@pytest.mark.parametrize("pattern", [r"^[^-]+-[^-]+", r"^([^-]+-[^-]+)-\d"])
def test_patients_in_names(image_folder: Path, pattern: str) -> None:
    data = read_class_folders(image_folder, "train", group=pattern)
    assert data.groups == ("train-normal",) * 8 + ("train-tumor",) * 8
    assert data.subset(np.array([8, 0])).groups == ("train-tumor", "train-normal")
    assert read_class_folders(image_folder, "train").groups is None


def test_a_pattern_with_choices(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "P1_0.png")
    write_image(tmp_path / "b" / "Q7_1.png")
    assert read_class_folders(tmp_path, group=r"P(\d+)_|Q(\d+)_").groups == ("1", "7")
    with pytest.raises(ValueError, match="finds no patient or slide in the name 'Q7_1.png'"):
        read_class_folders(tmp_path, group=r"(P\d+)?_")


def test_resizes_and_selects(image_folder: Path) -> None:
    everything = read_class_folders(image_folder, "train")
    data = everything.subset(np.array([3, 1]))
    assert data.pixels((12, 10)).shape == (2, 12, 10, 3)
    assert data.ids == (everything.ids[3], everything.ids[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"split": "test"},
            r"split 'test': no images; expected SPLIT/CLASS/NAME.png, found split/cl",
        ),
        (
            {"split": "train", "classes": ("normal", "benign")},
            r"class folders \['tumor'\] are none of the classes \['normal', 'benign'\]; rename",
        ),
        ({"split": "train", "group": "(patient"}, "is not a regular expression"),
        (
            {"split": "train", "group": "train-normal|$^"},
            "finds no patient or slide in the name 'train-tumor-0.png'",
        ),
    ],
    ids=["split", "classes", "pattern", "patient"],
)
def test_arguments_that_do_not_fit(image_folder: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_class_folders(image_folder, **arguments)


def test_missing_and_broken_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_class_folders(tmp_path / "nowhere")
    (tmp_path / "broken.zip").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="neither a directory nor a readable zip"):
        read_class_folders(tmp_path / "broken.zip")


def test_broken_image_is_named(image_folder: Path) -> None:
    file = image_folder / "train" / "tumor" / "train-tumor-0.png"
    file.write_bytes(file.read_bytes()[:100])
    data = read_class_folders(image_folder, "train")
    with pytest.raises(ValueError, match=r"tumor/train-tumor-0\.png cannot be .* remove it"):
        data.pixels((8, 8))


def test_candidates_of_some_classes(image_folder: Path) -> None:
    """Who has few images of one class makes more of that one."""
    shutil.rmtree(image_folder / "train" / "normal")
    data = read_class_folders(image_folder, "train", ("normal", "tumor"))
    assert data.classes == ("normal", "tumor") and set(data.labels) == {1}


def test_same_name_in_two_classes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / name / "1.png")
    assert read_class_folders(tmp_path).ids == ("a/1.png", "b/1.png")


@pytest.mark.parametrize("written", [COMPOSED, DECOMPOSED], ids=["composed", "decomposed"])
def test_umlauts_in_any_spelling(tmp_path: Path, written: str) -> None:
    write_image(tmp_path / "train" / written / "1.png")
    data = read_class_folders(tmp_path, "train", (COMPOSED, "normal"))
    assert data.ids == (f"{COMPOSED}/1.png",)
    assert data.pixels().shape == (1, 4, 4, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="file system that tells spellings apart")
def test_one_name_in_two_spellings_is_refused(tmp_path: Path) -> None:
    for name in (COMPOSED, DECOMPOSED):
        write_image(tmp_path / name / "1.png")
    with pytest.raises(ValueError, match="names differ in how their letters are composed; rename"):
        read_class_folders(tmp_path)


def test_zips_may_separate_folders_by_backslashes(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        for name in ("a", "b"):
            archive.writestr(f"data\\train\\{name}\\1.png", buffer.getvalue())
    data = read_class_folders(tmp_path / "windows.zip", "train")
    assert data.ids == ("a/1.png", "b/1.png")
    assert data.pixels().shape == (2, 4, 4, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_that_cannot_be_kept(image_folder: Path) -> None:
    folder = image_folder / "train" / "tumor"
    os.rename(folder / "train-tumor-0.png", os.fsencode(folder) + b"/M\xfcller.png")
    with pytest.raises(ValueError, match=r"name 'train/tumor/M\\udcfcller\.png' is not UTF-8"):
        read_class_folders(image_folder, "train")


def test_splits_are_not_mixed(tmp_path: Path) -> None:
    """Without the split's name, a generator would learn the test images."""
    for split in ("train", "valid", "test"):
        for name in ("a", "b"):
            write_image(tmp_path / split / name / f"{split}.png")
    with pytest.raises(ValueError, match=r"there are splits \(train, valid, test\); name one"):
        read_class_folders(tmp_path)
    assert read_class_folders(tmp_path, "test").ids == ("a/test.png", "b/test.png")


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.png")
    for name in (".hidden.png", "__MACOSX/a/1.png", ".cache/a/1.png"):
        write_image(tmp_path / name)
    assert read_class_folders(tmp_path).ids == ("a/1.png",)


def test_links_are_followed(image_folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked" / "train"
    linked.mkdir(parents=True)
    for name in ("normal", "tumor"):
        (linked / name).symlink_to(image_folder / "train" / name)
    ours = read_class_folders(tmp_path / "linked", "train")
    theirs = read_class_folders(image_folder, "train")
    assert ours.ids == theirs.ids and ours.images == theirs.images
