from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthselect_env.data import read_class_folders


def test_train_resume_and_sample(
    patches: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    run_example: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A resumed run keeps its extractor and log, and sampling it twice gives the same files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("synthselect_env.bank.extraction.LEAST_STEPS", 1)  # a short extractor
    for split in ("train", "valid"):
        for i, (image, label) in enumerate(zip(*patches)):
            file = tmp_path / "data" / split / "ab"[label] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    training = ["--data", "data", "--split", "train", "--against", "valid", "--run", "run"]
    training += ["--size", 16, 16, "--batch-size", 4, "--width", 4]
    training += ["--pretraining-steps", 2, "--save-every", 1]
    run_example("train_histogan.py", *training, "--steps", 1)
    extractor = (tmp_path / "run" / "extractor.pt").read_bytes()
    run_example("train_histogan.py", *training, "--steps", 2)
    assert (tmp_path / "run" / "extractor.pt").read_bytes() == extractor
    rows = list(csv.DictReader((tmp_path / "run" / "losses.csv").read_text().splitlines()))
    assert len(rows) == 2
    assert all(float(row["frechet"]) > 0 for row in rows)

    for out in ("one", "two"):
        sampling = ("--gan", "run/best.pt", "--per-class", 3, "--truncation", 0.7, "--out", out)
        run_example("sample_histogan.py", *sampling)
    one, two = (read_class_folders(tmp_path / name) for name in ("one", "two"))
    assert one.classes == ("a", "b")
    assert len(one) == 6
    assert (one.pixels() == two.pixels()).all()
