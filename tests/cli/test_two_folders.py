"""From two folders to a folder to train on: ``auto``, ``select``, ``compare``, ``report``, ``export``."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from agents.cli import auto, main
from agents.export import SelectedImages
from synthselect_env import FeatureBank, Selection, load_bank
from synthselect_env.data import find_images
from synthselect_env.synthesis import HistoGAN, HistoGANConfig
from synthselect_env.training import config as training_config

# tqdm says so of the bar that Stable-Baselines3 draws.
pytestmark = pytest.mark.filterwarnings("ignore:rich is experimental")


def write_images(root: Path, n: int, seed: int) -> None:
    """Class folders of n images each: dark and bright noise."""
    rng = np.random.default_rng(seed)
    for name, level in (("dark", 60), ("bright", 180)):
        (root / name).mkdir(parents=True)
        for i in range(n):
            pixels = np.clip(rng.normal(level, 40, (20, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02d}.png")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    write_images(root / "real", 25, 0)
    write_images(root / "synthetic", 12, 1)
    return root


def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(training_config.SMALL, epochs=1, steps_per_epoch=2, batch_size=8)
    monkeypatch.setattr(training_config, "SMALL", short)


@pytest.fixture(scope="module")
def answer(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that ``auto`` wrote."""
    out = tmp_path_factory.mktemp("auto") / "answer"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(out.parent)
        quickly(monkeypatch)
        arguments = ["--real", str(folders / "real"), "--candidates", str(folders / "synthetic")]
        arguments += ["--out", str(out), "--retrainings", "20", "--rounds", "1", "--device", "cpu"]
        assert main(["auto", *arguments]) == 0
        first = Selection.load(out / "selection.csv")

        # The same command goes on, and comes to the same selection. Another one is refused.
        assert main(["auto", *arguments]) == 0
        assert (Selection.load(out / "selection.csv").mask == first.mask).all()
        assert main(["auto", *arguments, "--seed", "1"]) == 2
    return out


