"""Tuned settings stand in one place."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml
from stable_baselines3 import PPO

from agents import CREDIT_PPO_DEFAULTS, PPO_DEFAULTS, CreditPPO, TransformerPolicy
from synthselect_env import FeatureBank, SelectionVecEnv
from synthselect_env.registration import ENV_IDS

HYPERPARAMS = Path(__file__).resolve().parents[2] / "examples" / "hyperparams"


def test_are_the_defaults_of_credit_ppo() -> None:
    parameters = inspect.signature(CreditPPO).parameters
    defaults = {name: parameters[name].default for name in CREDIT_PPO_DEFAULTS}
    assert defaults == dict(CREDIT_PPO_DEFAULTS)


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_are_those_of_rl_zoo(env_id: str) -> None:
    settings = yaml.safe_load((HYPERPARAMS / "ppo.yml").read_text("utf-8"))[env_id]
    assert {name: settings[name] for name in PPO_DEFAULTS} == dict(PPO_DEFAULTS)


def test_are_arguments_of_the_algorithm(toy: FeatureBank) -> None:
    for algorithm, defaults in ((PPO, PPO_DEFAULTS), (CreditPPO, CREDIT_PPO_DEFAULTS)):
        model = algorithm(TransformerPolicy, SelectionVecEnv(toy, 8), device="cpu", **defaults)
        assert model.gamma == defaults["gamma"]


@pytest.mark.parametrize("defaults", [PPO_DEFAULTS, CREDIT_PPO_DEFAULTS])
def test_cannot_be_changed(defaults: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        defaults["gamma"] = 0.5
