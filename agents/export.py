"""Hand a selection on: as class folders, or as a torch data set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset

from synthselect_env import Dataset, FeatureBank, Selection
from synthselect_env.bank.selection import candidate_ids
from synthselect_env.data import EncodedImages, decode


class SelectedImages(TorchDataset):  # type: ignore[type-arg]
    """Real training images of a bank and the candidates that a selection keeps.

    .. code-block:: python

        images = SelectedImages(bank, Selection.load("selection.csv"))
        loader = torch.utils.data.DataLoader(images, batch_size=64, shuffle=True)

    :param bank: bank with images
    :param selection: selection of its candidates
    :param transform: function of a PIL image; None for float tensors (3, h, w) in 0..1
    :param with_real: whether the real training images are among them
    :raises ValueError: if the bank has no images, or the selection is of other candidates
    """

    def __init__(
        self,
        bank: FeatureBank,
        selection: Selection,
        transform: Callable[[Image.Image], Any] | None = None,
        with_real: bool = True,
    ) -> None:
        kept = bank.candidates.subset(positions_of_kept(selection, bank.candidates))
        parts = [bank.train, kept] if with_real else [kept]
        if any(part.images is None for part in parts):
            raise ValueError(f"{bank.source} holds features only; its images are not in it")
        self.images = Dataset.concatenate(parts)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        images = self.images.images
        assert images is not None
        pixels = decode(images[[position]])[0]
        label = int(self.images.labels[position])
        if self.transform is not None:
            return self.transform(Image.fromarray(pixels)), label
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255, label


def positions_of_kept(selection: Selection, candidates: Dataset) -> np.ndarray:
    """Return the positions of the kept candidates in a pool.  int64 (k,)

    :param selection: selection
    :param candidates: pool of candidates, in any order
    :raises ValueError: if the pool lacks one of them
    """
    position_of = {name: i for i, name in enumerate(candidate_ids(candidates))}
    kept = [name for name, keep in zip(selection.ids, selection.mask) if keep]
    missing = [name for name in kept if name not in position_of]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(kept)} kept images are not among these candidates (first: "
            f"{missing[0]}); give the folder that the bank was built from"
        )
    return np.array([position_of[name] for name in kept], np.int64)


def export_images(
    selection: Selection,
    candidates: Dataset,
    out: Path,
    real: Dataset | None = None,
    link_from: Path | None = None,
    link_real_from: Path | None = None,
    on_image: Callable[[], object] | None = None,
) -> int:
    """Write the kept candidates into class folders, and return the number of images.

    Files are copied as they are. Images without files are written as PNG.

    :param selection: selection
    :param candidates: the pool that it was made from
    :param out: directory to write, which must be empty or not there
    :param real: real images to put beside them
    :param link_from: directory of the candidates' files, to which links are made; None to copy
    :param link_real_from: directory of the real images' files
    :param on_image: function that is called after each image
    :raises ValueError: if the directory holds something, the pool lacks an image, or links are asked
        for to images that have no files
    """
    kept = candidates.subset(positions_of_kept(selection, candidates))
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; give another directory")
    temporary = out.with_name(f".{out.name}.part")
    if temporary.exists():
        shutil.rmtree(temporary)
    total = 0
    for dataset, prefix, source in (
        (kept, "synthetic_", link_from),
        (real, "real_", link_real_from),
    ):
        if dataset is None:
            continue
        prefix = prefix if real is not None else ""
        total += _write(dataset, temporary, prefix, source, on_image)
    if out.exists():
        out.rmdir()
    temporary.rename(out)
    return total


def _unused(target: Path, used: set[Path]) -> Path:
    """Return a path of that name, numbered if it is taken. Folders that are joined share names."""
    number, path = 1, target
    while path in used:
        number += 1
        path = target.with_name(f"{target.stem}-{number}{target.suffix}")
    used.add(path)
    return path


def _write(
    dataset: Dataset,
    out: Path,
    prefix: str,
    link_from: Path | None,
    on_image: Callable[[], object] | None,
) -> int:
    """Write the images of a dataset into class folders."""
    images = dataset.images
    files = images.files if isinstance(images, EncodedImages) else None
    if link_from is not None and (files is None or not link_from.is_dir()):
        raise ValueError("links need images in a directory; copy those of an archive or bank")
    used: set[Path] = set()
    for name in dataset.classes:
        (out / name).mkdir(parents=True, exist_ok=True)
    for position, name in enumerate(candidate_ids(dataset)):
        label = dataset.classes[dataset.labels[position]]
        parts = PurePosixPath(name).parts
        flat = prefix + "_".join(parts[1:] if len(parts) > 1 and parts[0] == label else parts)
        if files is None and not flat.endswith(".png"):
            flat += ".png"
        target = _unused(out / label / flat, used)
        if files is None or not isinstance(images, EncodedImages):
            pixels = dataset.subset([position]).pixels()[0]
            Image.fromarray(pixels).save(target)
        elif link_from is not None:
            os.symlink((link_from / files[position]).resolve(strict=True), target)
        else:
            target.write_bytes(images.blob(position))
        if on_image:
            on_image()
    return len(dataset)
