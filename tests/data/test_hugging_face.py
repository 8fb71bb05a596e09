"""Data sets of Hugging Face's library. The files are written as ``datasets`` 4 writes them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from agents.export import export_images
from synthselect_env import Selection
from synthselect_env.data import find_images, split_real

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = {"names": ["normal", "tumor"], "_type": "ClassLabel"}


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), (grey,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def table(
    labels: list[Any], features: dict[str, Any], paths: bool = True, **columns: Any
) -> pa.Table:
    """Return a table of grey images, whose grey is 10 per row."""
    images = [
        {"bytes": png(10 * i), "path": f"{i}.png" if paths else None} for i in range(len(labels))
    ]
    data = {"image": pa.array(images, IMAGE), "label": labels, **columns}
    noted = {"info": {"features": {"image": {"_type": "Image"}, **features}}}
    return pa.table(data).replace_schema_metadata({"huggingface": json.dumps(noted)})


def save_to_disk(rows: pa.Table, folder: Path, shards: int = 1) -> None:
    folder.mkdir(parents=True)
    size = -(-len(rows) // shards)
    files = []
    for i in range(shards):
        files.append({"filename": f"data-{i:05d}-of-{shards:05d}.arrow"})
        with pa.ipc.new_stream(folder / files[-1]["filename"], rows.schema) as stream:
            stream.write_table(rows.slice(i * size, size))
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))


def test_splits_classes_and_patients(tmp_path: Path) -> None:
    rows = table([0, 1, 1, 0], {"label": NAMES}, patient=["a", "a", "b", "b"])
    for split in ("train", "validation"):
        save_to_disk(rows, tmp_path / "set" / split, shards=2)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    found = find_images(tmp_path / "set")
    assert found.splits == ("train", "valid")
    assert found.classes == ("normal", "tumor")
    train = found["train"]
    assert train.ids == ("0.png", "1.png", "2.png", "3.png")
    assert train.labels.tolist() == [0, 1, 1, 0]
    assert train.groups == ("a", "a", "b", "b")
    assert train.pixels()[:, 0, 0, 0].tolist() == [0, 10, 20, 30]
    assert "classes by 'label', patients by 'patient'" in found.describe()


def test_one_set_is_split_here(tmp_path: Path) -> None:
    save_to_disk(table([0, 1] * 10, {"label": NAMES}), tmp_path / "set")
    found = find_images(tmp_path / "set", classes=("tumor", "normal"))
    assert found[None].labels.tolist() == [1, 0] * 10
    real, _ = split_real(found, seed=0)
    assert sum(map(len, real.values())) == 20


@pytest.mark.parametrize(
    "name",
    ["data/train-00000-of-00001.parquet", "train.parquet", "default/train/0000.parquet"],
)
def test_parquet(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(table(["b", "a", "b"], {}, paths=False), file)
    assert find_images(file)["train"].labels.tolist() == [1, 0, 1]
    found = find_images(tmp_path)
    assert found.classes == ("a", "b")
    assert found["train"].ids == ("train-0", "train-1", "train-2")
    assert found["train"].labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("name", ["train/features.parquet", "train.parquet", "state.json"])
def test_a_table_beside_class_folders_is_no_data_set(tmp_path: Path, name: str) -> None:
    for label in ("normal", "tumor"):
        (tmp_path / "train" / label).mkdir(parents=True)
        (tmp_path / "train" / label / "0.png").write_bytes(png(0))
    if name.endswith("parquet"):
        pq.write_table(table([0], {"label": NAMES}), tmp_path / name)
    else:
        (tmp_path / name).write_text('{"step": 3}')
    assert find_images(tmp_path).classes == ("normal", "tumor")


def test_several_data_sets_are_told_apart(tmp_path: Path) -> None:
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
        pq.write_table(table(["b", "a"], {}), tmp_path / name / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="several data sets, in large, small; give a path to one"):
        find_images(tmp_path)
    assert len(find_images(tmp_path / "small")["train"]) == 2


@pytest.mark.parametrize("kind", ["bytes", "paths"])
def test_columns_of_plain_contents(tmp_path: Path, kind: str) -> None:
    images = pa.array([png(10), png(20)]) if kind == "bytes" else ["0.png", "1.png"]
    noted = {"info": {"features": {"image": {"_type": "Image"}}}}
    rows = pa.table({"image": images, "label": ["10", "9"]})
    save_to_disk(rows.replace_schema_metadata({"huggingface": json.dumps(noted)}), tmp_path / "set")
    for i in range(2):
        (tmp_path / "set" / f"{i}.png").write_bytes(png(10 * (i + 1)))
    found = find_images(tmp_path / "set")
    assert found.classes == ("9", "10")  # numbers sort by value
    assert found[None].pixels()[:, 0, 0, 0].tolist() == [10, 20]


def test_patients_by_a_pattern_or_a_column(tmp_path: Path) -> None:
    save_to_disk(table([0, 1], {"label": NAMES}), tmp_path / "set")
    assert find_images(tmp_path / "set", group=r"^\d")[None].groups == ("0", "1")
    with pytest.raises(ValueError, match="give no layout or table"):
        find_images(tmp_path / "set", layout="class")
    save_to_disk(table([0, 1], {"label": NAMES}, Patient_ID=["a", None]), tmp_path / "unknown")
    with pytest.raises(ValueError, match="1 of 2 images have no patient in 'Patient_ID'"):
        find_images(tmp_path / "unknown")


def test_classes_without_an_image_are_left_out(tmp_path: Path) -> None:
    names = {"names": ["unlabelled", "tumor", "normal"], "_type": "ClassLabel"}
    save_to_disk(table([2, 1], {"label": names}), tmp_path / "set")
    assert find_images(tmp_path / "set").classes == ("tumor", "normal")


def test_kept_images_are_exported_as_files(tmp_path: Path) -> None:
    save_to_disk(table([0, 1], {"label": NAMES}, paths=False), tmp_path / "set")
    pool = find_images(tmp_path / "set")[None]
    mask = np.ones(2, bool)
    selection = Selection(mask, mask.astype(float), pool.ids, ["normal", "tumor"], "all")
    export_images(selection, pool, tmp_path / "out")
    again = find_images(tmp_path / "out")[None]
    assert (again.pixels() == pool.pixels()).all() and (again.labels == pool.labels).all()
    with pytest.raises(ValueError, match="links need images in a directory"):
        export_images(selection, pool, tmp_path / "links", link_from=tmp_path / "set")


def test_rows_without_a_class_are_counted(tmp_path: Path) -> None:
    save_to_disk(table([0, -1, 1], {"label": NAMES}), tmp_path / "set")
    found = find_images(tmp_path / "set")
    assert found[None].ids == ("0.png", "2.png")
    assert found.notes == ("1 images without a class are left out",)


def test_a_split_without_labels_is_left_out(tmp_path: Path) -> None:
    for split, labels in (("train", [0, 1] * 10), ("test", [-1, -1])):
        save_to_disk(table(labels, {"label": NAMES}), tmp_path / "set" / split)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    found = find_images(tmp_path / "set")
    assert found.splits == ("train",)
    assert found.notes == ("2 images of test without a class are left out",)


def test_images_that_lie_beside(tmp_path: Path) -> None:
    rows = table([0, 1], {"label": NAMES})
    images = pa.array([{"bytes": None, "path": name} for name in ("x.png", "gone.png")], IMAGE)
    save_to_disk(
        rows.set_column(0, "image", images).replace_schema_metadata(rows.schema.metadata),
        tmp_path / "set",
    )
    (tmp_path / "set" / "x.png").write_bytes(png(70))
    data = find_images(tmp_path / "set")[None]
    assert (data.subset([0]).pixels() == 70).all()
    with pytest.raises(ValueError, match=r"gone\.png"):
        data.pixels()


MULTI_LABEL = {"feature": NAMES, "_type": "List"}


@pytest.mark.parametrize(
    "rows, message",
    [
        (table([0, 1], {"label": NAMES, "grade": NAMES}, grade=[0, 1]), "label or grade"),
        (table([[0], [0, 1]], {"label": MULTI_LABEL}), "several classes per image"),
        (table([0], {}).rename_columns(["image", "what"]), r"no column \(image, what\) tells"),
        (table([0], {}).rename_columns(["scan", "label"]), "no column .* holds images"),
        (table([-1, -1], {"label": NAMES}), "no image has a class in 'label'"),
        (table([0, 2], {"label": NAMES}), "holds class 2, and has 2 names"),
    ],
    ids=[
        "two columns of classes",
        "several classes",
        "no classes",
        "no images",
        "no labels",
        "a class without a name",
    ],
)
def test_what_cannot_be_known_is_said(tmp_path: Path, rows: pa.Table, message: str) -> None:
    save_to_disk(rows, tmp_path / "set")
    with pytest.raises(ValueError, match=message):
        find_images(tmp_path / "set")


def test_splits_with_other_classes_are_refused(tmp_path: Path) -> None:
    turned = {**NAMES, "names": ["tumor", "normal"]}
    for split, names in (("train", NAMES), ("test", turned)):
        save_to_disk(table([0, 1], {"label": names}), tmp_path / "set" / split)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match="the splits have different columns or classes"):
        find_images(tmp_path / "set")


def test_the_column_of_classes_can_be_given(tmp_path: Path) -> None:
    save_to_disk(table([0, 1], {"label": NAMES, "grade": NAMES}, grade=[1, 0]), tmp_path / "set")
    found = find_images(tmp_path / "set", label_column="grade")
    assert found[None].labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match="no column 'nothing'; one of image, label, grade"):
        find_images(tmp_path / "set", label_column="nothing")


def test_a_damaged_file(tmp_path: Path) -> None:
    save_to_disk(table([0, 1], {"label": NAMES}), tmp_path / "set")
    file = tmp_path / "set" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"data-00000-of-00001\.arrow cannot be read"):
        find_images(tmp_path / "set")
