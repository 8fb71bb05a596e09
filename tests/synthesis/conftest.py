from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from synthselect_env.synthesis import HistoGAN, HistoGANConfig

TINY = HistoGANConfig(steps=4, batch_size=4, width=4, latent=8, pretraining_steps=2)


@pytest.fixture(scope="session")
def patches() -> tuple[np.ndarray, np.ndarray]:
    """Twelve images of 16×32 pixels and their labels, the second class brighter than the first."""
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 2
    shade = 80 + 90 * labels[:, None, None, None]
    images = shade + rng.normal(0, 20, (12, 16, 32, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="session")
def tiny_gan() -> Callable[..., HistoGAN]:
    """Make an untrained HistoGAN of tiny networks, with changes to its configuration."""

    def make(**changes: object) -> HistoGAN:
        return HistoGAN((16, 32), ("dark", "bright"), replace(TINY, **changes), device="cpu")

    return make
