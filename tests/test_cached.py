from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from synthselect_env import FeatureBank, Dataset
from synthselect_env.evaluators import (
    CachedEvaluator,
    Evaluations,
    Evaluator,
    LinearProbeEvaluator,
    ParallelEvaluator,
    RayEvaluator,
    RetrainEvaluator,
)
from synthselect_env.evaluators import cached as cached_module
from synthselect_env.metrics import METRICS
from synthselect_env.training.classifier import Classifier, TrainingConfig, build_network

CONFIG = TrainingConfig("resnet18", size=(16, 16), epochs=2, steps_per_epoch=1, batch_size=16)


class SlowEvaluator(Evaluator):
    """Counts what it is asked, and takes its time."""

    def __init__(self, bank: FeatureBank, seconds: float = 0.0) -> None:
        super().__init__(bank)
        self.seconds, self.asked = seconds, []

    def settings(self) -> dict[str, object]:
        return {}

    def evaluate_on(self, selections: np.ndarray, seed: int, *splits: Dataset) -> list[Evaluations]:
        self.asked.append(len(selections))
        time.sleep(self.seconds)
        values = selections.sum(1)[:, None] + np.array([seed, 0.5])
        return [
            Evaluations.from_epochs(dict.fromkeys(METRICS, values + len(split))) for split in splits
        ]


def masks(bank: FeatureBank, k: int) -> np.ndarray:
    return np.random.default_rng(0).random((k, len(bank.candidates))) < 0.5


def test_answers_are_the_evaluators_and_asked_for_once(toy: FeatureBank, tmp_path: Path) -> None:
    slow = SlowEvaluator(toy)
    cached = CachedEvaluator(slow, tmp_path, batch_size=2)
    m = masks(toy, 5)
    m[4] = m[0]  # the same selection twice in a call
    first = cached.evaluate_on(m, 3, toy.valid, toy.test)
    assert slow.asked == [2, 2] and (cached.hits, cached.misses) == (1, 4)
    again = CachedEvaluator(slow, tmp_path).evaluate_on(
        m[::-1], 3, toy.test, toy.valid
    )  # another order, another object
    assert slow.asked == [2, 2]
    expected = slow.evaluate_on(m, 3, toy.valid, toy.test)
    for split in (0, 1):
        for name in METRICS:
            assert (first[split].epochs[name] == expected[split].epochs[name]).all()
            assert (again[1 - split].epochs[name] == expected[split].epochs[name][::-1]).all()
    assert str(cached).endswith("1 hits, 4 misses")
    cached.evaluate(m[:1], 3)
    assert cached.hits == 2
    cached.evaluate(m[:1], 4)
    assert cached.misses == 5, "another seed is another question"


