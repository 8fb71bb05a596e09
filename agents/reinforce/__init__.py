"""REINFORCE as a Stable-Baselines3 algorithm."""

from agents.reinforce.reinforce import BASELINES, REINFORCE

__all__ = ["BASELINES", "REINFORCE"]
