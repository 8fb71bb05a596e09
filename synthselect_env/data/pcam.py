"""PatchCamelyon's own HDF5 files (Veeling et al. 2018, arXiv:1806.03962)."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from synthselect_env.data.dataset import Dataset
from synthselect_env.data.images import positions_of
from synthselect_env.data.layouts import SPLITS

CLASSES = ("normal", "tumor")

FILE = "camelyonpatch_level_2_split_{split}_{part}.h5"
"""Name of the file of a split's images (x) or labels (y)."""


def pcam_splits(directory: Path) -> list[str]:
    """Return the splits whose images lie in a directory.

    :param directory: folder of the files
    """
    return [s for s in SPLITS if (directory / FILE.format(split=s, part="x")).exists()]


def read_pcam(directory: str | Path, split: str, indices: np.ndarray | None = None) -> Dataset:
    """Read one split of PCam from ``camelyonpatch_level_2_split_{split}_{x,y}.h5``.

    :param directory: folder of the files
    :param split: "train", "valid" or "test"
    :param indices: positions to read, or a boolean mask, e.g. a random share. None reads all, for
        which the decoded training split must fit in memory
    :return: uint8 (n, 96, 96, 3); ids are ``{split}-{position}``
    :raises FileNotFoundError: if a file is missing
    :raises ValueError: if the datasets have another shape, or labels other than 0 and 1
    """
    x_path, y_path = (Path(directory) / FILE.format(split=split, part=part) for part in "xy")
    for path in (x_path, y_path):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; unpack PCam's {path.name}.gz there")
        if not h5py.is_hdf5(path):
            raise ValueError(f"{path} is no complete HDF5 file; download or unpack it again")

    with h5py.File(x_path) as x_file, h5py.File(y_path) as y_file:
        if "x" not in x_file or "y" not in y_file:
            raise ValueError(f"{x_path} and {y_path.name} must hold a dataset x and a dataset y")
        x, y = x_file["x"], y_file["y"]
        _check_shapes(x, y, x_path, y_path)
        positions = np.arange(len(x)) if indices is None else positions_of(indices, len(x))
        if len(positions) and not 0 <= positions.min() <= positions.max() < len(x):
            raise ValueError(
                f"{x_path}: indices must lie in 0..{len(x) - 1}, "
                f"got {positions.min()}..{positions.max()}"
            )
        labels = y[()].reshape(-1)[positions].astype(np.int64)
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(
                f"{y_path}: labels must be 0 (normal) or 1 (tumor), "
                f"got {np.unique(labels).tolist()}"
            )
        images = _rows(x, positions)
    ids = tuple(f"{split}-{i}" for i in positions)
    return Dataset.of_images(images, labels, ids, CLASSES)


def _check_shapes(x: h5py.Dataset, y: h5py.Dataset, x_path: Path, y_path: Path) -> None:
    if x.ndim != 4 or x.shape[3] != 3 or x.dtype != np.uint8:
        raise ValueError(
            f"{x_path}: dataset x is {x.dtype} {x.shape}, expected uint8 (n, 96, 96, 3)"
        )
    if y.size != len(x):
        raise ValueError(
            f"{y_path}: dataset y has {y.size} labels for {len(x)} images; "
            "the two files do not belong together"
        )


def _rows(x: h5py.Dataset, positions: np.ndarray) -> np.ndarray:
    """Return rows of an HDF5 dataset in any order, repeated ones too."""
    # h5py reads increasing positions only, so each is read once, in order.
    unique, inverse = np.unique(positions, return_inverse=True)
    if len(unique) == len(x):
        return x[()][positions]
    return x[unique][inverse]
