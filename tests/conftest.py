"""Fixtures that several folders share."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from synthselect_env import FeatureBank, load_bank
from synthselect_env.bank.embedded import toy_bank

torch.set_num_threads(1)  # test processes run side by side, and their tensors are small


@pytest.fixture(scope="session")
def toy() -> FeatureBank:
    return toy_bank()


@pytest.fixture(scope="session")
def small() -> FeatureBank:
    """A pool that does not divide into eight batches: 2 × 13 candidates."""
    return toy_bank(candidates_per_class=13, seed=1)


@pytest.fixture(scope="session")
def import_benchmark() -> Callable[[str], ModuleType]:
    """Import a script of benchmarks/; scripts import each other by name."""

    def load(name: str) -> ModuleType:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
            return importlib.import_module(name)

    return load


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """train/ and valid/ with two classes and every suffix that is read."""
    rng = np.random.default_rng(0)
    suffixes = ["png", "jpg", "tif", "webp", "bmp"]
    for split in ("train", "valid"):
        for shade, name in ((60, "normal"), (180, "tumor")):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for i in range(8):
                pixels = np.clip(shade + rng.normal(0, 20, (24, 20, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{split}-{name}-{i}.{suffixes[i % 5]}")
    (tmp_path / "set" / "README.txt").write_text("not a picture")
    return tmp_path / "set"


@pytest.fixture
def image_zip(image_folder: Path) -> Path:
    path = image_folder.parent / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in image_folder.rglob("*.*"):
            archive.write(file, Path("set") / file.relative_to(image_folder))
    return path


@pytest.fixture(scope="session")
def pcam() -> FeatureBank:
    """The embedded PCam bank, read once."""
    return load_bank("pcam")


@pytest.fixture(scope="session")
def few() -> FeatureBank:
    """The embedded bank of few annotated images, read once."""
    return load_bank("pcam-few")


@pytest.fixture(scope="session")
def planted() -> FeatureBank:
    """The embedded PCam bank of known truth, read once."""
    return load_bank("pcam-planted")


@pytest.fixture(scope="session")
def cervical() -> FeatureBank:
    """The embedded phantom, read once."""
    return load_bank("cervical")
