"""Planted flaws: real images made into candidates of known quality."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

FLAWS = ("sound", "wrong label", "blur and noise", "wrong stain", "near duplicate", "torn")
"""What ``flaw`` numbers in a bank's candidates stand for."""

FLAWS_VERSION = 1
"""Raised whenever the same arguments spoil differently, so that a stored recipe is not taken for another image's."""

BLUR_RADIUS = (0.02, 0.04)
"""Of the image's height: nuclei lose their edges, the tissue's layout stays."""
NOISE = 20.0
"""Standard deviation of the noise, in grey levels of 256."""
STAIN_SHIFT = 0.45
"""Largest change of an optical density, as a share: haematoxylin fades while eosin deepens, or the other way round."""
DUPLICATE_SHIFT = 0.04
"""Of the image's height: how far a near duplicate is moved."""
TEAR = (0.25, 0.5)
"""Of the image's width: how wide the gap of a torn section is, in sum over two tears."""


@dataclass(frozen=True)
class FlawPlan:
    """Which flaw each candidate gets; the images are spoilt when they are asked for.

    :param labels: int64 (n,), as an agent sees them
    :param flaw: int8 (n,), positions in :data:`FLAWS`
    :param source: int64 (n,), the image that a candidate is made from: its own, or the one that it duplicates
    :param seed: of the flaws
    """

    labels: np.ndarray
    flaw: np.ndarray
    source: np.ndarray
    seed: int

    def spoil(self, positions: np.ndarray, sources: np.ndarray) -> np.ndarray:
        """Some of the candidates.

        :param positions: int (m,), which
        :param sources: uint8 (m, h, w, 3), the images at ``source[positions]``
        :return: uint8 (m, h, w, 3); a candidate is the same whichever others are asked for
        """
        spoilt = sources.copy()
        for j, i in enumerate(positions):
            spoiler = SPOILERS.get(FLAWS[self.flaw[i]])
            if spoiler:
                spoilt[j] = spoiler(sources[j], _stream(self.seed, len(self.labels), int(i)))
        return spoilt


def plan_flaws(
    labels: np.ndarray, n_classes: int, shares: Mapping[str, float], seed: int
) -> FlawPlan:
    """Give a share of the images one flaw each; the rest stays sound.

    A near duplicate is a sound image that replaces another one of its class: mirrored, shifted by a few pixels, and slightly
    brighter or darker.

    :param labels: int (n,), the true ones
    :param n_classes: number of classes
    :param shares: name of a flaw in :data:`FLAWS` to the share of the images that get it; their order counts, too
    :param seed: of everything that is random; image i is drawn from a stream of its own
    :raises ValueError: when a name is unknown, or the shares do not lie between 0 and 1 in sum
    """
    unknown = sorted(set(shares) - set(FLAWS[1:]))
    if unknown:
        raise ValueError(f"unknown flaw {', '.join(unknown)}; there are {', '.join(FLAWS[1:])}")
    if min(shares.values(), default=0) < 0 or sum(shares.values()) > 1:
        raise ValueError(f"shares must not be negative and add up to at most 1, got {dict(shares)}")
    n = len(labels)
    order = np.random.default_rng((seed, n)).permutation(n)
    flaw, planned, source = np.zeros(n, np.int8), np.array(labels, np.int64), np.arange(n)
    start = 0
    for name, share in shares.items():
        stop = start + round(share * n)
        flaw[order[start:stop]] = FLAWS.index(name)
        start = stop
    sound = [np.flatnonzero((flaw == 0) & (planned == label)) for label in range(n_classes)]
    for i in np.flatnonzero(flaw):
        rng = _stream(seed, n, int(i))
        if FLAWS[flaw[i]] == "wrong label":
            planned[i] = (planned[i] + rng.integers(1, n_classes)) % n_classes
        elif FLAWS[flaw[i]] == "near duplicate" and len(sound[planned[i]]):
            source[i] = rng.choice(sound[planned[i]])
    return FlawPlan(planned, flaw, source, seed)


def _stream(seed: int, n: int, i: int) -> np.random.Generator:
    return np.random.default_rng((seed, n, i))


def _blurred(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    blurred = Image.fromarray(image).filter(
        ImageFilter.GaussianBlur(rng.uniform(*BLUR_RADIUS) * image.shape[0])
    )
    return np.clip(np.asarray(blurred) + rng.normal(0, NOISE, image.shape), 0, 255).astype(np.uint8)


def _restained(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # optical densities of the two stains, after Ruifrok and Johnston (2001), with what they leave over as the third
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    density = -np.log((image.astype(np.float64) + 1) / 256) @ np.linalg.inv(stains)
    shift = rng.uniform(0.6, 1) * STAIN_SHIFT * rng.choice([-1, 1])
    density[..., 0] *= 1 + shift
    density[..., 1] *= 1 - shift
    return np.clip(256 * np.exp(-density @ stains) - 1, 0, 255).astype(np.uint8)


def _duplicated(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    reach = max(1, round(DUPLICATE_SHIFT * image.shape[0]))
    moved = np.pad(image[:, ::-1], ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    top, left = rng.integers(0, 2 * reach + 1, 2)
    return np.clip(
        moved[top : top + image.shape[0], left : left + image.shape[1]] * rng.uniform(0.95, 1.05),
        0,
        255,
    ).astype(np.uint8)


def _torn(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two jagged tears through which the slide shows; the tissue beside them is pushed apart."""
    height, width = image.shape[:2]
    torn, glass = image.copy(), int(np.percentile(image, 99))
    for share in rng.dirichlet((4, 4)) * rng.uniform(*TEAR):
        gap = max(1, round(share * width))
        edge = (
            rng.uniform(0.2, 0.8) * width
            + np.cumsum(rng.normal(0, 0.012 * width, height))
            + rng.normal(0, 0.3) * np.arange(height)
        )
        column = np.arange(width)
        distance = column[None] - edge.clip(0, width - 1)[:, None]  # (h, w)
        source = np.where(distance > gap, column - gap, column)
        torn = np.where(
            ((distance > 0) & (distance <= gap))[..., None],
            glass,
            torn[np.arange(height)[:, None], source],
        )
    return torn.astype(np.uint8)


SPOILERS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "blur and noise": _blurred,
    "wrong stain": _restained,
    "near duplicate": _duplicated,
    "torn": _torn,
}
"""What changes a image's pixels, by the name of the flaw."""
