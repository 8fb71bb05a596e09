"""MedMNIST's npz files (Yang et al. 2023, arXiv:2110.14795)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from zipfile import is_zipfile

import numpy as np

from synthselect_env.data.dataset import Dataset
from synthselect_env.data.layouts import canonical_split


def read_medmnist(path: Path) -> dict[str | None, Dataset]:
    """Read the splits of a file: ``train_images``, ``train_labels``, and so on.

    :param path: npz file
    :return: split to its images, uint8 (n, h, w, 3); grey ones are repeated
    :raises ValueError: if the file is damaged, or holds other arrays
    """
    datasets: dict[str | None, Dataset] = {}
    if not is_zipfile(path):
        raise ValueError(f"{path} is no file of arrays that can be read; is it whole?")
    with np.load(path, allow_pickle=False) as arrays:
        names = {
            f"{split}_images": split
            for split in ("train", "val", "test")
            if f"{split}_images" in arrays and f"{split}_labels" in arrays
        }
        if not names:
            raise ValueError(
                f"{path} has arrays {', '.join(arrays.files)}; expected train_images, "
                "train_labels and so on, as MedMNIST has"
            )
        for name, split in names.items():
            images, labels = arrays[name], arrays[f"{split}_labels"]
            if labels.ndim > 1 and labels.shape[1] > 1:
                raise ValueError(
                    f"{path}: {split}_labels is {labels.shape}; images of several classes are not "
                    "supported"
                )
            if images.ndim == 3:
                images = np.repeat(images[..., None], 3, 3)
            if images.dtype != np.uint8 or images.shape[3:] != (3,):
                raise ValueError(
                    f"{path}: {name} is {images.dtype} {images.shape}, expected uint8 (n, h, w) "
                    "or (n, h, w, 3)"
                )
            labels = labels.reshape(-1).astype(np.int64)
            ids = tuple(f"{split}-{i}" for i in range(len(labels)))
            split = canonical_split(split)
            datasets[split] = Dataset.of_images(images, labels, ids, ())
    count = 1 + max(int(data.labels.max(initial=0)) for data in datasets.values())
    classes = tuple(map(str, range(count)))
    return {split: replace(data, classes=classes) for split, data in datasets.items()}
