"""From image folders to a bank: ``synthselect generate``, ``bank`` and ``known-truth``."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agents.cli import generate_train, known_truth, main
from synthselect_env import FeatureBank
from synthselect_env.bank import Retrainings
from synthselect_env.bank.embedded import planted_pcam
from synthselect_env.data import (
    Dataset,
    cervical_phantom,
    phantom_candidates,
    read_class_folders,
)
from synthselect_env.data.images import images_digest
from synthselect_env.metrics import METRICS
from synthselect_env.synthesis import HistoGAN
from synthselect_env.training.classifier import Classifier
from synthselect_env.training.config import SMALL

SIZE = ["--size", "16", "16"]


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory, toy: FeatureBank) -> Path:
    """Class folders of toy images; their sizes differ, as those of several sources do."""
    root = tmp_path_factory.mktemp("patches")
    for name in ("train", "valid", "test"):
        split = toy.splits[name]
        for i in range(0, len(split), max(1, len(split) // 24)):
            folder = root / name / toy.classes[split.labels[i]]
            folder.mkdir(parents=True, exist_ok=True)
            side = 12 + i % 5
            image = Image.fromarray(split.images[i]).resize((side, side + i % 2))
            image.save(folder / f"{split.ids[i]}.png")
    return root


def train_arguments(patches: Path, run: Path, steps: int) -> list[str]:
    arguments = ["generate", "train", "--real", patches, *SIZE, "--out", run]
    arguments += ["--steps", steps, "--batch-size", 4, "--pretraining-steps", 2, "--save-every", 1]
    return [str(argument) for argument in arguments]


@pytest.fixture(scope="module")
def generator(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a small GAN."""
    run = tmp_path_factory.mktemp("generator")
    arguments = [*train_arguments(patches, run, 1), "--counts", "8", "8", "--no-random-flips"]
    assert main([*arguments, "--width", "4", "--fid-samples", "0"]) == 0
    return run


@pytest.mark.slow
def test_generate_resumes_and_samples(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate_train, "FEATURE_NETWORK", replace(SMALL, epochs=1, batch_size=4))
    run = tmp_path / "run"
    for steps in (1, 2):
        arguments = train_arguments(patches, run, steps)
        assert main([*arguments, "--width", "4", "--reference-split", "valid"]) == 0
        assert (run / f"samples-{steps:06d}.png").exists()
        extractor = (run / "extractor.pt").read_bytes()
        if steps == 1:
            first = extractor
    assert extractor == first  # so that distances before and after are comparable
    rows = list(csv.DictReader((run / "losses.csv").read_text().splitlines()))
    assert len(rows) == 2 and all(float(row["frechet"]) > 0 for row in rows)

    for name in ("one", "two"):
        sampling = ["--gan", str(run / "best.pt"), "--per-class", "3", "--truncation", "0.7"]
        assert main(["generate", "sample", *sampling, "--out", str(tmp_path / name)]) == 0
    one, two = (read_class_folders(tmp_path / name) for name in ("one", "two"))
    assert one.classes == ("left", "right") and len(one) == 6
    assert (one.pixels() == two.pixels()).all()


