"""The banks that come with the package."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from synthselect_env.bank.feature_bank import FeatureBank
from synthselect_env.data import Dataset, EncodedImages, RenderedImages, apportion, draw_per_class
from synthselect_env.data.flaws import FLAWS_VERSION, FlawPlan, plan_flaws
from synthselect_env.data.images import RENDERERS

EMBEDDED = ("pcam", "cervical", "pcam-planted", "toy")

PLANTED_FLAWS = {
    "wrong label": 0.3,
    "blur and noise": 0.07,
    "wrong stain": 0.07,
    "near duplicate": 0.06,
}
"""Shares of a pool of which half is sound."""


def load_bank(name: str) -> FeatureBank:
    """An embedded bank by name.

    :param name: "pcam" (real PCam patches, HistoGAN candidates), "cervical" (a phantom: rendered images, not tissue; candidates
        with planted flaws), "pcam-planted" (real PCam patches as candidates, half of them with planted flaws), or "toy" (generated
        in memory)
    :raises ValueError: when there is none of that name
    """
    if name == "toy":
        return toy_bank()
    if name not in EMBEDDED:
        raise ValueError(
            f"no embedded bank {name!r}; there are {', '.join(EMBEDDED)}; FeatureBank.load(path) reads your own"
        )
    with resources.as_file(resources.files("synthselect_env") / "assets" / f"{name}.h5") as path:
        return FeatureBank.load(path)


def resolve_bank(bank: FeatureBank | str | Path) -> FeatureBank:
    """A bank from what a user may give for one.

    :param bank: a bank, the name of an embedded one, or a path to a file
    """
    if isinstance(bank, FeatureBank):
        return bank
    return load_bank(bank) if bank in EMBEDDED else FeatureBank.load(bank)


def toy_bank(
    candidates_per_class: int = 32, n_features: int = 8, noise: float = 1.0, seed: int = 0
) -> FeatureBank:
    """A small known-truth bank: two Gaussian classes, and a pool of which half the candidates carry the wrong label.

    Images are 16×16, a fixed random linear image of the features, so that networks can be trained on them in seconds.

    :param candidates_per_class: size of the pool, a class
    :param n_features: length of a feature vector
    :param noise: standard deviation within a class; the class means are 2 apart
    :param seed: of everything
    """
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=n_features)
    direction /= np.linalg.norm(direction)
    paint = rng.normal(size=(n_features, 16 * 16 * 3)) / np.sqrt(n_features)

    def draw(per_class: int, prefix: str, flawed: float = 0.0) -> Dataset:
        truth = np.repeat([0, 1], per_class)
        features = np.outer(2.0 * truth - 1, direction) + noise * rng.normal(
            size=(2 * per_class, n_features)
        )
        flaw = (rng.random(2 * per_class) < flawed).astype(np.int8)
        images = (
            np.clip(128 + 60 * (features @ paint), 0, 255).astype(np.uint8).reshape(-1, 16, 16, 3)
        )
        ids = tuple(f"{prefix}-{i}" for i in range(2 * per_class))
        return Dataset(
            features.astype(np.float32),
            np.where(flaw, 1 - truth, truth),
            ids,
            images,
            flaw=flaw if flawed else None,
        )

    return FeatureBank(
        train=draw(12, "train"), valid=draw(64, "valid"), test=draw(256, "test"), candidates=draw(candidates_per_class, "candidate", flawed=0.5),
        classes=("left", "right"), extractor="none: the features are the latent variables", provenance={"data": "generated in memory, not medical"}, source="toy",
    )  # fmt: skip


def planted_pcam(
    n_real: int = 128,
    n_candidates: int = 2048,
    flaws: Mapping[str, float] = PLANTED_FLAWS,
    seed: int = 0,
) -> dict[str, Dataset]:
    """Real patches of the embedded PCam bank as candidates of known truth: some are spoilt, the others are as good as real ones.

    No image is stored twice: those of validation and test are that bank's, the training patches and the candidates are drawn from
    its training patches, and flaws are planted when a image is asked for.

    :param n_real: training patches
    :param n_candidates: candidates
    :param flaws: name of a flaw to the share of the candidates that get it
    :param seed: of the draw and the flaws
    :return: "train", "valid", "test" and "candidates"
    :raises ValueError: when more patches are asked for than there are
    """
    bank = load_bank("pcam")
    real, pool, plan = _planted_plan(n_real, n_candidates, tuple(flaws.items()), seed)
    parts = {}
    for name in ("train", "valid", "test"):
        whole: Dataset = getattr(bank, name)
        positions = real if name == "train" else np.arange(len(whole))
        split = whole.subset(positions)
        images = RenderedImages(
            "embedded pcam", {"split": name, "pictures": whole.images_digest[:16]}, positions
        )
        parts[name] = Dataset.of_images(
            images, split.labels, tuple(split.ids or ()), tuple(bank.classes)
        )
    pairs = [list(pair) for pair in flaws.items()]  # in their order, which counts
    recipe = {
        "n_real": n_real,
        "n_candidates": n_candidates,
        "flaws": pairs,
        "seed": seed,
        "version": FLAWS_VERSION,
    }
    recipe |= {"pictures": bank.train.images_digest[:16]}
    candidates = RenderedImages("embedded pcam, planted flaws", recipe, np.arange(len(pool)))
    ids = tuple(f"candidate-{i:04d}" for i in range(len(pool)))  # a file name would tell the class
    parts["candidates"] = Dataset.of_images(
        candidates, plan.labels, ids, tuple(bank.classes), flaw=plan.flaw
    )
    return parts


@lru_cache(maxsize=1)
def _pcam() -> FeatureBank:
    return load_bank("pcam")


@lru_cache(maxsize=4)
def _planted_plan(
    n_real: int, n_candidates: int, flaws: tuple[tuple[str, float], ...], seed: int
) -> tuple[np.ndarray, np.ndarray, FlawPlan]:
    """Positions of the training patches and of the candidates among the bank's training patches, and what is planted."""
    labels = _pcam().train.labels
    drawn = draw_per_class(labels, apportion(labels, n_real + n_candidates), seed)
    real = drawn[draw_per_class(labels[drawn], apportion(labels, n_real), seed)]
    pool = np.random.default_rng(seed).permutation(np.setdiff1d(drawn, real))
    return real, pool, plan_flaws(labels[pool], int(labels.max()) + 1, dict(flaws), seed)


def _pcam_pictures(split: str, pictures: str, positions: np.ndarray) -> np.ndarray:
    part: Dataset = getattr(_pcam(), split)
    if part.images_digest[:16] != pictures:
        raise ValueError(
            f"these are pictures of another embedded PCam bank than this release's ({split} split); build the bank again"
        )
    assert isinstance(part.images, EncodedImages)
    return part.images[positions].decode()


def _render_real(positions: np.ndarray, split: str, pictures: str) -> np.ndarray:
    return _pcam_pictures(split, pictures, positions)


def _render_planted(
    positions: np.ndarray,
    n_real: int,
    n_candidates: int,
    flaws: list[list[Any]],
    seed: int,
    version: int,
    pictures: str,
) -> np.ndarray:
    if version != FLAWS_VERSION:
        raise ValueError(
            f"these flaws are of version {version}, this release plants {FLAWS_VERSION}; build the bank again"
        )
    _, pool, plan = _planted_plan(
        n_real, n_candidates, tuple((name, share) for name, share in flaws), seed
    )
    return plan.spoil(positions, _pcam_pictures("train", pictures, pool[plan.source[positions]]))


RENDERERS["embedded pcam"] = _render_real
RENDERERS["embedded pcam, planted flaws"] = _render_planted
