from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from synthselect_env.data import read_pcam

PREFIX = "camelyonpatch_level_2_split_valid"


@pytest.fixture
def pcam_files(tmp_path: Path) -> Path:
    """Six patches, whose shade is their position, with alternating labels."""
    shades = np.arange(6, dtype=np.uint8)
    with h5py.File(tmp_path / f"{PREFIX}_x.h5", "w") as file:
        file["x"] = shades[:, None, None, None] * np.ones((1, 96, 96, 3), np.uint8)
    with h5py.File(tmp_path / f"{PREFIX}_y.h5", "w") as file:
        file["y"] = (shades % 2).reshape(6, 1, 1, 1)
    return tmp_path


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        (None, [0, 1, 2, 3, 4, 5]),
        (np.array([5, 0, 3]), [5, 0, 3]),
        (np.array([2, 2]), [2, 2]),
        (np.array([True, False, False, True, False, False]), [0, 3]),
    ],
    ids=["all", "unordered", "repeated", "mask"],
)
def test_reader(pcam_files: Path, indices: np.ndarray | None, expected: list[int]) -> None:
    data = read_pcam(pcam_files, "valid", indices)
    assert data.images.shape[1:] == (96, 96, 3)
    assert data.images[:, 0, 0, 0].tolist() == expected
    assert data.labels.tolist() == [i % 2 for i in expected]
    assert data.ids == tuple(f"valid-{i}" for i in expected)
    assert data.classes == ("normal", "tumor")


def test_positions_and_splits_that_are_not_there(pcam_files: Path) -> None:
    with pytest.raises(FileNotFoundError, match="split_train_x.h5 does not exist; unpack"):
        read_pcam(pcam_files, "train")
    with pytest.raises(ValueError, match=r"must lie in 0..5, got 6..6"):
        read_pcam(pcam_files, "valid", np.array([6]))


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("y", np.array([7, 0, 0, 0, 0, 0]), r"labels must be 0 .* got \[0, 7\]"),
        ("y", np.zeros(5), "y has 5 labels for 6 images; the two files do not belong together"),
        ("y", None, "must hold a dataset x and a dataset y"),
        ("x", np.zeros((6, 96, 96)), r"x is float64 \(6, 96, 96\), expected uint8"),
    ],
    ids=["labels", "count", "missing", "shape"],
)
def test_other_contents(
    pcam_files: Path, kind: str, content: np.ndarray | None, message: str
) -> None:
    with h5py.File(pcam_files / f"{PREFIX}_{kind}.h5", "w") as file:
        if content is not None:
            file[kind] = content
    with pytest.raises(ValueError, match=message):
        read_pcam(pcam_files, "valid")


def test_damaged_files(pcam_files: Path) -> None:
    (pcam_files / f"{PREFIX}_x.h5").write_bytes(b"half a download")
    with pytest.raises(ValueError, match="valid_x.h5 is no complete HDF5 file"):
        read_pcam(pcam_files, "valid")
