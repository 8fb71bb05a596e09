"""Tuned settings of the agents."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PPO_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"n_steps": 8, "learning_rate": 1e-3, "batch_size": 64, "n_epochs": 4, "gamma": 0.0}
)
"""Settings of SB3's PPO. Its own do not fit hundreds of decisions per action."""

CREDIT_PPO_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "n_steps": 8,
        "learning_rate": 1e-3,
        "batch_size": 32,
        "n_epochs": 10,
        "gamma": 1.0,
        "clip_range": 0.2,
    }
)
"""Settings of CreditPPO, which are its constructor's defaults."""
