"""``synthselect retrain``: retrainings into a bank, by worker processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agents.cli import main
from synthselect_env import FeatureBank
from synthselect_env.evaluators import default_evaluator

QUICK = ["--size", "16", "16", "--epochs", "1", "--steps-per-epoch", "1", "--augmentation", "none"]
QUICK += ["--workers", "1", "--device", "cpu", "--retrainings", "9"]


def test_retrain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As a user runs it: the workers import the command's own process again.
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.chdir(tmp_path)
    arguments = ["retrain", "--bank", "toy", *QUICK]
    command = [sys.executable, "-m", "agents.cli", *arguments, "--out", "bank.h5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0 hits, 9 misses" in done.stdout and "of 9 retrainings" in done.stdout
    bank = FeatureBank.load("bank.h5")
    assert bank.retrainings is not None and default_evaluator(bank) == "datamodel"
    assert bank.retrainings.training_config["config"]["augmentation"] == "none"

    # Finished retrainings are not made again. Others replace them only when that is asked for.
    assert main([*arguments, "--out", "again.h5"]) == 0
    assert "9 hits, 0 misses" in capsys.readouterr().out
    other = ["retrain", "--bank", "bank.h5", *QUICK, "--seed", "1"]
    assert main(other) == 2
    assert "another configuration or seed" in capsys.readouterr().err
    same = ["retrain", "--bank", "bank.h5", *QUICK, "--discard-existing", "--out", "new.h5"]
    assert main(same) == 0
    retrainings = FeatureBank.load("new.h5").retrainings
    assert retrainings is not None and len(retrainings.selections) == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.h5", "--retrainings", "5"], "a datamodel needs 9 retrainings, and 5"),
        ([], "give --out"),
    ],
)
def test_retrain_refuses(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["retrain", "--bank", "toy", *arguments]) == 2
    assert message in capsys.readouterr().err