def test_a_generator_sees_the_train_images_of_the_bank(toy: FeatureBank, tmp_path: Path) -> None:
    """Images without splits are split as ``bank build`` splits them."""
    real = tmp_path / "real"
    for i in range(60):
        folder = real / toy.classes[toy.candidates.labels[i]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(toy.candidates.images[i]).save(folder / f"{i}.png")
    run, out = tmp_path / "run", tmp_path / "bank.h5"
    quick = ["--steps", "1", "--batch-size", "4", "--pretraining-steps", "1", "--width", "4"]
    quick += ["--fid-samples", "0", "--seed", "3"]
    for arguments in ([], ["--all-images"]):
        where = run / str(len(arguments))
        command = ["generate", "train", "--real", str(real), "--out", str(where), *SIZE]
        assert main([*command, *quick, *arguments]) == 0
    built = ["bank", "build", "--real", str(real), "--candidates", str(real), "--seed", "3"]
    assert main([*built, "--epochs", "1", "--steps-per-epoch", "1", "--out", str(out)]) == 0

    everything = read_class_folders(real)
    train = everything.subset([everything.ids.index(i) for i in FeatureBank.load(out).train.ids])
    assert len(train) == 36
    assert len(FeatureBank.load(out).valid) == 12
    for images, name in ((train, "0"), (everything, "1")):
        seen = HistoGAN.load(run / name / "histogan.pt").image_digests["training"]
        assert seen == images_digest(images.pixels((16, 16)), images.labels)


def test_generate_train_refuses_another_trainings_directory(
    patches: Path, generator: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert HistoGAN.load(generator / "histogan.pt").config.random_flips is False
    arguments = train_arguments(patches, generator, 1)
    assert main([*arguments, "--counts", "8", "8", "--width", "8"]) == 2
    assert "is of another training" in capsys.readouterr().err


def bank_arguments(patches: Path, directory: Path) -> list[str]:
    extractor = str(directory / "extractor.pt")
    arguments = ["bank", "build", "--real", str(patches), "--counts", "8", "8", *SIZE]
    arguments += ["--epochs", "1", "--steps-per-epoch", "1", "--patient", "^[^.]+"]
    return [*arguments, "--augmentation", "traditional", "--extractor", extractor]


@pytest.fixture(scope="module")
def built(patches: Path, generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a bank of a GAN's candidates, gan.h5, and its extractor."""
    directory = tmp_path_factory.mktemp("built")
    candidates = ["--gan", str(generator / "histogan.pt"), "--per-class", "10"]
    out = ["--out", str(directory / "gan.h5")]
    assert main([*bank_arguments(patches, directory), *candidates, *out]) == 0
    return directory


def test_bank_of_a_generators_candidates(built: Path) -> None:
    bank = FeatureBank.load(built / "gan.h5")
    assert (len(bank.train), len(bank.candidates), bank.n_features) == (16, 20, 128)
    test = bank.splits["test"]
    assert test.groups == tuple(Path(name).stem for name in test.ids)
    assert bank.candidates.groups is None and "HistoGAN" in bank.describe()
    assert bank.candidates.images.decode().shape == (20, 16, 16, 3)
    assert Classifier.load(built / "extractor.pt").config.augmentation == "traditional"


def test_bank_of_a_folder_reads_the_extractor(built: Path, patches: Path) -> None:
    arguments = bank_arguments(patches, built)
    out = built / "folder.h5"
    assert main([*arguments, "--candidates", str(patches / "valid"), "--out", str(out)]) == 0
    folder = FeatureBank.load(out)
    assert (folder.train.features == FeatureBank.load(built / "gan.h5").train.features).all()
    assert set(folder.candidates.ids) == set(folder.valid.ids)
    shared = f"candidates and valid share {len(folder.valid)}"
    assert any(warning.startswith(shared) for warning in folder.warnings())


def test_bank_warns_of_a_class_without_candidates(
    built: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rare = shutil.copytree(patches / "valid", tmp_path / "rare")
    for file in (rare / "left").iterdir():
        file.unlink()
    arguments = [*bank_arguments(patches, built), "--candidates", str(rare)]
    assert main([*arguments, "--out", str(tmp_path / "bank.h5")]) == 0
    assert "warning: no candidate of class left" in capsys.readouterr().out


def test_bank_keeps_retrainings(
    built: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hours of retraining are not lost to a repeated command."""
    out = tmp_path / "bank.h5"
    bank = FeatureBank.load(built / "gan.h5")
    selections = np.zeros((1, len(bank.candidates)), bool)
    metrics = {name: np.zeros((1, 1)) for name in METRICS}
    retrainings = Retrainings(selections, metrics, {}, bank.images_digest)
    replace(bank, retrainings=retrainings).save(out)
    arguments = [*bank_arguments(patches, built), "--candidates", str(patches / "valid")]
    for command in (arguments, ["known-truth", "cervical"]):
        assert main([*command, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert "holds retrainings" in error and "--discard-existing" in error
        assert error.count("\n") == 1
    assert FeatureBank.load(out).retrainings is not None
    assert main([*arguments, "--out", str(out), "--discard-existing"]) == 0
    assert FeatureBank.load(out).retrainings is None
    assert main([*arguments, "--out", str(out)]) == 0  # nothing is lost


@pytest.mark.parametrize("command", ["bank build --real x", "generate train --real x"])
def test_unknown_devices_are_said_first(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--out", "x", "--device", "gpu"]) == 2
    assert "unknown device 'gpu'; auto, cpu, cuda or cuda:1" in capsys.readouterr().err


def test_bank_takes_classes_in_a_given_order(built: Path, patches: Path, tmp_path: Path) -> None:
    arguments = [*bank_arguments(patches, tmp_path), "--classes", "right", "left"]
    candidates = ["--candidates", str(patches / "valid"), "--out", str(tmp_path / "bank.h5")]
    assert main([*arguments, *candidates]) == 0
    assert tuple(FeatureBank.load(tmp_path / "bank.h5").classes) == ("right", "left")


def test_bank_says_what_is_wrong(
    built: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*bank_arguments(patches, built), "--out", str(tmp_path / "bank.h5")]
    folder = ["--candidates", str(patches / "valid")]
    assert main(arguments) == 2
    assert "give either --gan or --candidates" in capsys.readouterr().err
    assert main([*arguments, *folder, "--truncation", "1"]) == 2
    assert "--truncation is for --gan" in capsys.readouterr().err
    assert main([*arguments, *folder, "--seed", "1"]) == 2
    assert "was trained on other images" in capsys.readouterr().err

    # All that is wrong is listed, before the work. Candidates may be of some classes only.
    rare = shutil.copytree(patches / "valid", tmp_path / "rare")
    shutil.rmtree(rare / "left")
    for file in list((rare / "right").iterdir())[:2]:
        file.write_bytes(b"nonsense")
    assert main([*arguments, "--candidates", str(rare)]) == 2
    assert "candidates: 2 of" in capsys.readouterr().err
    assert not (tmp_path / "bank.h5").exists()


def thinned(images: dict[str, Dataset], *names: str) -> dict[str, Dataset]:
    """Return every 40th image of some splits, so that a test is quick."""
    thin = {name: images[name].subset(np.arange(0, len(images[name]), 40)) for name in names}
    return {**images, **thin}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "origin", "shape"),
    [
        ("pcam-planted", "16", "flaws planted", (96, 96, 3)),
        ("cervical", "48", "not tissue", (256, 128, 3)),
    ],
)
def test_known_truth(
    name: str,
    side: str,
    origin: str,
    shape: tuple[int, int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def few_patches(seed: int) -> dict[str, Dataset]:
        return thinned(planted_pcam(n_real=16, n_candidates=64, seed=seed), "valid", "test")

    def few_drawings(seed: int) -> dict[str, Dataset]:
        return thinned(cervical_phantom(seed), "train", "valid", "test")

    monkeypatch.setattr(known_truth, "planted_pcam", few_patches)
    monkeypatch.setattr(known_truth, "cervical_phantom", few_drawings)
    monkeypatch.setattr(known_truth, "phantom_candidates", partial(phantom_candidates, 16))
    quick = ["--epochs", "1", "--steps-per-epoch", "1", "--short-side", side]
    out = str(tmp_path / "bank.h5")
    assert main(["known-truth", name, *quick, "--out", out]) == 0
    assert origin in capsys.readouterr().out
    bank = FeatureBank.load(out)
    assert len(bank.candidates) == 64 and bank.candidates.flaw is not None
    assert abs(np.sum(bank.candidates.flaw == 0) - 32) <= 3
    assert bank.candidates.images[:2].decode().shape == (2, *shape)
