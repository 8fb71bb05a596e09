"""The banks that come with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from synthselect_env.bank import FeatureBank, Split

EMBEDDED = ("pcam", "toy")


def load_bank(name: str) -> FeatureBank:
    """An embedded bank by name.

    :param name: "pcam" (real PCam patches, HistoGAN candidates) or "toy" (generated in memory)
    :raises ValueError: when there is none of that name
    """
    if name == "toy":
        return toy_bank()
    if name not in EMBEDDED:
        raise ValueError(f"no embedded bank {name!r}; there are {', '.join(EMBEDDED)}; FeatureBank.load(path) reads your own")
    with resources.as_file(resources.files("synthselect_env") / "assets" / f"{name}.h5") as path:
        return FeatureBank.load(path)


def resolve_bank(bank: FeatureBank | str | Path) -> FeatureBank:
    """A bank from what a user may give for one.

    :param bank: a bank, the name of an embedded one, or a path to a file
    """
    if isinstance(bank, FeatureBank):
        return bank
    return load_bank(bank) if bank in EMBEDDED else FeatureBank.load(bank)


def toy_bank(candidates_per_class: int = 32, n_features: int = 8, noise: float = 1.0, seed: int = 0) -> FeatureBank:
    """A small known-truth bank: two Gaussian classes, and a pool of which half the candidates carry the wrong label.

    Pictures are 16×16, a fixed random linear image of the features, so that networks can be trained on them in seconds.

    :param candidates_per_class: size of the pool, a class
    :param n_features: length of a feature vector
    :param noise: standard deviation within a class; the class means are 2 apart
    :param seed: of everything
    """
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=n_features)
    direction /= np.linalg.norm(direction)
    paint = rng.normal(size=(n_features, 16 * 16 * 3)) / np.sqrt(n_features)

    def draw(per_class: int, prefix: str, flawed: float = 0.0) -> Split:
        truth = np.repeat([0, 1], per_class)
        features = np.outer(2.0 * truth - 1, direction) + noise * rng.normal(size=(2 * per_class, n_features))
        flaw = (rng.random(2 * per_class) < flawed).astype(np.int8)
        images = np.clip(128 + 60 * (features @ paint), 0, 255).astype(np.uint8).reshape(-1, 16, 16, 3)
        ids = tuple(f"{prefix}-{i}" for i in range(2 * per_class))
        return Split(features.astype(np.float32), np.where(flaw, 1 - truth, truth), ids, images, flaw=flaw if flawed else None)

    return FeatureBank(
        train=draw(12, "train"), valid=draw(64, "valid"), test=draw(256, "test"), candidates=draw(candidates_per_class, "candidate", flawed=0.5),
        classes=("left", "right"), extractor="none: the features are the latent variables", provenance={"data": "generated in memory, not medical"}, source="toy",
    )  # fmt: skip