def test_looks_for_each_answer_once(
    toy: FeatureBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    look = cached_module._all
    monkeypatch.setattr(
        cached_module, "_all", lambda row, read: looked.append(row) or look(row, read)
    )
    slow, m = SlowEvaluator(toy), masks(toy, 9)
    CachedEvaluator(slow, tmp_path).evaluate(m[3:5], 0)
    figures = CachedEvaluator(slow, tmp_path, batch_size=4).evaluate(m, 0)
    assert slow.asked == [1, 1, 4, 3] and len(looked) == 2 + 9
    assert (figures.accuracy == slow.evaluate(m, 0).accuracy).all()


def test_a_copy_of_the_validation_split_is_the_validation_split(
    toy: FeatureBank, tmp_path: Path
) -> None:
    """Keys name content: what is remembered must not depend on which of two equal objects was asked about."""
    cached = CachedEvaluator(RetrainEvaluator(toy, config=CONFIG, device="cpu"), tmp_path)
    copy = replace(toy.valid)
    first = cached.evaluate_on(masks(toy, 1), 0, copy)[0]
    assert (
        cached.evaluate(masks(toy, 1), 0).epochs["auc"].tolist() == first.epochs["auc"].tolist()
        and cached.hits == 1
    )
    assert first.epochs["auc"].shape == (1, 2)


def test_everything_that_changes_the_answer_changes_the_key(toy: FeatureBank) -> None:
    dark = replace(toy, train=replace(toy.train, images=toy.train.images // 2))
    network = build_network(CONFIG, 2, seed=0)
    evaluators = [
        LinearProbeEvaluator(toy),
        LinearProbeEvaluator(toy, ridge=2.0),
        LinearProbeEvaluator(toy, n_components=3),
        LinearProbeEvaluator(replace(toy, valid=toy.test)),
        RetrainEvaluator(toy, config=CONFIG),
        RetrainEvaluator(toy, "resnet34", CONFIG),
        RetrainEvaluator(toy, config=replace(CONFIG, learning_rate=1e-4)),
        RetrainEvaluator(dark, config=CONFIG),
        RetrainEvaluator(toy, config=CONFIG, initial=Classifier(network, CONFIG, 2)),
    ]
    keys = [evaluator.fingerprint for evaluator in evaluators]
    assert len(set(keys)) == len(keys)
    same = RetrainEvaluator(toy, config=CONFIG, on_epoch=print)
    assert (
        same.fingerprint
        == evaluators[4].fingerprint
        == ParallelEvaluator(same).fingerprint
        == CachedEvaluator(same, "x").fingerprint
    )


def test_actors_fit_into_processors_and_graphics_cards(
    toy: FeatureBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = SimpleNamespace(
        is_initialized=lambda: True, cluster_resources=lambda: {"CPU": 8.0, "GPU": 1.0}
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    probe = LinearProbeEvaluator(toy, device="cpu")
    assert RayEvaluator(probe).workers == 8 and RayEvaluator(probe, num_cpus=2).workers == 4
    assert (
        RayEvaluator(probe, num_cpus=2, num_gpus=0.1).workers == 4
        and RayEvaluator(probe, num_gpus=0.5).workers == 2
    )
    probe.device = torch.device("cuda")
    with pytest.raises(ValueError, match="num_gpus"):
        RayEvaluator(CachedEvaluator(probe, "nowhere"))


def test_a_split_that_is_asked_for_again_is_decoded_once(
    toy: FeatureBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the test split is, once a selection, in a comparison."""
    evaluator, decoded = RetrainEvaluator(toy, config=CONFIG, device="cpu"), []
    pixels = evaluator._pixels
    monkeypatch.setattr(
        evaluator, "_pixels", lambda *splits: decoded.append(len(splits)) or pixels(*splits)
    )
    none = np.zeros((1, len(toy.candidates)), bool)
    first, again = (evaluator.predict_on(none, 0, replace(toy.test)) for _ in range(2))
    assert (
        decoded == [1, 2, 1] and (first[0] == again[0]).all()
    )  # the test split, what is trained on, the validation split


def test_packages_that_were_not_installed_have_a_key(
    toy: FeatureBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone on PYTHONPATH has no release number."""

    def unknown(name: str) -> str:
        raise PackageNotFoundError(name)

    probe = LinearProbeEvaluator(toy)
    installed = probe.fingerprint
    monkeypatch.setattr("synthselect_env.storage.version", unknown)
    assert probe.fingerprint not in ("", installed)


def test_an_evaluator_that_does_not_say_what_matters_is_not_remembered(
    toy: FeatureBank, tmp_path: Path
) -> None:
    class Silent(SlowEvaluator):
        settings = Evaluator.settings

    with pytest.raises(NotImplementedError, match="Silent does not say what its figures depend on"):
        CachedEvaluator(Silent(toy), tmp_path)


def _ask(bank: FeatureBank, directory: Path, ready: Event) -> None:
    cached = CachedEvaluator(SlowEvaluator(bank, seconds=0.02), directory)
    ready.wait()
    cached.evaluate(masks(bank, 40), 0)


def test_survives_company_and_sudden_death(toy: FeatureBank, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    workers = [context.Process(target=_ask, args=(toy, tmp_path, ready)) for _ in range(2)]
    for worker in workers:
        worker.start()
    ready.set()
    while len(list(tmp_path.rglob("*.json"))) < 5:
        time.sleep(0.005)
    workers[0].kill()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL, 0]
    assert all(
        set(json.loads(file.read_text())) == set(METRICS) for file in tmp_path.rglob("[!.]*.json")
    )
    cached = CachedEvaluator(SlowEvaluator(toy), tmp_path)
    cached.evaluate(masks(toy, 40), 0)
    assert (cached.hits, cached.misses) == (40, 0)


def test_parallel_is_the_evaluator(toy: FeatureBank) -> None:
    alone = RetrainEvaluator(toy, config=CONFIG, device="cpu")
    m = masks(toy, 3)
    with ParallelEvaluator(
        RetrainEvaluator(toy, config=CONFIG, device="cpu"),
        workers=2,
        threads=torch.get_num_threads(),
    ) as parallel:
        for ours, theirs in zip(
            parallel.evaluate_on(m, 1, toy.valid, toy.test),
            alone.evaluate_on(m, 1, toy.valid, toy.test),
        ):
            assert ours.epochs["brier"] == pytest.approx(theirs.epochs["brier"], abs=1e-6)
        (ours,), (theirs,) = parallel.predict_on(m, 1, toy.test), alone.predict_on(m, 1, toy.test)
        assert ours == pytest.approx(theirs, abs=1e-5)


def _own_pids(bank: FeatureBank, pids: Queue) -> None:
    parallel = ParallelEvaluator(SlowEvaluator(bank, seconds=0.5), workers=1, threads=1)
    parallel.evaluate(masks(bank, 1), 0)
    pids.put(list(parallel._pool._processes))
    parallel.evaluate(masks(bank, 1000), 0)


def _ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that nobody waits for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_workers_end_with_a_killed_parent(toy: FeatureBank) -> None:
    context = multiprocessing.get_context("spawn")
    pids = context.Queue()
    parent = context.Process(target=_own_pids, args=(toy, pids))
    parent.start()
    (worker,) = pids.get(timeout=300)
    assert not _ended(worker)
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 20
    while not _ended(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _ended(worker)


def test_ray_is_the_evaluator(toy: FeatureBank) -> None:
    pytest.importorskip("ray")
    code = (  # in a process of its own: Ray leaves sockets and daemons behind, which this suite takes for errors
        "import numpy as np\n"
        "from synthselect_env import load_bank\n"
        "from synthselect_env.evaluators import LinearProbeEvaluator, RayEvaluator\n"
        "bank = load_bank('toy')\n"
        "masks = np.random.default_rng(0).random((3, 64)) < 0.5\n"
        "probe = LinearProbeEvaluator(bank, device='cpu')\n"
        "with RayEvaluator(probe, workers=2) as ray:\n"
        "    answers = ray.evaluate_on(masks, 0, bank.valid, bank.test)\n"
        "    assert np.allclose(ray.predict_on(masks, 0, bank.test), probe.predict_on(masks, 0, bank.test))\n"
        "    assert ray.credit(masks, 0).shape == (3, 64) and ray.fingerprint == probe.fingerprint\n"
        "for ours, theirs in zip(answers, probe.evaluate_on(masks, 0, bank.valid, bank.test)):\n"
        "    assert np.allclose(ours.log_likelihood, theirs.log_likelihood) and (ours.accuracy == theirs.accuracy).all()\n"
        "print('same')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("same"), done.stderr


def test_ray_says_what_to_install(toy: FeatureBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match="synthselect.ray"):
        RayEvaluator(LinearProbeEvaluator(toy))


def test_predictions_are_remembered(toy: FeatureBank, tmp_path: Path) -> None:
    probe, m = LinearProbeEvaluator(toy), masks(toy, 4)
    cached = CachedEvaluator(probe, tmp_path, batch_size=2)
    valid, test = cached.predict_on(m[:3], 0, toy.valid, toy.test)
    again = CachedEvaluator(probe, tmp_path)
    assert np.array_equal(
        again.predict_on(m[[3, 1, 0]], 0, toy.test)[0][1:], test[[1, 0]]
    ) and np.array_equal(valid, cached.predict_on(m[:3], 0, toy.valid)[0])
    assert (again.hits, again.misses) == (2, 1)
    for file in tmp_path.rglob("*.npy"):
        file.write_bytes(b"")  # after a power cut
    assert np.array_equal(CachedEvaluator(probe, tmp_path).predict_on(m[:3], 0, toy.test)[0], test)
