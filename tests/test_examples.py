"""Each example runs as a user runs it, on little data; the main one in a process of its own."""

from __future__ import annotations

import csv
import inspect
import json
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from stable_baselines3 import A2C, PPO

from agents import CreditPPO
from agents.selectors import PolicySelector
from synthselect_env import FeatureBank, Selection, SelectionVecEnv, load_bank
from synthselect_env.registration import ENV_IDS
from synthselect_env.training.classifier import Classifier

pytestmark = pytest.mark.filterwarnings(
    "ignore:rich is experimental"
)  # tqdm says so of the bar that Stable-Baselines3 draws
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
HYPERPARAMS = EXAMPLES / "hyperparams"


def test_every_example_is_tested() -> None:
    source = "".join(p.read_text(encoding="utf-8") for p in Path(__file__).parent.glob("test_*.py"))
    assert all(f'"{p.name}"' in source for p in EXAMPLES.glob("*.py"))


def test_train_ppo(tmp_path: Path) -> None:
    small = (
        "--bank",
        "toy",
        "--evaluate",
        "linear_probe",
        "--timesteps",
        "256",
        "--n-envs",
        "8",
        "--width",
        "8",
    )
    command = [sys.executable, EXAMPLES / "train_ppo.py", *small, "--run", tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert "Test split, classifier: linear probe" in out and "Validation–test gap of PPO" in out
    assert any(f"PPO {word}" in out for word in ("won", "lost", "neither"))
    table = out.split("Test split")[1].splitlines()[3:8]
    assert [line.split()[0] for line in table] == ["none", "all", "random", "centroid", "PPO"]
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert files >= {
        "config.json", "model.zip", "metrics.csv", "selection.csv", "report.html", "figures", "tables", "linear_probe", "tensorboard",
    }  # fmt: skip
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["arguments"]["bank"] == "toy" and config["versions"]["torch"]
    given = {
        "n_envs",
        "n_timesteps",
        "policy",
        "policy_kwargs",
        "n_steps",
        "ent_coef",
    }  # here, or not to be chosen
    ppo = pytest.importorskip("yaml").safe_load((HYPERPARAMS / "ppo.yml").read_text())[
        "default"
    ]  # for RL Zoo
    assert {name: config["arguments"][name] for name in ppo if name not in given} == {
        n: v for n, v in ppo.items() if n not in given
    }
    assert (
        len(list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines())))
        == 256 // 64
    )
    selection = Selection.load(tmp_path / "run" / "selection.csv")
    model = PPO.load(tmp_path / "run" / "model.zip", device="cpu")
    assert model._last_obs is None  # a bank's features are not part of a policy
    again = PolicySelector(model).select(load_bank("toy"), 0)
    assert (selection.mask == again.mask).all() and selection.ids == again.ids
    with Image.open(tmp_path / "run" / "figures" / "kept_and_discarded.png") as picture:
        assert min(picture.size) > 300


def test_train_ppo_with_credit(tmp_path: Path, run_example: Callable) -> None:
    """CreditPPO's settings are its own defaults, and no table is asked for."""
    small = ("--bank", "toy", "--timesteps", 64, "--n-envs", 8, "--evaluate")
    run_example("train_ppo.py", "--algorithm", "CreditPPO", *small, "--run", tmp_path / "run")
    arguments = json.loads((tmp_path / "run" / "config.json").read_text())["arguments"]
    for name in ("learning_rate", "batch_size", "n_epochs", "gamma", "clip_range"):
        assert arguments[name] == inspect.signature(CreditPPO).parameters[name].default
    assert len(CreditPPO.load(tmp_path / "run" / "model.zip", device="cpu").policy.state_dict())


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_hyperparameters_are_the_algorithms(algorithm: type[PPO | A2C]) -> None:
    """The files for RL Zoo make an agent for every id, and PPO's are what train_ppo.py does."""
    yaml = pytest.importorskip("yaml")
    files = {
        name: dict(settings)
        for name, settings in yaml.safe_load(
            (HYPERPARAMS / f"{algorithm.__name__.lower()}.yml").read_text()
        ).items()
    }
    assert set(files) == {"default", *ENV_IDS}
    settings = files["SynthSelect-Toy-v0"]
    policy, n_envs = pkgutil.resolve_name(settings.pop("policy")), settings.pop("n_envs")
    assert settings.pop("n_timesteps") > 0
    algorithm(policy, SelectionVecEnv("toy", n_envs=n_envs), device="cpu", **settings).learn(
        8 * n_envs
    )


