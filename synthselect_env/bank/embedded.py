"""The banks that come with the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from synthselect_env.bank.feature_bank import FeatureBank
from synthselect_env.data import Dataset, LazyImages, RenderedImages, apportion, draw_per_class
from synthselect_env.data.flaws import FLAWS_VERSION, FlawPlan, plan_flaws
from synthselect_env.data.images import RENDERERS

EMBEDDED = ("pcam-few", "pcam", "cervical", "pcam-planted", "toy")
"""Names of the embedded banks."""

PLANTED_FLAWS = {
    "wrong label": 0.3,
    "blur and noise": 0.07,
    "wrong stain": 0.07,
    "near duplicate": 0.06,
}
"""Share of the pool with each flaw. The other half is sound."""

FEW_REAL = 192
"""Annotated images of the bank with few."""

REAL_RENDERER = "embedded pcam"
PLANTED_RENDERER = "embedded pcam, planted flaws"

DIGEST_LENGTH = 16
"""Characters of an images digest that a stored reference to the PCam bank has."""

TOY_SHAPE = (16, 16, 3)
"""Height, width and channels of the toy bank's images."""


def load_bank(name: str, draw: int = 0) -> FeatureBank:
    """Return an embedded bank.

    - "pcam-few": 192 real PCam patches, candidates of three HistoGANs of different quality.
    - "pcam": real PCam patches, HistoGAN candidates.
    - "cervical": a phantom, that is, rendered images and not tissue; candidates with planted flaws.
    - "pcam-planted": real PCam patches as candidates, half of them with planted flaws.
    - "toy": two Gaussian classes, generated in memory.

    :param name: name of the bank
    :param draw: number of the draw of the real patches of "pcam-few". Those from 1 on train an
        extractor first, which takes some seconds
    :raises ValueError: if there is none of that name, or only one draw of it
    """
    if draw and name != "pcam-few":
        raise ValueError(f"draw {draw}: only pcam-few has several draws, {name} has one")
    if draw:
        return draw_few(load_bank(name), draw)
    if name == "toy":
        return toy_bank()
    if name not in EMBEDDED:
        raise ValueError(
            f"no embedded bank {name!r}; there are {', '.join(EMBEDDED)}; "
            "FeatureBank.load(path) reads your own"
        )
    with resources.as_file(resources.files("synthselect_env") / "assets" / f"{name}.h5") as path:
        return FeatureBank.load(path)


def resolve_bank(bank: FeatureBank | str | Path) -> FeatureBank:
    """Return the bank that an argument stands for.

    :param bank: feature bank, name of an embedded one, or path of a file
    :raises FileNotFoundError: if it is neither
    """
    if isinstance(bank, FeatureBank):
        return bank
    if bank in EMBEDDED:
        return load_bank(str(bank))
    if not Path(bank).exists():
        raise FileNotFoundError(
            f"{bank} is no file and no embedded bank; there are {', '.join(EMBEDDED)}"
        )
    return FeatureBank.load(bank)


def toy_bank(
    candidates_per_class: int = 32, n_features: int = 8, noise: float = 1.0, seed: int = 0
) -> FeatureBank:
    """Return a small bank of known truth: two Gaussian classes.

    Half of the candidates carry the wrong label. Images are a fixed random linear map of the
    features, small enough to train networks on within seconds.

    :param candidates_per_class: number of candidates per class
    :param n_features: length of a feature vector
    :param noise: standard deviation within a class; the class means are 2 apart
    :param seed: random seed
    """
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=n_features)
    direction /= np.linalg.norm(direction)
    paint = rng.normal(size=(n_features, np.prod(TOY_SHAPE))) / np.sqrt(n_features)

    def draw(per_class: int, prefix: str, flawed: float = 0.0) -> Dataset:
        truth = np.repeat([0, 1], per_class)
        deviations = noise * rng.normal(size=(2 * per_class, n_features))
        features = np.outer(2.0 * truth - 1, direction) + deviations
        flaw = (rng.random(2 * per_class) < flawed).astype(np.int8)
        images = np.clip(128 + 60 * (features @ paint), 0, 255).astype(np.uint8)
        return Dataset(
            features=features.astype(np.float32),
            labels=np.where(flaw, 1 - truth, truth),
            ids=tuple(f"{prefix}-{i}" for i in range(2 * per_class)),
            images=images.reshape(-1, *TOY_SHAPE),
            flaw=flaw if flawed else None,
        )

    return FeatureBank(
        train=draw(12, "train"),
        valid=draw(64, "valid"),
        test=draw(256, "test"),
        candidates=draw(candidates_per_class, "candidate", flawed=0.5),
        classes=("left", "right"),
        extractor="none: the features are the latent variables",
        provenance={"data": "generated in memory, not medical"},
        source="toy",
    )


