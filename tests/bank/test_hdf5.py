"""Banks on disk: saved and loaded without loss, and refused if damaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from synthselect_env import Dataset, FeatureBank, Retrainings
from synthselect_env.data import EncodedImages
from synthselect_env.metrics import METRICS


def complete(bank: FeatureBank, encoded: bool = True) -> FeatureBank:
    """The bank with everything that a bank can have."""
    rng = np.random.default_rng(0)

    def dressed(split: Dataset) -> Dataset:
        return replace(
            split,
            images=EncodedImages.encode(split.images) if encoded else split.images,
            groups=[f"patient {i % 3}" for i in range(len(split))],
            image_stats=rng.normal(size=(len(split), 3)).astype(np.float32),
        )

    splits = {name: dressed(split) for name, split in bank.splits.items()}
    n = len(bank.candidates)
    retrainings = Retrainings(
        selections=rng.random((3, n)) < 0.5,
        metrics={metric: rng.random((3, 2)) for metric in METRICS},
        training_config={"seed": 0},
        images_digest="unknown",
        own_log_probability=rng.normal(size=(3, n)).astype(np.float16),
    )
    return replace(bank, **splits, retrainings=retrainings)


@pytest.mark.parametrize("encoded", [True, False], ids=["encoded", "pixels"])
def test_round_trip_is_lossless(small: FeatureBank, tmp_path: Path, encoded: bool) -> None:
    bank = complete(small, encoded)
    bank.save(tmp_path / "bank.h5")
    read = FeatureBank.load(tmp_path / "bank.h5")
    for name in ("classes", "extractor", "provenance", "digest"):
        assert getattr(read, name) == getattr(bank, name), name
    for name, ours in bank.splits.items():
        theirs = read.splits[name]
        assert theirs.features.dtype == np.float32
        for values in ("features", "labels", "flaw", "image_stats"):
            assert np.array_equal(getattr(ours, values), getattr(theirs, values)), (name, values)
        assert (ours.ids, ours.groups) == (theirs.ids, theirs.groups)
        assert np.array_equal(ours.pixels(), theirs.pixels())
        assert isinstance(theirs.images, EncodedImages) == encoded
    ours, theirs = bank.retrainings, read.retrainings
    assert np.array_equal(ours.selections, theirs.selections)
    assert np.array_equal(ours.own_log_probability, theirs.own_log_probability)
    assert all(np.array_equal(ours.metrics[m], theirs.metrics[m]) for m in METRICS)
    assert ours.training_config == theirs.training_config
    assert ours.images_digest == theirs.images_digest
    assert [path.name for path in tmp_path.iterdir()] == ["bank.h5"]  # no temporary file is left


def test_half_precision_is_close_and_refuses_overflow(small: FeatureBank, tmp_path: Path) -> None:
    small.save(tmp_path / "half.h5", half=True)
    half = FeatureBank.load(tmp_path / "half.h5")
    assert np.abs(half.train.features - small.train.features).max() < 5e-3
    large = replace(small, valid=replace(small.valid, features=small.valid.features * 1e6))
    with pytest.raises(ValueError, match="valid/features .* save with half=False"):
        large.save(tmp_path / "large.h5", half=True)
    assert not (tmp_path / "large.h5").exists()


def test_half_precision_where_it_loses_nothing(small: FeatureBank, tmp_path: Path) -> None:
    small.save(tmp_path / "half.h5", half=True)
    half = FeatureBank.load(tmp_path / "half.h5")
    half.save(tmp_path / "again.h5")
    small.save(tmp_path / "single.h5")
    for name, dtype in (("again", np.float16), ("single", np.float32)):
        with h5py.File(tmp_path / f"{name}.h5") as file:
            assert file["train/features"].dtype == dtype
    again = FeatureBank.load(tmp_path / "again.h5")
    assert np.array_equal(again.train.features, half.train.features)


def put(name: str, values: object) -> Callable[[h5py.File], None]:
    """A damage: another dataset in the place of one."""

    def damage(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if values is not None:
            file[name] = values

    return damage


def put_at(name: str, row: object, value: object) -> Callable[[h5py.File], None]:
    """A damage: another value in a row of a dataset."""

    def damage(file: h5py.File) -> None:
        file[name][row] = value

    return damage


def put_attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    """A damage: another value of an attribute of the file."""
    return lambda file: file.attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("damage", "where", "remedy"),
    [
        (
            put_at("candidates/features", 17, np.nan),
            r"candidates/features has 1 rows with NaN or infinity \(first: 17\)",
            "extract",
        ),
        (put_at("valid/labels", 3, 2), "valid/labels has 1 labels outside 0..1", "positions in"),
        (put_at("valid/labels", ..., 1), "valid/labels has images of fewer than two", "add some"),
        (put_at("train/labels", ..., 1), "train/labels has no image of class left", "drop the"),
        (put("test/labels", np.zeros(5, int)), "test/labels", "one label per feature row"),
        (put("train/features", np.zeros((24, 8), int)), "train/features is int64", "floats"),
        (put("test/features", np.zeros((512, 7))), "features differ in length", "same extractor"),
        (put("train/labels", None), "train/labels is missing", "labels"),
        (put("candidates", None), "group candidates is missing", "a bank has"),
        (put("test", np.arange(3)), "test is a dataset, expected a group", "features"),
        (put("train/ids", np.arange(24)), "train/ids is int64, expected strings", "text"),
        (put_at("candidates/ids", 1, "candidate-0"), "candidates/ids has", "unique"),
        (put("candidates/flaw", np.zeros((26, 2))), "candidates/flaw", "one per image"),
        (put("valid/images/bytes", None), "valid/images/bytes is missing", "one byte array"),
        (put_at("valid/images/offsets", 0, 1), "valid/images/offsets must rise from 0", "again"),
        (put("retrainings/figures", None), "retrainings is not as .*save writes it", "again"),
        (put("retrainings/figures/auc", None), "retrainings/figures lacks auc", "all metrics"),
        (
            put("retrainings/selections", np.zeros((3, 9), np.uint8)),
            r"retrainings/selections is \(3, 9\), not of 26 candidates",
            "delete the group",
        ),
        (put_attribute("schema_version", 99), "schema_version is 99", "update"),
        (put_attribute("classes", ["same"] * 2), "two or more different names", "different"),
        (put_attribute("provenance", "{"), "provenance is not JSON", "JSON"),
    ],
)
def test_damaged_files_say_what_where_and_what_to_do(
    complete_file: bytes,
    tmp_path: Path,
    damage: Callable[[h5py.File], None],
    where: str,
    remedy: str,
) -> None:
    path = tmp_path / "bank.h5"
    path.write_bytes(complete_file)
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(ValueError, match=where) as error:
        FeatureBank.load(path)
    assert "bank.h5" in str(error.value) and remedy in str(error.value)


@pytest.fixture(scope="module")
def complete_file(small: FeatureBank, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("complete") / "bank.h5"
    complete(small).save(path)
    return path.read_bytes()


def test_byte_string_classes_are_read(small: FeatureBank, tmp_path: Path) -> None:
    small.save(tmp_path / "bank.h5")
    with h5py.File(tmp_path / "bank.h5", "a") as file:
        file.attrs["classes"] = np.array([b"left", b"right"])
    assert FeatureBank.load(tmp_path / "bank.h5").classes == ("left", "right")


def test_other_files_are_no_banks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing.h5 does not exist; give the path"):
        FeatureBank.load(tmp_path / "nothing.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(ValueError, match="not a readable HDF5 file"):
        FeatureBank.load(tmp_path / "text.h5")
    h5py.File(tmp_path / "empty.h5", "w").close()
    with pytest.raises(ValueError, match="schema_version is None"):
        FeatureBank.load(tmp_path / "empty.h5")


def test_provenance_may_hold_numpy_numbers(small: FeatureBank, tmp_path: Path) -> None:
    path = tmp_path / "bank.h5"
    replace(small, provenance={"n": np.int64(3), "share": np.float32(0.5)}).save(path)
    assert FeatureBank.load(path).provenance == {"n": 3, "share": 0.5}
    with pytest.raises(TypeError, match="provenance holds a (Posix|Windows)Path"):
        replace(small, provenance={"from": tmp_path}).save(path)
    assert FeatureBank.load(path).provenance == {"n": 3, "share": 0.5}
