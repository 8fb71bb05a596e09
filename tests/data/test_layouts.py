"""Layouts that public sets and generators have."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from synthselect_env.data import find_images, split_real

NAMES = ("benign", "malignant")


def write(root: Path, files: list[str]) -> None:
    for i, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i % 256, 0, 0)).save(root / name)


def splits_of(*patterns: str) -> list[str]:
    return [f"{split}/{p}" for split in ("train", "val", "test") for p in patterns]


def each(pattern: str, **values: tuple) -> list[str]:
    """All names of a pattern, e.g. "{c}/{i}.png"."""
    names = [pattern]
    for key, options in values.items():
        names = [name.replace(f"{{{key}}}", str(o)) for name in names for o in options]
    return names


TWO = (0, 1)
MANY = tuple(f"P{i:02d}" for i in range(12))
FOUND = {
    # layout: files, expected layout, splits, classes, number of patients
    "class": (each("{c}/{i}.png", c=NAMES, i=TWO), "class", (), NAMES, None),
    "below a folder": (each("data/{c}/{i}.png", c=NAMES, i=TWO), "*/class", (), NAMES, None),
    "split/class": (
        each("{s}/{c}/{i}.png", s=("train", "val", "test"), c=NAMES, i=TWO),
        "split/class",
        ("train", "valid", "test"),
        NAMES,
        None,
    ),
    "capitals": (
        each("{s}/{c}/{i}.PNG", s=("Train", "Validation"), c=NAMES, i=TWO),
        "split/class",
        ("train", "valid"),
        NAMES,
        None,
    ),
    "class/split": (
        each("{c}/{s}/{i}.png", c=NAMES, s=("train", "test"), i=TWO),
        "split/class",
        ("train", "test"),
        NAMES,
        None,
    ),
    "IDC: patient/class": (
        each("{p}/{c}/{i}.png", p=(8863, 8864, 9001), c=TWO, i=TWO),
        "patient/class",
        (),
        ("0", "1"),
        3,
    ),
    "patient/class, names": (
        each("{p}/{c}/{i}.png", p=("P1", "P2"), c=NAMES, i=TWO),
        "patient/class",
        (),
        NAMES,
        2,
    ),
    "class/patient": (
        each("benign/{p}/{i}.png", p=MANY[:6], i=TWO)
        + each("malignant/{p}/{i}.png", p=MANY[6:], i=TWO),
        "class/patient",
        (),
        NAMES,
        12,
    ),
    "class/kind of image": (
        each("benign/{p}/{i}.png", p=("adenosis", "fibroma"), i=TWO)
        + each("malignant/{p}/{i}.png", p=("ductal", "lobular"), i=TWO),
        "class/…",
        (),
        NAMES,
        None,
    ),
    "BreakHis": (
        each("b/benign/SOB/adenosis/{p}/{x}/{i}.png", p=MANY[:6], x=("40X", "100X"), i=TWO)
        + each("b/malignant/SOB/ductal/{p}/{x}/{i}.png", p=MANY[6:], x=("40X", "100X"), i=TWO),
        "*/class/*/*/patient/…",
        (),
        NAMES,
        12,
    ),
    "class/batch": (
        each("{c}/batch_{b}/{i}.png", c=NAMES, b=(0, 1, 2), i=TWO),
        "class/…",
        (),
        NAMES,
        None,
    ),
}


@pytest.mark.parametrize("zipped", [False, True], ids=["directory", "zip"])
@pytest.mark.parametrize("layout", FOUND)
def test_layouts_are_found(tmp_path: Path, layout: str, zipped: bool) -> None:
    files, pattern, splits, classes, patients = FOUND[layout]
    root = tmp_path / "data"
    write(root, files)
    if zipped:
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
            for name in files:
                archive.write(root / name, name)
        root = tmp_path / "data.zip"
    found = find_images(root)
    assert (found.layout, found.splits, found.classes) == (pattern, splits, classes)
    assert sum(map(len, found.datasets.values())) == len(files)
    groups = next(iter(found.datasets.values())).groups
    assert (groups and len(set(groups))) == patients
    for data in found.datasets.values():
        assert data.pixels().shape == (len(data), 8, 8, 3)
        assert all(classes[y] in id.split("/") for y, id in zip(data.labels, data.ids)) or splits


def test_a_tree_that_is_twice_in_its_archive(tmp_path: Path) -> None:
    """As the chest X-rays of Kaggle."""
    for top in ("xray", "xray/xray"):
        write(tmp_path, each(top + "/train/{c}/{i}.png", c=("N", "P"), i=TWO))
    found = find_images(tmp_path)
    assert len(found["train"]) == 4
    assert found.notes == ("xray/xray holds copies of xray and is left out",)


def test_what_could_be_one_or_the_other_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, each("{a}/{b}/{i}.png", a=("red", "blue"), b=("up", "down"), i=TWO))
    with pytest.raises(ValueError, match="may be the folders blue, red or those below, down, up"):
        find_images(tmp_path)
    assert find_images(tmp_path, layout="class/*").classes == ("blue", "red")
    by_patient = find_images(tmp_path, layout="patient/class")
    assert by_patient.classes == ("down", "up") and set(by_patient[None].groups) == {"red", "blue"}
    assert find_images(tmp_path, classes=("up", "down")).classes == ("up", "down")


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("label/*", "'label' is none of split, class, patient"),
        ("class/*/*", "fits none of 8 files"),
    ],
)
def test_layouts_that_do_not_fit(tmp_path: Path, layout: str, message: str) -> None:
    write(tmp_path, each("{a}/{b}/{i}.png", a=("red", "blue"), b=("up", "down"), i=TWO))
    with pytest.raises(ValueError, match=message):
        find_images(tmp_path, layout=layout)


TABLES = {
    "labels.csv": "id,label\n0,ill\n1,well\n2,ill\n3,well\n",
    "meta.csv": "image_id;patient_id;dx\n0.png;a;ill\n1.png;a;well\n2.png;b;ill\n3.png;b;well\n",
    "one_column_each.csv": "image,ill,well\n0,1.0,0.0\n1,0.0,1.0\n2,1.0,0.0\n3,0.0,1.0\n",
    "metadata.jsonl": "\n".join(
        json.dumps({"file_name": f"{i}.png", "label": ("ill", "well")[i % 2]}) for i in range(4)
    ),
    "dataset.json": json.dumps(
        {"labels": [[f"{i}.png", ("ill", "well")[i % 2]] for i in range(4)]}
    ),
}


@pytest.mark.parametrize("table", TABLES)
def test_one_folder_and_a_table(tmp_path: Path, table: str) -> None:
    write(tmp_path, [f"images/{i}.png" for i in range(5)])
    (tmp_path / table).write_text(TABLES[table])
    found = find_images(tmp_path)
    data = found[None]
    assert found.classes == ("ill", "well") and data.labels.tolist() == [0, 1, 0, 1]
    assert (data.pixels()[:, 0, 0, 0] == range(4)).all()
    assert found.notes == (f"1 images that {table} does not name are left out",)
    assert data.groups == (("a", "a", "b", "b") if table == "meta.csv" else None)


def test_splits_beside_a_table(tmp_path: Path) -> None:
    """As PCam of Kaggle, whose test images have no labels."""
    write(tmp_path, [*(f"train/{i}.tif" for i in range(4)), *(f"test/x{i}.tif" for i in range(2))])
    (tmp_path / "train_labels.csv").write_text(TABLES["labels.csv"])
    found = find_images(tmp_path)
    assert found.splits == ("train",) and len(found["train"]) == 4


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("a,b\n9,x\n", r"no column \(a, b\) names the images, such as images/0.png"),
        ("id,x,z\n0,3,4\n", r"which column holds the classes is not clear \(x, z\)"),
        ("id,x,z\n0,1,1\n1,0,1\n", "gives some images several classes"),
        ("", "is empty"),
    ],
)
def test_tables_that_say_too_little(tmp_path: Path, table: str, message: str) -> None:
    write(tmp_path, [f"images/{i}.png" for i in range(2)])
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        find_images(tmp_path)


def test_a_column_is_named(tmp_path: Path) -> None:
    write(tmp_path, [f"images/{i}.png" for i in range(2)])
    (tmp_path / "labels.csv").write_text("id,x,z\n0,3,4\n1,5,4\n")
    assert find_images(tmp_path, label_column="x").classes == ("3", "5")
    with pytest.raises(ValueError, match="has no column 'w'; it has x, z"):
        find_images(tmp_path, label_column="w")


def test_nothing_tells_the_classes(tmp_path: Path) -> None:
    write(tmp_path, ["seed0000.png", "seed0001.png"])
    with pytest.raises(ValueError, match="nothing tells the classes of 2 images"):
        find_images(tmp_path)


def test_numbered_classes_are_in_order(tmp_path: Path) -> None:
    write(tmp_path, each("{c}/{i}.png", c=tuple(range(12)), i=TWO))
    assert find_images(tmp_path).classes == tuple(map(str, range(12)))


def test_what_is_not_read_is_counted(tmp_path: Path) -> None:
    write(tmp_path, each("{c}/{i}.png", c=NAMES, i=TWO))
    for name in ("benign/scan.svs", "benign/b.svs", "malignant/x.npy", "malignant/notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    found = find_images(tmp_path)
    assert found.notes == ("files that are left out: 2 × .svs of benign, 1 × .npy of malignant",)
    assert "2 × .svs of benign" in found.describe()


def test_a_class_that_disappears_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, each("train/{c}/{i}.png", c=NAMES, i=TWO))
    (tmp_path / "train" / "normal").mkdir()
    (tmp_path / "train" / "normal" / "1.svs").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"have no image .* \(train/normal: 1 × .svs\)"):
        find_images(tmp_path)


def test_other_folders_beside_the_classes_are_no_class(tmp_path: Path) -> None:
    write(tmp_path, each("{c}/{i}.png", c=NAMES, i=TWO))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").write_bytes(b"x")
    assert find_images(tmp_path).classes == NAMES


@pytest.mark.parametrize("suffix", [".jfif", ".gif", ".ppm", ".jp2"])
def test_suffixes(tmp_path: Path, suffix: str) -> None:
    for name in NAMES:
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / f"1{suffix}")
    assert find_images(tmp_path)[None].pixels().shape == (2, 8, 8, 3)


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    write(tmp_path, each("{c}/{i}.png", c=NAMES, i=TWO))
    os.symlink("/nowhere/ab/cdef", tmp_path / "benign" / "9.png")
    with pytest.raises(ValueError, match=r"1 links lead nowhere \(benign/9.png\); bring"):
        find_images(tmp_path)


def test_links_to_a_folder_above(tmp_path: Path) -> None:
    write(tmp_path, each("{c}/{i}.png", c=NAMES, i=TWO))
    os.symlink(tmp_path, tmp_path / "benign" / "all")
    assert len(find_images(tmp_path)[None]) == 4


def patched_zip(path: Path, local: int, central: int, value: int) -> None:
    """Change a byte of each header of a zip."""
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            data[at + offset] = value
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("local", "central", "value", "message"),
    [
        (
            8,
            10,
            9,
            "4 of 4 files are packed by a method that Python cannot read, such as Deflate64",
        ),
        (6, 8, 1, r"4 of 4 files are encrypted \(first: benign/0.png\); unpack it"),
    ],
    ids=["Deflate64", "encrypted"],
)
def test_zips_that_cannot_be_unpacked(
    tmp_path: Path, local: int, central: int, value: int, message: str
) -> None:
    files = each("{c}/{i}.png", c=NAMES, i=TWO)
    write(tmp_path / "data", files)
    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files:
            archive.write(tmp_path / "data" / name, name)
    patched_zip(tmp_path / "data.zip", local, central, value)
    with pytest.raises(ValueError, match=message):
        find_images(tmp_path / "data.zip")


def test_damaged_files_of_a_zip_are_named(tmp_path: Path) -> None:
    files = each("{c}/{i}.png", c=NAMES, i=TWO)
    write(tmp_path / "data", files)
    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files:
            archive.write(tmp_path / "data" / name, name)
    content = bytearray((tmp_path / "data.zip").read_bytes())
    content[content.find(b"malignant/0.png") + 40] ^= 255
    (tmp_path / "data.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"malignant/0.png cannot be .* \(damaged in data.zip"):
        find_images(tmp_path / "data.zip")[None].pixels()


def test_medmnist(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (6, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(6)[:, None] % 3
    np.savez(tmp_path / "mnist.npz", **arrays)
    found = find_images(tmp_path / "mnist.npz")
    assert found.splits == ("train", "valid", "test") and found.classes == ("0", "1", "2")
    assert (found["valid"].pixels()[..., 1] == arrays["val_images"]).all()
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="has arrays x; expected train_images"):
        find_images(tmp_path / "other.npz")


def table_of(root: Path, files: list[str], text: str, name: str = "labels.csv") -> Path:
    write(root, files)
    (root / name).write_text(text)
    return root


def test_splits_may_be_called_sets(tmp_path: Path) -> None:
    write(tmp_path, each("{s}/{c}/{i}.png", s=("training_set", "test_set"), c=("x", "y"), i=TWO))
    found = find_images(tmp_path)
    assert (found.splits, found.classes) == (("train", "test"), ("x", "y"))


def test_a_stray_image_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, [*each("data/{c}/{i}.png", c=NAMES, i=TWO), "data/logo.png"])
    found = find_images(tmp_path)
    assert found.classes == NAMES and len(found[None]) == 4
    assert found.notes == ("1 images in no class folder are left out",)


def test_numbers_may_be_names_and_labels(tmp_path: Path) -> None:
    rows = "\n".join(f"{i % 2},{i}" for i in range(6))
    table_of(tmp_path, [f"{i}.png" for i in range(6)], f"label,id\n{rows}\n")
    assert find_images(tmp_path)[None].labels.tolist() == [0, 1] * 3


def test_a_table_for_each_split(tmp_path: Path) -> None:
    table_of(tmp_path, ["t0.png", "t1.png", "e0.png"], "id,label\nt0,a\nt1,b\n", "train.csv")
    (tmp_path / "test.csv").write_text("id,label\ne0,a\n")
    found = find_images(tmp_path)
    assert {name: len(data) for name, data in found.datasets.items()} == {"train": 2, "test": 1}


def test_names_that_several_images_have(tmp_path: Path) -> None:
    table_of(tmp_path, ["a/0.png", "a/b/0.png", "1.png"], "id,label\n0,x\n1,y\n")
    with pytest.raises(ValueError, match="'0' is the name of several images; give their folders"):
        find_images(tmp_path, labels=tmp_path / "labels.csv")


def test_patients_of_some_images_only(tmp_path: Path) -> None:
    rows = "0,p,x\n1,,y\n2,q,x\n"
    table_of(tmp_path, [f"{i}.png" for i in range(3)], f"id,patient,label\n{rows}")
    with pytest.raises(ValueError, match=r"no patient is known of 1 of 3 images \(first: 1.png\)"):
        find_images(tmp_path)


def test_labels_are_stripped_and_lines_may_lack_one(tmp_path: Path) -> None:
    lines = [
        {"file_name": "0.png", "label": " a"},
        {"file_name": "1.png"},
        {"file_name": "2.png", "label": "b"},
    ]
    text = "\n".join(map(json.dumps, lines))
    table_of(tmp_path, [f"{i}.png" for i in range(3)], text, "metadata.jsonl")
    assert find_images(tmp_path).classes == ("a", "b")


def test_same_sizes_are_no_copies(tmp_path: Path) -> None:
    files = each("{c}/train/{k}/{i}.png", c=("a", "b"), k=("u", "v"), i=TWO)
    write(tmp_path, files)
    with pytest.raises(ValueError, match="there are splits under"):
        find_images(tmp_path)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04"], ids=["empty", "text", "cut"])
def test_broken_arrays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match="x.npz is no file of arrays that can be read"):
        find_images(tmp_path / "x.npz")


def test_splits_that_are_unknown_or_missing(tmp_path: Path) -> None:
    rows = "".join(f"{i},{s},{i % 2}\n" for i, s in enumerate(["train"] * 20 + ["", "more"]))
    table_of(tmp_path, [f"{i}.png" for i in range(22)], f"id,split,label\n{rows}")
    with pytest.raises(ValueError, match="there are splits more; call them train, valid and test"):
        split_real(find_images(tmp_path), 0)
    (tmp_path / "labels.csv").write_text(f"id,split,label\n{rows}".replace("more", "train"))
    splits, notes = split_real(find_images(tmp_path), 0)
    assert sum(map(len, splits.values())) == 21
    assert notes[0] == "1 images that are in no split are left out"


def test_pcams_own_files(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name, values in (("x", np.zeros((4, 96, 96, 3), np.uint8)), ("y", np.arange(4) % 2)):
            file = tmp_path / f"camelyonpatch_level_2_split_{split}_{name}.h5"
            with h5py.File(file, "w") as h5:
                h5[name] = values.reshape(-1, 1, 1, 1) if name == "y" else values
    found = find_images(tmp_path)
    assert found.splits == ("train", "test") and found.classes == ("normal", "tumor")
    assert found["test"].labels.tolist() == [0, 1, 0, 1]
