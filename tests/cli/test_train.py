"""``synthselect train``: a training run from the command line, and as a library call."""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from PIL import Image

from agents import CreditPPO
from agents.cli import COMMANDS, main, make_parser
from agents.runs import ALGORITHMS, RunConfig, train_run
from agents.selectors import PolicySelector
from synthselect_env import FeatureBank, Selection, load_bank

# tqdm says so of the bar that Stable-Baselines3 draws.
pytestmark = pytest.mark.filterwarnings("ignore:rich is experimental")

SMALL = ["--n-envs", "4", "--batch-size", "32", "--width", "8", "--device", "cpu"]


@pytest.mark.slow
def test_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    arguments = ["--bank", "toy", "--judge", "linear_probe", "--rounds", "2", "--timesteps", "64"]
    assert main(["train", *arguments, *SMALL, "--out", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "Test split, classifier: linear probe" in printed and "of 2 rounds" in printed
    assert "reward log_likelihood_gain by linear_probe" in printed
    table = printed.split("Test split")[1].splitlines()[3:8]
    assert [line.split()[0] for line in table] == ["none", "all", "random", "centroid", "PPO"]

    # The run directory has what repeats the run and what it found.
    expected = {"config.json", "model.zip", "metrics.csv", "selection.csv", "report.html"}
    folders = {"figures", "tables", "linear_probe"}
    assert {file.name for file in run.iterdir()} >= expected | folders
    config = json.loads((run / "config.json").read_text())
    assert config["versions"]["torch"] and config["arguments"]["rounds"] == 2
    assert config["arguments"]["gamma"] == ALGORITHMS["PPO"][1]["gamma"]
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert len(rows) == 64 // (8 * 4)
    with Image.open(run / "figures" / "kept_and_discarded.png") as image:
        assert min(image.size) > 300

    # The saved model selects the saved selection. A bank's features are no part of it.
    model = ALGORITHMS["PPO"][0].load(run / "model.zip", device="cpu")
    assert model._last_obs is None
    selection = Selection.load(run / "selection.csv")
    again = PolicySelector(model).select(load_bank("toy"), 0)
    assert (selection.mask == again.mask).all() and selection.ids == again.ids

    # The same configuration gives the same selection.
    repeated = RunConfig(**{**config["arguments"], "judges": (), "out": tmp_path / "again"})
    assert train_run(repeated) == tmp_path / "again"
    assert (Selection.load(tmp_path / "again" / "selection.csv").mask == selection.mask).all()


def test_train_with_credit_and_without_a_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CreditPPO has settings of its own, and no table is asked for."""
    arguments = ["--algorithm", "CreditPPO", "--bank", "toy", "--timesteps", "32", "--n-envs", "4"]
    assert main(["train", *arguments, "--judge", "--out", str(tmp_path)]) == 0
    config = json.loads((tmp_path / "config.json").read_text())["arguments"]
    for name in ("learning_rate", "batch_size", "n_epochs", "gamma", "clip_range"):
        assert config[name] == ALGORITHMS["CreditPPO"][1][name]
    assert CreditPPO.load(tmp_path / "model.zip", device="cpu").gamma == config["gamma"]
    assert not (tmp_path / "report.html").exists()
    told = f"add the images with selected = 1 in {tmp_path / 'selection.csv'}"
    assert told in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"judges": ["svm"]}, "unknown classifier svm; one of linear_probe, small_cnn, resnet34"),
        ({"augmentation": "mirror"}, "unknown augmentation mirror; one of none,"),
        ({"algorithm": "DQN"}, "unknown algorithm DQN; one of PPO, CreditPPO"),
        ({"evaluator": "svm"}, "unknown evaluator svm"),
        ({"reward": "profit"}, "unknown reward 'profit'"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"timesteps": 0}, "timesteps must be at least 1, got 0"),
        ({"n_epochs": 0}, "n_epochs must be at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"algorithm": "CreditPPO", "batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_a_configuration_refuses_unknown_values(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig(**settings)  # type: ignore[arg-type]


def test_a_configuration_refuses_unknown_names_and_changes() -> None:
    with pytest.raises(TypeError, match="evaluate"):
        RunConfig(evaluate="svm")  # type: ignore[call-arg]
    config = RunConfig(gamma=0.5)
    with pytest.raises(FrozenInstanceError):
        config.gamma = 1.0  # type: ignore[misc]
    credit = replace(config, algorithm="CreditPPO").resolved()
    assert (credit.gamma, credit.batch_size) == (0.5, ALGORITHMS["CreditPPO"][1]["batch_size"])


def test_a_users_error_is_one_line(
    tmp_path: Path,
    toy: FeatureBank,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--judge", "svm"]) == 2
    assert capsys.readouterr().err.startswith("synthselect train: error: unknown classifier svm")
    assert main(["train", "--bank", "nothing.h5"]) == 2
    assert capsys.readouterr().err.count("\n") == 1

    # So is what Stable-Baselines3 and torch would stop at.
    for mistake, message in (
        (["--device", "gpu"], "unknown device 'gpu'; auto, cpu, cuda or cuda:1"),
        (["--n-epochs", "0"], "n_epochs must be at least 1, got 0"),
        (["--bank", "pcamm"], "pcamm is no file and no embedded bank; there are pcam-few, "),
    ):
        assert main(["train", "--bank", "toy", *mistake, "--out", "run"]) == 2
        assert message in capsys.readouterr().err
    assert not Path("run").exists()

    # A bank that cannot be judged is refused before the training.
    toy.sealed.save("sealed.h5")
    assert main(["train", "--bank", "sealed.h5", "--out", "run"]) == 2
    assert "has no test split to compare on" in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_programming_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(error: Exception) -> None:
        def run(args: object) -> None:
            raise error

        monkeypatch.setattr(COMMANDS["train"], "run", run)

    broken(KeyError("x"))
    with pytest.raises(KeyError):
        main(["train"])
    broken(ImportError("no module", name="agents.nothing"))
    with pytest.raises(ImportError):
        main(["train"])
    broken(ImportError("no matplotlib", name="matplotlib"))
    assert main(["train"]) == 2


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["generate", "train"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert " ".join(["usage: synthselect", *command]) in capsys.readouterr().out


EITHER = ("--gan", "--candidates")
"""Options of which one must be given, so that they have no default."""


@pytest.mark.parametrize(
    "command",
    [*([name] for name in COMMANDS if name != "generate"), ["generate", "train"]]
    + [["generate", "sample"]],
    ids=" ".join,
)
def test_help_of_each_option_has_a_text_and_the_default(command: list[str]) -> None:
    parser = make_parser()
    for name in command:
        subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = subparsers.choices[name]
    formatter = parser._get_formatter()
    for action in parser._actions:
        assert action.help, action.dest
        needs_none = action.required or action.nargs == 0 or action.option_strings[0] in EITHER
        text = formatter._get_help_string(action)
        assert needs_none or text.count("(default: ") == 1, action.dest
