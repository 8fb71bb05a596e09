"""Selections scored by Ray actors."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from synthselect_env import FeatureBank
from synthselect_env.evaluators import CachedEvaluator, LinearProbeEvaluator, RayEvaluator


def test_actors_fit_into_processors_and_gpus(
    toy: FeatureBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = SimpleNamespace(
        is_initialized=lambda: True, cluster_resources=lambda: {"CPU": 8.0, "GPU": 1.0}
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    probe = LinearProbeEvaluator(toy, device="cpu")
    for options, workers in (
        ({}, 8),
        ({"num_cpus": 2}, 4),
        ({"num_cpus": 2, "num_gpus": 0.1}, 4),
        ({"num_gpus": 0.5}, 2),
    ):
        evaluator = RayEvaluator(probe, **options)
        assert evaluator.workers == evaluator.batch_size == workers
    with pytest.raises(ValueError, match="9 actors of 1 processors .* take fewer"):
        RayEvaluator(probe, workers=9)
    probe.device = torch.device("cuda")
    with pytest.raises(ValueError, match="num_gpus"):
        RayEvaluator(CachedEvaluator(probe, "never written"))


def test_says_what_to_install(toy: FeatureBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match="synthselect.ray"):
        RayEvaluator(LinearProbeEvaluator(toy))


@pytest.mark.slow
def test_actors_answer_as_the_evaluator_does() -> None:
    """In a process of its own: Ray leaves sockets and daemons behind, which pytest reports."""
    pytest.importorskip("ray")
    code = """
import numpy as np
from synthselect_env import load_bank
from synthselect_env.evaluators import LinearProbeEvaluator, RayEvaluator

bank = load_bank("toy")
masks = np.random.default_rng(0).random((3, 64)) < 0.5
probe = LinearProbeEvaluator(bank, device="cpu")
with RayEvaluator(probe, workers=2) as ray:
    ours, theirs = ray.evaluate(masks, 0), probe.evaluate(masks, 0)
    for dataset in (bank.test, bank.valid):
        predicted = ray.predict(masks, 0, dataset)
        assert np.allclose(predicted, probe.predict(masks, 0, dataset))
    assert ray.credit(masks, 0).shape == (3, 64)
    assert ray.fingerprint == probe.fingerprint
assert np.allclose(ours.log_likelihood, theirs.log_likelihood)
assert (ours.accuracy == theirs.accuracy).all()
print("same")
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("same"), done.stderr