def test_train_ppo_says_what_is_wrong(
    tmp_path: Path, run_example: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "unknown classifier svm" in run_example("train_ppo.py", "--evaluate", "svm", code=2)[1]
    assert (
        "unknown augmentation mirror; one of none,"
        in run_example("train_ppo.py", "--augmentation", "mirror", code=2)[1]
    )
    assert (
        "unknown algorithm DQN; one of PPO, CreditPPO"
        in run_example("train_ppo.py", "--algorithm", "DQN", code=2)[1]
    )
    load_bank("toy").sealed.save(tmp_path / "sealed.h5")
    _, told = run_example(
        "train_ppo.py", "--bank", tmp_path / "sealed.h5", "--run", tmp_path / "run", code=2
    )
    assert (
        "has no test split to compare on" in told and not (tmp_path / "run" / "model.zip").exists()
    )


def test_add_retrainings(
    tmp_path: Path, run_example: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = (
        "--size",
        16,
        16,
        "--epochs",
        1,
        "--steps-per-epoch",
        1,
        "--augmentation",
        "none",
        "--workers",
        1,
        "--device",
        "cpu",
    )
    assert (
        "a datamodel needs 9 retrainings, and 5"
        in run_example("add_retrainings.py", "--bank", "toy", "--out", "x.h5", "--n", 5, code=2)[1]
    )
    assert "give --out" in run_example("add_retrainings.py", "--bank", "toy", code=2)[1]
    _, out = run_example(
        "add_retrainings.py", "--bank", "toy", "--out", "bank.h5", "--n", 9, *quick
    )
    assert "0 hits, 9 misses" in out and "of 9 retrainings" in out
    _, out = run_example(
        "add_retrainings.py", "--bank", "toy", "--out", "again.h5", "--n", 9, *quick
    )
    assert "9 hits, 0 misses" in out
    assert FeatureBank.load("again.h5").retrainings.recipe["config"]["augmentation"] == "none"
    small = ("--timesteps", 64, "--n-envs", 4, "--batch-size", 32, "--width", 8)
    _, out = run_example(
        "train_ppo.py",
        "--bank",
        "bank.h5",
        "--evaluate",
        "linear_probe",
        "--rounds",
        2,
        *small,
        "--run",
        "run",
    )
    assert (
        "reward log_likelihood_gain by datamodel" in out
        and "in 2 rounds" not in out
        and "of 2 rounds" in out
    )


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of toy images; their sizes differ, as those of patches from several sources do."""
    toy, root = load_bank("toy"), tmp_path_factory.mktemp("patches")
    for name in ("train", "valid", "test"):
        split = getattr(toy, name)
        for i in range(0, len(split), max(1, len(split) // 24)):
            folder = root / name / toy.classes[split.labels[i]]
            folder.mkdir(parents=True, exist_ok=True)
            side = 12 + i % 5
            Image.fromarray(split.images[i]).resize((side, side + i % 2)).save(
                folder / f"{split.ids[i]}.png"
            )
    return root


def test_from_folders_to_a_bank(patches: Path, tmp_path: Path, run_example: Callable) -> None:
    gan, small = tmp_path / "gan", ("--size", 16, 16)
    training = ("--data", patches, "--split", "train", "--counts", 8, 8, *small, "--run", gan)
    run_example(
        "train_histogan.py",
        *training,
        "--steps",
        2,
        "--batch-size",
        4,
        "--width",
        4,
        "--pretraining-steps",
        2,
    )
    assert (gan / "samples-000002.png").exists()
    building = (
        "--data",
        patches,
        "--counts",
        8,
        8,
        *small,
        "--epochs",
        1,
        "--extractor",
        tmp_path / "extractor.pt",
    )
    building += (
        "--steps-per-epoch",
        1,
        "--group",
        "^[^.]+",
        "--augmentation",
        "traditional",
    )  # a patient each
    run_example(
        "build_bank.py",
        *building,
        "--gan",
        gan / "histogan.pt",
        "--per-class",
        10,
        "--out",
        tmp_path / "gan.h5",
    )
    assert (
        "is of another training"
        in run_example("train_histogan.py", *training, "--width", 8, code=2)[1]
    )
    bank = FeatureBank.load(tmp_path / "gan.h5")
    assert (len(bank.train), len(bank.candidates), bank.n_features) == (16, 20, 512)
    assert (
        bank.test.groups == tuple(Path(name).stem for name in bank.test.ids)
        and bank.candidates.groups is None
    )
    assert "HistoGAN" in bank.describe() and bank.candidates.images.decode().shape == (
        20,
        16,
        16,
        3,
    )

    run_example(
        "build_bank.py",
        *building,
        "--candidates",
        patches / "valid",
        "--out",
        tmp_path / "folder.h5",
    )
    assert Classifier.load(tmp_path / "extractor.pt").config.augmentation == "traditional"
    folder = FeatureBank.load(tmp_path / "folder.h5")
    assert (folder.train.features == bank.train.features).all()  # the extractor was kept
    assert set(folder.candidates.ids) == set(folder.valid.ids)
    assert (
        f"candidates and valid share {len(folder.valid)} pictures; scores on valid are too good"
        in folder.warnings()
    )

    again = ("build_bank.py", *building, "--out", tmp_path / "again.h5")
    assert (
        "was trained on other pictures"
        in run_example(*again, "--candidates", patches / "valid", "--seed", 1, code=2)[1]
    )
    rare = shutil.copytree(patches / "valid", tmp_path / "rare")
    shutil.rmtree(rare / bank.classes[0])
    for file in list((rare / bank.classes[1]).iterdir())[:2]:
        file.write_bytes(b"nonsense")
    told = run_example(*again, "--candidates", rare, code=2)[1]
    assert (
        told.count("cannot be decoded") == 2 and not (tmp_path / "again.h5").exists()
    )  # all that is wrong, and before the work
    random_flips = (
        "--classes",
        *bank.classes[::-1],
        "--candidates",
        patches / "valid",
        "--extractor",
        tmp_path / "turned.pt",
    )
    run_example(*again, *random_flips)
    assert FeatureBank.load(tmp_path / "again.h5").classes == bank.classes[::-1]


def test_known_truth_bank(tmp_path: Path, run_example: Callable) -> None:
    quick = ("--epochs", 1, "--steps-per-epoch", 2, "--short-side", 16)
    _, out = run_example(
        "build_known_truth_bank.py", "pcam-planted", *quick, "--out", tmp_path / "bank.h5"
    )
    assert "flaws planted" in out
    bank = FeatureBank.load(tmp_path / "bank.h5")
    assert (len(bank.train), len(bank.candidates)) == (128, 2048) and abs(
        (bank.candidates.flaw == 0).sum() - 1024
    ) < 3
    assert bank.candidates.images[:2].decode().shape == (2, 96, 96, 3)
