"""PatchCamelyon's own HDF5 files (Veeling et al. 2018, arXiv:1806.03962)."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from synthselect_env.data.dataset import Dataset
from synthselect_env.data.images import positions_of

CLASSES = ("normal", "tumor")


def read_pcam(directory: str | Path, split: str, indices: np.ndarray | None = None) -> Dataset:
    """Read one split of PCam from ``camelyonpatch_level_2_split_{split}_{x,y}.h5``.

    :param directory: where the files lie
    :param split: "train", "valid" or "test"
    :param indices: positions to read, or a boolean mask, e.g. a random 3 %; None for all (train: 7.2 GB decoded)
    :return: uint8 (n, 96, 96, 3); ids are ``{split}-{position}``
    :raises FileNotFoundError: when a file is missing
    :raises ValueError: when the datasets have another shape, or other labels than 0 and 1
    """
    files = {
        kind: Path(directory) / f"camelyonpatch_level_2_split_{split}_{kind}.h5" for kind in "xy"
    }
    for file in files.values():
        if not file.exists():
            raise FileNotFoundError(f"{file} does not exist; unpack PCam's {file.name}.gz there")
        if not h5py.is_hdf5(file):
            raise ValueError(f"{file} is no complete HDF5 file; download or unpack it again")
    with h5py.File(files["x"]) as x_file, h5py.File(files["y"]) as y_file:
        if "x" not in x_file or "y" not in y_file:
            raise ValueError(
                f"{files['x']} and {files['y'].name} must hold a dataset x and a dataset y"
            )
        x, y = x_file["x"], y_file["y"]
        if x.ndim != 4 or x.shape[3] != 3 or x.dtype != np.uint8:
            raise ValueError(
                f"{files['x']}: dataset x is {x.dtype} {x.shape}, expected uint8 (n, 96, 96, 3)"
            )
        if y.size != len(x):
            raise ValueError(
                f"{files['y']}: dataset y has {y.size} labels for {len(x)} pictures; the two files do not belong together"
            )
        positions = np.arange(len(x)) if indices is None else positions_of(indices, len(x))
        if len(positions) and not 0 <= positions.min() <= positions.max() < len(x):
            raise ValueError(
                f"{files['x']}: indices must lie in 0..{len(x) - 1}, got {positions.min()}..{positions.max()}"
            )
        labels = y[()].reshape(-1)[positions].astype(np.int64)
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(
                f"{files['y']}: labels must be 0 (normal) or 1 (tumor), got {np.unique(labels).tolist()}"
            )
        # h5py reads increasing positions only: read each once, in order, then put them into the order asked for.
        unique, inverse = np.unique(positions, return_inverse=True)
        images = x[unique][inverse] if len(unique) < len(x) else x[()][positions]
    return Dataset.of_images(images, labels, tuple(f"{split}-{i}" for i in positions), CLASSES)