@pytest.mark.slow
def test_auto(answer: Path, folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank = FeatureBank.load(answer / "bank.h5")
    assert len(bank.train) + len(bank.valid) + len(bank.test) == 50
    assert bank.retrainings is not None and bank.retrainings.training_config["folds"] == 5
    selection = Selection.load(answer / "recommended.csv")
    selected = sorted(p.relative_to(answer / "selected") for p in answer.glob("selected/*/*.png"))
    kept = sorted(Path(i) for i, keep in zip(selection.ids, selection.mask) if keep)
    assert selected == kept
    for file in selected:
        original = folders / "synthetic" / file
        assert (answer / "selected" / file).read_bytes() == original.read_bytes()
    assert (answer / "report.html").exists()


@pytest.mark.slow
def test_auto_without_candidates_trains_a_generator(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quickly(monkeypatch)
    quick = HistoGANConfig(steps=1, width=4, pretraining_steps=1)
    monkeypatch.setattr(auto, "QUICK_GENERATOR", quick)
    monkeypatch.setattr(auto, "GENERATED", 24)
    out = tmp_path / "answer"
    arguments = ["--real", str(folders / "real"), "--out", str(out), "--retrainings", "10"]
    arguments += ["--rounds", "1", "--no-random-flips"]
    assert main(["auto", *arguments, "--device", "cpu"]) == 0
    candidates = find_images(out / "candidates")[None]
    assert np.bincount(candidates.labels).tolist() == [12, 12]
    bank = FeatureBank.load(out / "bank.h5")
    assert set(bank.candidates.ids) == set(candidates.ids)
    gan = HistoGAN.load(out / "generator" / "histogan.pt")
    assert gan.config.width == 4 and gan.classes == bank.classes
    assert gan.config.random_flips is False
    # The generator has seen the train images, so they score nothing.
    assert bank.retrainings is not None
    assert bank.retrainings.training_config.get("folds") is None
    assert len(list(out.glob("selected/*/*.png"))) == Selection.load(out / "recommended.csv").count


def test_auto_says_what_is_wrong_before_it_trains_a_generator(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = shutil.copytree(folders / "real", tmp_path / "real")
    (real / "dark" / "00.png").write_bytes(b"nonsense")
    out = tmp_path / "out"
    assert main(["auto", "--real", str(real), "--out", str(out)]) == 2
    assert "dark/00.png" in capsys.readouterr().err
    assert not (out / "generator").exists()


@pytest.mark.slow
def test_the_report_of_a_run_is_written_again(
    answer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickly(monkeypatch)
    files = [answer / name for name in ("report.html", "recommended.csv", "recommendation.json")]
    for file in files:
        file.unlink()
    exporting = ["export", "--selection", str(answer), "--candidates", "x", "--copy-to", "y"]
    assert main([*exporting, "--quiet"]) == 2  # what the run recommends is not known
    assert main(["report", str(answer), "--quiet"]) == 0
    assert all(file.exists() for file in files)
    assert main(["report", str(answer / "selected")]) == 2


@pytest.mark.slow
def test_a_trained_run_selects_and_is_compared(
    answer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank, out = str(answer / "bank.h5"), tmp_path / "again.csv"
    assert main(["select", "--bank", bank, "--by", str(answer), "--out", str(out)]) == 0
    ours, again = Selection.load(answer / "selection.csv"), Selection.load(out)
    assert (again.mask == ours.mask).all()
    capsys.readouterr()
    arguments = ["--bank", bank, "--by", "centroid", str(answer), "--judge", "linear_probe"]
    out = tmp_path / "comparison"
    assert main(["compare", *arguments, "--rounds", "1", "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    gains = facts["gain_in_test_accuracy"]
    assert facts["recommended"] in gains
    assert list(gains) == ["none", "random@2", "centroid", "PPO"] and gains["none"]["mean"] == 0


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("nothing", "unknown selector 'nothing'; one of none, all, random"),
        ("all@2", "all decides on its own how many to keep"),
        ("centroid@much", "such as centroid@2 or centroid@50%"),
        (".", "is no directory of a run"),
    ],
)
def test_select_refuses(by: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["select", "--bank", "toy", "--by", by, "--out", "x.csv"]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def selection(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A selection of every third candidate of the folder."""
    ids = find_images(folders / "synthetic", ("dark", "bright"))[None].ids
    mask = np.arange(len(ids)) % 3 == 0
    labels = [name.split("/")[0] for name in ids]
    file = tmp_path_factory.mktemp("selection") / "selection.csv"
    Selection(mask, mask.astype(float), ids, labels, "every third").save(file)
    return file


@pytest.mark.parametrize("zipped", [False, True], ids=["directory", "zip"])
@pytest.mark.parametrize("real", [False, True], ids=["alone", "with real"])
@pytest.mark.parametrize("how", ["--copy-to", "--link-to"])
def test_export(
    selection: Path, folders: Path, tmp_path: Path, how: str, real: bool, zipped: bool
) -> None:
    pool = folders / "synthetic"
    if zipped:
        pool = Path(shutil.make_archive(str(tmp_path / "pool"), "zip", pool))
    out = tmp_path / "out"
    arguments = ["--selection", str(selection), "--candidates", str(pool), how, str(out)]
    arguments += ["--real", str(folders / "real")] if real else []
    status = main(["export", *arguments, "--quiet"])
    if zipped and how == "--link-to":
        assert status == 2 and not out.exists()
        return
    assert status == 0
    found = find_images(out)
    assert found.classes == ("bright", "dark")
    assert len(found[None]) == 8 + 50 * real
    names = {Path(name).name for name in found[None].ids}
    assert ("synthetic_00.png" if real else "00.png") in names
    file = next(out.glob("dark/*00.png"))
    assert file.is_symlink() == (how == "--link-to")
    assert main(["export", *arguments, "--quiet"]) == 2  # nothing is overwritten


def test_export_from_a_bank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv, out = str(tmp_path / "x.csv"), str(tmp_path / "out")
    assert main(["select", "--bank", "toy", "--by", "centroid", "--out", csv]) == 0
    assert main(["export", "--selection", csv, "--bank", "toy", "--copy-to", out]) == 0
    assert len(find_images(out)[None]) == Selection.load(csv).count
    assert main(["export", "--selection", csv, "--bank", "pcam-few", "--copy-to", out]) == 2
    assert "kept images are not among these candidates" in capsys.readouterr().err


def test_selected_images_for_torch() -> None:
    bank = load_bank("toy")
    mask = np.arange(len(bank.candidates)) < 10
    images = SelectedImages(bank, Selection.of(bank, mask, mask.astype(float), "ten"))
    assert len(images) == len(bank.train) + 10
    pixels, label = images[len(images) - 1]
    assert pixels.dtype == torch.float32 and pixels.shape[0] == 3 and 0 <= pixels.max() <= 1
    assert label == bank.candidates.labels[9]
    loader = torch.utils.data.DataLoader(images, batch_size=4)
    assert next(iter(loader))[0].shape[0] == 4
    alone = SelectedImages(bank, Selection.of(bank, mask, mask + 0.0, "ten"), with_real=False)
    assert len(alone) == 10


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
def test_real_images_without_splits_are_split_by_patient(
    folders: Path, tmp_path: Path, known: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bank.h5"
    arguments = ["--real", str(folders / "real"), "--candidates", str(folders / "synthetic")]
    arguments += ["--epochs", "1", "--steps-per-epoch", "2", "--device", "cpu"]
    arguments += ["--patient", r"^\d"] if known else []
    assert main(["bank", "build", *arguments, "--out", str(out)]) == 0
    how = "by patient: train 20" if known else "at random, as no patients are known: train 30"
    assert f"split {how}" in capsys.readouterr().out
    bank = FeatureBank.load(out)
    patients = [set(split.groups or ()) for split in (bank.train, bank.valid, bank.test)]
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]


def test_unreadable_images_are_left_out_when_asked(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = shutil.copytree(folders / "synthetic", tmp_path / "pool")
    for name in ("dark/00.png", "bright/05.png"):
        (pool / name).write_bytes(b"nonsense")
    arguments = ["--real", str(folders / "real"), "--candidates", str(pool), "--epochs", "1"]
    arguments += ["--steps-per-epoch", "2", "--device", "cpu", "--out", str(tmp_path / "bank.h5")]
    assert main(["bank", "build", *arguments]) == 2
    error = capsys.readouterr().err
    assert "dark/00.png" in error and "bright/05.png" in error and "--skip-unreadable" in error
    assert main(["bank", "build", *arguments, "--skip-unreadable", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["left_out"]) == 2
    assert len(FeatureBank.load(tmp_path / "bank.h5").candidates) == 22


def test_archives_of_candidates(folders: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pool.zip", "w") as archive:
        for file in (folders / "synthetic").rglob("*.png"):
            archive.write(file, file.relative_to(folders))
    arguments = ["--real", str(folders / "real"), "--candidates", str(tmp_path / "pool.zip")]
    arguments += ["--epochs", "1", "--steps-per-epoch", "2", "--device", "cpu", "--quiet"]
    assert main(["bank", "build", *arguments, "--out", str(tmp_path / "bank.h5")]) == 0
    assert len(FeatureBank.load(tmp_path / "bank.h5").candidates) == 24


def test_images_of_one_name_are_all_exported(tmp_path: Path) -> None:
    names = ["a/x_1.png", "a/x/1.png", "a/0.png", "a/0.jpg", "b/0.png"]
    for i, name in enumerate(names):
        (tmp_path / "pool" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / "pool" / name)
    pool = find_images(tmp_path / "pool", ("a", "b"))[None]
    mask = np.ones(len(pool), bool)
    csv = tmp_path / "x.csv"
    Selection(mask, mask + 0.0, pool.ids, [n[0] for n in pool.ids], "all").save(csv)
    arguments = ["--selection", str(csv), "--candidates", str(tmp_path / "pool"), "--quiet"]
    for how in ("--copy-to", "--link-to"):
        out = tmp_path / how.strip("-")
        assert main(["export", *arguments, how, str(out)]) == 0
        assert sum(file.is_file() for file in out.rglob("*.*")) == len(names)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (["--algorithm", "Credit"], "unknown algorithm Credit"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--retrainings", "19"], "--retrainings must be at least 20"),
    ],
)
def test_auto_says_what_is_wrong_before_it_begins(
    folders: Path,
    tmp_path: Path,
    mistake: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "answer"
    arguments = ["--real", str(folders / "real"), "--candidates", str(folders / "synthetic")]
    assert main(["auto", *arguments, "--out", str(out), *mistake]) == 2
    assert message in capsys.readouterr().err and not out.exists()