def planted_pcam(
    n_real: int = 128,
    n_candidates: int = 2048,
    flaws: Mapping[str, float] = PLANTED_FLAWS,
    seed: int = 0,
) -> dict[str, Dataset]:
    """Return real patches of the embedded PCam bank as candidates of known truth.

    Some candidates are spoilt, the others are as good as real images. Validation and test images
    are that bank's; training images and candidates are drawn from its training images. No image is
    stored twice: the datasets refer to the PCam bank, and flaws are planted when images are decoded.

    :param n_real: number of training images
    :param n_candidates: number of candidates
    :param flaws: name of a flaw to its share of the candidates
    :param seed: random seed of the draw and the flaws
    :return: "train", "valid", "test" and "candidates"
    :raises ValueError: if more images are asked for than there are
    """
    bank = load_bank("pcam")
    classes = tuple(bank.classes)
    real, pool, plan = _planted_plan(n_real, n_candidates, tuple(flaws.items()), seed)

    # Real images, by reference to the embedded bank.
    datasets = {}
    for name in ("train", "valid", "test"):
        whole: Dataset = getattr(bank, name)
        positions = real if name == "train" else np.arange(len(whole))
        part = whole.subset(positions)
        arguments = {"split": name, "pictures": whole.images_digest[:DIGEST_LENGTH]}
        images = RenderedImages(REAL_RENDERER, arguments, positions)
        datasets[name] = Dataset.of_images(images, part.labels, tuple(part.ids or ()), classes)

    # Candidates, spoilt by plan. Their ids are new ones, as a file name would tell the class.
    planting = {
        "n_real": n_real,
        "n_candidates": n_candidates,
        "flaws": [list(pair) for pair in flaws.items()],  # a list, as their order counts
        "seed": seed,
        "version": FLAWS_VERSION,
        "pictures": bank.train.images_digest[:DIGEST_LENGTH],
    }
    images = RenderedImages(PLANTED_RENDERER, planting, np.arange(len(pool)))
    ids = tuple(f"candidate-{i:04d}" for i in range(len(pool)))
    datasets["candidates"] = Dataset.of_images(images, plan.labels, ids, classes, flaw=plan.flaw)
    return datasets


