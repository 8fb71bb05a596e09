"""Banks and models that the former version saved load, and mean what they meant."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from agents import REINFORCE, CreditPPO
from agents.selectors import PolicySelector
from synthselect_env import FeatureBank
from synthselect_env.bank import SPLITS
from synthselect_env.evaluators import DatamodelEvaluator
from synthselect_env.metrics import METRICS
from synthselect_env.synthesis import HistoGAN
from synthselect_env.training.classifier import Classifier
from synthselect_env.training.config import TrainingConfig

FILES = Path(__file__).parent / "former_version"
ROUNDING = 1e-6
"""Difference that another processor or thread count may make."""


@pytest.fixture(scope="module")
def bank() -> FeatureBank:
    return FeatureBank.load(FILES / "bank.h5")


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(FILES / "expected_networks.npz") as arrays:
        return dict(arrays)


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The expected values were computed without bf16."""
    monkeypatch.setattr("synthselect_env.training.device.has_bfloat16", lambda device: False)


def test_bank_holds_what_it_held(bank: FeatureBank) -> None:
    assert bank.digest == "f7f9a7055b488219eebd6f2264b6a91b6eaf64a5228f793915023072c845d3bd"
    assert {name: len(split) for name, split in bank.splits.items()} == {
        "train": 24,
        "valid": 128,
        "test": 512,
        "candidates": 32,
    }
    for name in SPLITS:
        split = bank.splits[name]
        assert split.image_stats.shape == (len(split), split.image_stats.shape[1])
        assert len(set(split.groups)) == 5 and split.groups[0] == f"patient-0-{name}"
        assert split.pixels().shape == (len(split), 16, 16, 3)
    assert bank.candidates.flaw.sum() > 0 and not bank.warnings()


def test_retrainings_feed_a_datamodel(bank: FeatureBank) -> None:
    retrainings = bank.retrainings
    assert retrainings.selections.shape == (12, 32) and set(retrainings.metrics) == set(METRICS)
    assert retrainings.training_config["config"]["architecture"] == "resnet18"
    assert np.isfinite(retrainings.own_log_probability).all()
    datamodel = DatamodelEvaluator(bank)
    values = datamodel.evaluate(np.eye(32, dtype=bool)[:2], seed=0)
    assert values.log_likelihood == pytest.approx(
        [-0.6935063368656231, -0.693771718166802], rel=1e-6
    )


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [("ppo", PPO), ("credit_ppo", CreditPPO), ("reinforce", REINFORCE), ("a2c", A2C)],
)
def test_agents_select_what_they_selected(
    bank: FeatureBank, name: str, algorithm: type[BaseAlgorithm]
) -> None:
    model = algorithm.load(FILES / f"{name}.zip", device="cpu")
    selection = PolicySelector(model).select(bank, seed=0)
    with np.load(FILES / "expected_selections.npz") as arrays:
        assert np.array_equal(selection.mask, arrays[f"{name}_mask"])
        assert selection.scores == pytest.approx(arrays[name], rel=0, abs=ROUNDING)


def test_classifier_sees_what_it_saw(expected: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "classifier.pt"
    path.write_bytes(gzip.decompress((FILES / "classifier.pt.gz").read_bytes()))
    classifier = Classifier.load(path, device="cpu")
    assert classifier.config == TrainingConfig("shufflenet_v2_x0_5", (32, 32), 2, 8, 16)
    assert classifier.trained_on == "random images 0" and set(classifier.history) == set(METRICS)
    assert classifier.digest == "565b633b2e64dba69cb640120cf8654037ebcf3d64ec3137bb90ff02a8cb5022"
    features = classifier.features(expected["images"])
    assert features == pytest.approx(expected["features"], abs=1e-4)
    log_p = classifier.log_probabilities(expected["images"])
    assert log_p.numpy() == pytest.approx(expected["log_probabilities"], abs=1e-4)


def test_histogan_draws_what_it_drew(expected: dict[str, np.ndarray]) -> None:
    generator = HistoGAN.load(FILES / "histogan.pt", device="cpu")
    assert tuple(generator.classes) == ("a", "b")
    samples = generator.sample(expected["labels"], seed=0)
    assert samples.shape == expected["samples"].shape and samples.dtype == np.uint8
    difference = samples.astype(int) - expected["samples"]
    assert np.abs(difference).max() <= 1  # rounding
