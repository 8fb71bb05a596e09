"""A run that is killed, and repeated by the same command, comes to the same selection."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agents.cli import main
from synthselect_env import Selection
from synthselect_env.storage import exclusive

# tqdm says so of the bar that Stable-Baselines3 draws.
pytestmark = pytest.mark.filterwarnings("ignore:rich is experimental")

ROOT = Path(__file__).resolve().parents[2]
RUN = ["train", "--bank", "toy", "--judges", "linear_probe", "--timesteps", "256", "--n-envs", "4"]
RUN += ["--width", "8", "--batch-size", "32", "--device", "cpu", "--seed", "5"]


def start(out: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "agents.cli", *RUN, "--out", str(out)]
    return subprocess.Popen(command, cwd=out.parent, env=environment, stderr=subprocess.DEVNULL)


def wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and not file.exists():
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main([*RUN, "--out", str(out)]) == 0
    return Selection.load(out / "selection.csv")


@pytest.mark.slow
@pytest.mark.parametrize("reached", ["metrics.csv", "linear_probe"])
def test_a_killed_run_is_repeated(uninterrupted: Selection, tmp_path: Path, reached: str) -> None:
    out = tmp_path / "run"
    process = start(out)
    wait_for(out / reached, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main([*RUN, "--out", str(out)]) == 0
    again = Selection.load(out / "selection.csv")
    assert (again.mask == uninterrupted.mask).all()
    assert (again.scores == uninterrupted.scores).all()
    assert (out / "report.html").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks")
def test_two_runs_in_one_directory_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = "import sys, time; from synthselect_env.storage import exclusive\n"
    holder += "with exclusive(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)], env=environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        assert main([*RUN, "--out", str(tmp_path)]) == 2
        assert "is in use by another run; wait for it" in capsys.readouterr().err
        process.kill()
    with exclusive(tmp_path):  # a killed process holds nothing
        pass


def test_another_runs_directory_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["train", "--bank", "toy", "--judges", "--timesteps", "8", "--n-envs", "1"]
    quick += ["--batch-size", "8", "--width", "8", "--device", "cpu", "--out", str(tmp_path)]
    assert main(quick) == 0
    capsys.readouterr()
    assert main([*quick, "--seed", "1"]) == 2
    assert "theirs → yours: seed: 0 → 1" in capsys.readouterr().err
