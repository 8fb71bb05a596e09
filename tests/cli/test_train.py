"""``synthselect train``: a training run from the command line, and as a library call."""

from __future__ import annotations

import csv
import json
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
from PIL import Image

from agents import CreditPPO
from agents.cli import COMMANDS, main
from agents.runs import ALGORITHMS, RunConfig, train_run
from agents.selectors import PolicySelector
from synthselect_env import FeatureBank, Selection, load_bank

# tqdm says so of the bar that Stable-Baselines3 draws.
pytestmark = pytest.mark.filterwarnings("ignore:rich is experimental")

SMALL = ["--n-envs", "4", "--batch-size", "32", "--width", "8", "--device", "cpu"]


@pytest.mark.slow
def test_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    arguments = ["--bank", "toy", "--judges", "linear_probe", "--rounds", "2", "--timesteps", "64"]
    assert main(["train", *arguments, *SMALL, "--out", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "Test split, classifier: linear probe" in printed and " ± " in printed
    assert "reward log_likelihood_gain by linear_probe" in printed
    table = printed.split("Test split")[1].splitlines()[3:10]
    names = ["none", "all", "random", "centroid", "triplet", "label", "PPO"]  # a small pool
    assert [line.split()[0] for line in table] == names

    # The run directory has what repeats the run and what it found.
    expected = {"config.json", "model.zip", "metrics.csv", "selection.csv", "recommended.csv"}
    expected |= {"report.html"}
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
    assert main(["train", *arguments, "--judges", "--out", str(tmp_path)]) == 0
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
        ({"reward_evaluator": "svm"}, "unknown evaluator svm"),
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
    assert main(["train", "--judges", "svm"]) == 2
    assert "unknown classifier svm; one of" in capsys.readouterr().err
    assert main(["train", "--bank", "nothing.h5"]) == 2
    assert capsys.readouterr().err.count("\n") == 1

    # So is what Stable-Baselines3 and torch would stop at.
    for mistake, message in (
        (["--device", "gpu"], "unknown device 'gpu'; auto, cpu, cuda or cuda:1"),
        (["--n-epochs", "0"], "n_epochs must be at least 1, got 0"),
        (["--bank", "pcamm"], "pcamm is no file and no embedded bank; there are pcam-few, "),
    ):
        assert main(["train", "--bank", "toy", *mistake, "--out", "run"]) == 2
        printed = " ".join(capsys.readouterr().err.split())
        assert message in printed and "Traceback" not in printed
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


def test_a_run_is_repeated(tmp_path: Path) -> None:
    quick = ["--bank", "toy", "--judges", "--timesteps", "32", "--seed", "3", *SMALL]
    assert main(["train", *quick, "--out", str(tmp_path / "one")]) == 0
    config = ["--config", str(tmp_path / "one" / "config.json")]
    assert main(["train", *config, "--out", str(tmp_path / "two")]) == 0
    one, two = (Selection.load(tmp_path / name / "selection.csv") for name in ("one", "two"))
    assert (one.scores == two.scores).all()
    assert main(["train", *config, "--seed", "0"]) == 2  # would be without effect
    (tmp_path / "config.json").write_text("{}")
    assert main(["train", "--config", str(tmp_path / "config.json")]) == 2


NAMES = [
    (name, *more)
    for name, command in COMMANDS.items()
    for more in ([(other,) for other in command] if isinstance(command, dict) else [()])
]


@pytest.mark.parametrize("command", [(), ("bank",), ("generate",), *NAMES], ids=" ".join)
def test_help(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    assert " ".join(["usage: synthselect", *command]) in capsys.readouterr().out


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_each_option_has_a_text(names: tuple[str, ...]) -> None:
    command = COMMANDS[names[0]] if len(names) == 1 else COMMANDS[names[0]][names[1]]
    told = "".join(base.__doc__ or "" for base in command.__mro__)
    for field in fields(command):
        assert f":param {field.name}: " in told, field.name


@pytest.mark.parametrize("mistake", [["--banc", "toy"], ["--timesteps", "many"]], ids=" ".join)
def test_unknown_arguments(mistake: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *mistake]) == 2
    assert mistake[0] in capsys.readouterr().err


def test_json_and_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bank", "describe", "toy", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["images"]["candidates"] == {"left": 32, "right": 32}
    assert "candidates" in printed.err
    out = ["--out", str(tmp_path / "x.csv")]
    assert main(["select", "--bank", "toy", "--by", "centroid", *out, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
