"""``synthselect retrain``: retrainings into a bank, by worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from agents.cli import main, retrain
from synthselect_env import FeatureBank
from synthselect_env.evaluators import ParallelEvaluator, default_evaluator

QUICK = ["--size", "16", "16", "--epochs", "1", "--steps-per-epoch", "1", "--augmentation", "none"]
QUICK += ["--workers", "1", "--device", "cpu", "--retrainings", "9"]


@pytest.mark.slow
def test_retrain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(retrain, "ParallelEvaluator", partial(ParallelEvaluator, threads=1))
    arguments = ["retrain", "--bank", "toy", *QUICK]
    assert main([*arguments, "--out", "bank.h5"]) == 0
    printed = capsys.readouterr().out
    assert "0 hits, 9 misses" in printed and "of 9 retrainings" in printed
    bank = FeatureBank.load("bank.h5")
    assert bank.retrainings is not None and default_evaluator(bank) == "datamodel"
    assert bank.retrainings.training_config["config"]["augmentation"] == "none"

    # Finished retrainings are not made again. Others replace them only when that is asked for.
    assert main([*arguments, "--out", "again.h5"]) == 0
    assert "9 hits, 0 misses" in capsys.readouterr().out
    assert main(["retrain", "--bank", "bank.h5", *QUICK, "--seed", "1"]) == 2
    assert "another configuration or seed" in capsys.readouterr().err
    same = ["retrain", "--bank", "bank.h5", *QUICK, "--discard-existing", "--out", "new.h5"]
    assert main(same) == 0
    retrainings = FeatureBank.load("new.h5").retrainings
    assert retrainings is not None and len(retrainings.selections) == 9


@pytest.mark.slow
def test_workers_of_the_command_itself(tmp_path: Path) -> None:
    """Workers import the process's main module again, which must not run the command."""
    command = [sys.executable, "-m", "agents.cli", "retrain", "--bank", "toy", *QUICK]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [*command, "--out", "bank.h5"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "0 hits, 9 misses" in done.stdout


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