def few_pcam(candidates: Dataset, draw: int = 0, n_real: int = FEW_REAL) -> dict[str, Dataset]:
    """Return few annotated images, a pool, and all other real images to test on.

    Annotated images are drawn from the validation split of the embedded PCam bank, on which no
    generator was trained. A quarter of them is the valid split. The test split is what is left of
    that split, and that bank's test split. No real image is stored twice.

    :param candidates: pool of candidates
    :param draw: number of the draw, which is its random seed
    :param n_real: number of annotated images
    :return: "train", "valid", "test" and "candidates"
    """
    bank = _pcam()
    labels = bank.valid.labels
    own = draw_per_class(labels, apportion(labels, n_real), draw)
    held_out = draw_per_class(labels[own], apportion(labels[own], n_real // 4), draw)
    whole = _real_images("valid+test")
    positions = {
        "train": np.delete(own, held_out),
        "valid": own[held_out],
        "test": np.setdiff1d(np.arange(len(whole)), own),
    }
    arguments = {"split": "valid+test", "pictures": whole.images_digest[:DIGEST_LENGTH]}
    datasets = {"candidates": candidates}
    for name, index in positions.items():
        part = whole.subset(index)
        images = RenderedImages(REAL_RENDERER, arguments, index)
        datasets[name] = Dataset.of_images(images, part.labels, tuple(part.ids or ()), bank.classes)
    return datasets


def draw_few(bank: FeatureBank, draw: int, n_real: int = FEW_REAL) -> FeatureBank:
    """Return the bank of few real images with others, and the same candidates.

    Features are those of a small network that is trained on them.

    :param bank: bank "pcam-few"
    :param draw: number of the draw, which is its random seed
    :param n_real: number of annotated images
    """
    # That module imports FeatureBank, and this one is imported beside it.
    from synthselect_env.bank.extraction import extract_by_default

    datasets = few_pcam(bank.candidates, draw, n_real)
    provenance = {**bank.provenance, "annotated": n_real, "draw": draw}
    made = extract_by_default(datasets, draw, provenance)
    return replace(made, source=f"{bank.source}, draw {draw} of {n_real}")


@lru_cache(maxsize=1)
def _pcam() -> FeatureBank:
    return load_bank("pcam")


@lru_cache(maxsize=4)
def _planted_plan(
    n_real: int, n_candidates: int, flaws: tuple[tuple[str, float], ...], seed: int
) -> tuple[np.ndarray, np.ndarray, FlawPlan]:
    """Draw training images and candidates, and plan the flaws.

    :return: positions of both among the PCam bank's training images, and the plan
    """
    labels = _pcam().train.labels
    drawn = draw_per_class(labels, apportion(labels, n_real + n_candidates), seed)
    real = drawn[draw_per_class(labels[drawn], apportion(labels, n_real), seed)]
    pool = np.random.default_rng(seed).permutation(np.setdiff1d(drawn, real))
    return real, pool, plan_flaws(labels[pool], int(labels.max()) + 1, dict(flaws), seed)


# Banks store the names of the renderers' arguments, such as "pictures" for a digest of images.


@lru_cache(maxsize=4)
def _real_images(split: str) -> Dataset:
    """Return a split of the embedded PCam bank, or several whose names are joined by "+"."""
    parts: list[Dataset] = [getattr(_pcam(), name) for name in split.split("+")]
    return parts[0] if len(parts) == 1 else Dataset.concatenate(parts)


def _render_real(positions: np.ndarray, split: str, pictures: str) -> np.ndarray:
    """Return images of the embedded PCam bank, if they are still those that were meant."""
    dataset = _real_images(split)
    if dataset.images_digest[:DIGEST_LENGTH] != pictures:
        raise ValueError(
            "these are images of another embedded PCam bank than this release's "
            f"({split} split); build the bank again"
        )
    assert isinstance(dataset.images, LazyImages)
    return dataset.images[positions].decode()


def _render_planted(
    positions: np.ndarray,
    n_real: int,
    n_candidates: int,
    flaws: list[list[Any]],
    seed: int,
    version: int,
    pictures: str,
) -> np.ndarray:
    """Return candidates of :func:`planted_pcam`, with their flaws."""
    if version != FLAWS_VERSION:
        raise ValueError(
            f"these flaws are of version {version}, this release plants {FLAWS_VERSION}; "
            "build the bank again"
        )
    shares = tuple((name, share) for name, share in flaws)
    _, pool, plan = _planted_plan(n_real, n_candidates, shares, seed)
    sources = pool[plan.source[positions]]
    return plan.spoil(positions, _render_real(sources, "train", pictures))


RENDERERS[REAL_RENDERER] = _render_real
RENDERERS[PLANTED_RENDERER] = _render_planted
