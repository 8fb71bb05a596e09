"""``synthselect retrain``: retrainings into a bank, by worker processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.cli import main, retrain
from synthselect_env import FeatureBank
from synthselect_env.evaluators import default_evaluator

QUICK = ["--size", "16", "16", "--epochs", "1", "--steps-per-epoch", "1", "--augmentation", "none"]
QUICK += ["--workers", "1", "--device", "cpu", "--retrainings", "10"]


def made_anew(printed: str) -> int:
    """Return the number of retrainings that were not in the cache, of ten.

    Of so small a pool, the design draws all candidates twice.
    """
    hits, misses = re.findall(r"(\d+) hits, (\d+) misses", printed)[-1]
    assert int(hits) + int(misses) == 10
    return int(misses)


@pytest.mark.slow
def test_retrain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["retrain", "--bank", "toy", *QUICK]
    assert main([*arguments, "--out", "bank.h5"]) == 0
    printed = capsys.readouterr().out
    assert made_anew(printed) == 9 and "of 10 retrainings" in printed
    bank = FeatureBank.load("bank.h5")
    assert bank.retrainings is not None and default_evaluator(bank) == "datamodel"
    assert bank.retrainings.training_config["config"]["augmentation"] == "none"

    # Finished retrainings are not made again. Others replace them only when that is asked for.
    assert main([*arguments, "--out", "again.h5"]) == 0
    assert "10 hits, 0 misses" in capsys.readouterr().out
    assert main(["retrain", "--bank", "bank.h5", *QUICK, "--seed", "1"]) == 2
    error = capsys.readouterr().err
    assert "(theirs → yours), seed: 0 → 1; " in error and error.count("\n") == 1
    assert error.endswith("use --discard-existing to drop them\n")
    same = ["retrain", "--bank", "bank.h5", *QUICK, "--discard-existing", "--out", "new.h5"]
    assert main(same) == 0
    retrainings = FeatureBank.load("new.h5").retrainings
    assert retrainings is not None and len(retrainings.selections) == 10


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
    assert made_anew(done.stdout) == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.h5", "--retrainings", "5"], "a datamodel needs 10 retrainings, and 5"),
        ([], "give --out"),
        (["--out", "x.h5", "--device", "gpu"], "unknown device 'gpu'"),
        (["--architecture", "resnet19"], "torchvision has no classifier 'resnet19'"),
    ],
)
def test_retrain_refuses(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["retrain", "--bank", "toy", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_other_settings_are_named(planted: FeatureBank, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--epochs", "3", "--size", "16", "16", "--device", "cpu", "--out", "x.h5"]
    assert main(["retrain", "--bank", "pcam-planted", *arguments]) == 2
    error = capsys.readouterr().err
    assert "(theirs → yours), size: [48, 48] → [16, 16], epochs: 8 → 3; give theirs" in error
    # What cannot be trained at all comes first.
    assert main(["retrain", "--bank", "pcam-planted", *arguments, "--architecture", "net"]) == 2
    assert "torchvision has no classifier 'net'" in capsys.readouterr().err


@pytest.mark.parametrize("is_noise", [False, True])
def test_predictions_that_mean_little_are_told(
    is_noise: bool,
    tmp_path: Path,
    planted: FeatureBank,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The retrainings are the bank's own, or their metrics are of other selections."""

    def pretended(bank: FeatureBank, args: object) -> FeatureBank:
        held = planted.retrainings
        assert held is not None
        order = np.random.default_rng(0).permutation(len(held.selections))
        metrics = {name: values[order] for name, values in held.metrics.items()}
        return replace(planted, retrainings=replace(held, metrics=metrics) if is_noise else held)

    monkeypatch.setattr(retrain, "_retrain", pretended)
    assert main(["retrain", "--bank", "pcam-planted", "--out", str(tmp_path / "bank.h5")]) == 0
    printed = capsys.readouterr().out
    assert ("warning: a correlation below 0.3" in printed) == is_noise
    assert ("train --reward-evaluator linear_probe" in printed) == is_noise


def test_the_least_number_is_in_the_help() -> None:
    assert f"at least {retrain.MIN_RETRAININGS}" in (retrain.Retrain.__doc__ or "")
