"""Each example runs, with small settings, and does what it says."""

from __future__ import annotations

import csv
import json
import pkgutil
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from agents import PPO_DEFAULTS
from agents.policies import SelectionPolicy
from agents.selectors import PolicySelector, mask_of_episode
from synthselect_env import Selection, SelectionVecEnv, load_bank
from synthselect_env.registration import ENV_IDS
from synthselect_env.training.config import TrainingConfig

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
HYPERPARAMS = EXAMPLES / "hyperparams"


def example(name: str) -> dict[str, Any]:
    """Return the names of an example, whose ``main`` has not run."""
    return runpy.run_path(str(EXAMPLES / name))


def test_every_example_is_tested_and_short() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    longer = {"active_learning.py": 80}  # five strategies side by side
    for file in EXAMPLES.glob("*.py"):
        assert f'"{file.name}"' in tests
        assert len(file.read_text(encoding="utf-8").splitlines()) <= longer.get(file.name, 60)


@pytest.mark.slow
def test_train_ppo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = example("train_ppo.py")["main"]
    main(bank="toy", timesteps=256, judges=("linear_probe",), out=tmp_path / "run")
    printed = capsys.readouterr().out
    table = printed.split("Test split, classifier: linear probe")[1].splitlines()[3:8]
    assert [line.split()[0] for line in table] == ["none", "all", "random@2", "centroid", "PPO"]
    assert "Validation–test gap" in printed and str(tmp_path / "run" / "report.html") in printed

    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert len(rows) == 256 // (8 * 16)
    selection = Selection.load(tmp_path / "run" / "selection.csv")
    model = PPO.load(tmp_path / "run" / "model.zip", device="cpu")
    again = PolicySelector(model).select(load_bank("toy"), 0)
    assert (selection.mask == again.mask).all() and selection.ids == again.ids


def test_gym_loop(capsys: pytest.CaptureFixture[str]) -> None:
    example("gym_loop.py")["main"](episodes=2)
    printed = capsys.readouterr().out
    assert "MultiBinary(8)" in printed and printed.count("validation accuracy") == 2


def test_custom_selector(capsys: pytest.CaptureFixture[str]) -> None:
    example("custom_selector.py")["main"](rounds=1)
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert rows[-4:] == ["none", "random", "centroid", "nearest real"]


def test_custom_evaluator(capsys: pytest.CaptureFixture[str]) -> None:
    names = example("custom_evaluator.py")
    selection = names["main"](timesteps=256)
    assert f"the {selection.count} of 64 that PPO keeps" in capsys.readouterr().out
    toy = load_bank("toy")
    mislabelled = toy.candidates.flaw == 1
    evaluator = names["NearestCentroidEvaluator"](toy)
    sound, flawed = evaluator.evaluate(np.stack([~mislabelled, mislabelled]), 0).accuracy
    assert sound > flawed


ALGORITHMS = example("plug_in_any_algorithm.py")["ALGORITHMS"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_plug_in_any_algorithm(name: str, tmp_path: Path) -> None:
    """An algorithm that is said to plug in learns, saves, loads and selects."""
    main = example("plug_in_any_algorithm.py")["main"]
    model, env, selection = main(name, timesteps=32, out=tmp_path)
    assert model.num_timesteps >= 32

    saved: BaseAlgorithm = type(model).load(tmp_path / f"{name}.zip", device="cpu")
    ours = isinstance(model.policy, SelectionPolicy)
    if ours:
        again = PolicySelector(saved).select(load_bank("toy"), 0).mask
    else:
        again = mask_of_episode(saved, env, 0)
    written = Selection.load(tmp_path / f"{name}.csv")
    assert written.ids == selection.ids == load_bank("toy").candidates.ids
    assert (written.mask == again).all()
    # The probabilities of this library's policies say more than their most probable actions.
    assert ours == (len(set(written.scores)) > 2)


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_hyperparameters_make_an_agent_for_every_id(algorithm: type[PPO | A2C]) -> None:
    """The files are RL Zoo's, and PPO's settings are this library's defaults."""
    yaml = pytest.importorskip("yaml")
    file = HYPERPARAMS / f"{algorithm.__name__.lower()}.yml"
    settings = yaml.safe_load(file.read_text())
    assert set(settings) == {"default", *ENV_IDS}
    if algorithm is PPO:
        assert {name: settings["default"][name] for name in PPO_DEFAULTS} == PPO_DEFAULTS

    toy = dict(settings["SynthSelect-Toy-v0"])
    policy, n_envs = pkgutil.resolve_name(toy.pop("policy")), toy.pop("n_envs")
    assert toy.pop("n_timesteps") > 0
    env = SelectionVecEnv("toy", n_envs=n_envs)
    algorithm(policy, env, device="cpu", **toy).learn(8 * n_envs)


@pytest.mark.slow
def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells run one after the other, with a quick judge and a short training."""
    pytest.importorskip("IPython")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "two_folders.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for cell in cells:
        quick = cell.replace("learn(512)", "learn(128)").replace('"small_cnn"', '"linear_probe"')
        exec(compile(quick, "cell", "exec"), names)
    assert Selection.load(tmp_path / "selection.csv").count == names["selection"].count
    assert names["comparison"].selectors[-1] == "PPO"
    text = (EXAMPLES / "two_folders.ipynb").read_text(encoding="utf-8")
    assert all(cell.get("outputs") for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert "/home/" not in text and "Traceback" not in text


@pytest.mark.slow
def test_active_learning(capsys: pytest.CaptureFixture[str]) -> None:
    quick = TrainingConfig("small_cnn", size=(16, 16), epochs=1, steps_per_epoch=2, batch_size=8)
    main = example("active_learning.py")["main"]
    main(start=24, n=4, rounds=1, pool_size=80, seeds=1, config=quick)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["random", "entropy", "core-set", "BADGE", "PPO"]
    curves = [[float(value) for value in line.split()[1:]] for line in lines]
    assert all(len(curve) == 2 and curve[0] == curves[0][0] for curve in curves)
