"""Planted flaws: images made into candidates of known quality."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image, ImageFilter

from synthselect_env.data.images import to_uint8

FLAWS = ("sound", "wrong label", "blur and noise", "wrong stain", "near duplicate", "torn")
"""Names of the numbers in ``flaw`` of a bank's candidates."""

FLAWS_VERSION = 1
"""Version of the flaws. Raise it when the same arguments give other images than before.

A stored recipe is then not taken for that of another image.
"""

BLUR_RADIUS = (0.02, 0.04)
"""Range of the blur, as a share of the image's height. Nuclei lose their edges."""

NOISE = 20.0
"""Standard deviation of the noise, in grey levels of 256."""

STAIN_SHIFT = 0.45
"""Largest relative change of an optical density. One stain fades while the other deepens."""

STAINS = (
    (0.65, 0.70, 0.29),
    (0.07, 0.99, 0.11),
    (0.27, 0.57, 0.78),
)
"""Optical densities of haematoxylin, eosin and the rest, after Ruifrok and Johnston (2001)."""

DUPLICATE_SHIFT = 0.04
"""Largest shift of a near duplicate, as a share of the image's height."""

DUPLICATE_BRIGHTNESS = (0.95, 1.05)
"""Range of the factor on a near duplicate's brightness."""

TEAR = (0.25, 0.5)
"""Range of the width of both gaps of a torn section together, as a share of the image's width."""

Spoiler = Callable[[np.ndarray, Generator], np.ndarray]
"""Function of an image, uint8 (h, w, 3), and a random generator that returns the spoilt image."""


@dataclass(frozen=True)
class FlawPlan:
    """Flaw, label and source of each candidate. Images are spoilt when they are asked for.

    .. code-block:: python

        plan = plan_flaws(labels, n_classes=2, shares={"torn": 0.2}, seed=0)
        candidates = plan.spoil(np.arange(10), images[plan.source[:10]])

    :param labels: labels that an agent sees, int64 (n,)
    :param flaw: positions in :data:`FLAWS`, int8 (n,)
    :param source: image that each candidate is made from, int64 (n,): its own, or for a near
        duplicate the one that it duplicates
    :param seed: random seed of the flaws
    """

    labels: np.ndarray
    flaw: np.ndarray
    source: np.ndarray
    seed: int

    def spoil(self, positions: np.ndarray, sources: np.ndarray) -> np.ndarray:
        """Return some of the candidates.

        A candidate is the same whichever others are asked for.

        :param positions: positions of the candidates, int (m,)
        :param sources: images at ``source[positions]``, uint8 (m, h, w, 3)
        :return: uint8 (m, h, w, 3)
        """
        n = len(self.labels)
        spoilt = sources.copy()
        for row, position in enumerate(positions):
            name = FLAWS[self.flaw[position]]
            if name in SPOILERS:
                rng = default_rng((self.seed, n, int(position)))
                spoilt[row] = SPOILERS[name](sources[row], rng)
        return spoilt


def plan_flaws(
    labels: np.ndarray,
    n_classes: int,
    shares: Mapping[str, float],
    seed: int,
) -> FlawPlan:
    """Give a share of the images one flaw each.

    The other images stay sound. A near duplicate is a sound image that replaces another one of its
    class: mirrored, shifted by a few pixels, and slightly brighter or darker.

    :param labels: true labels, int (n,)
    :param n_classes: number of classes
    :param shares: name of a flaw in :data:`FLAWS` to its share of the images. The order counts
    :param seed: random seed; each image has a random stream of its own
    :raises ValueError: if a name is unknown, or the shares do not add up to between 0 and 1
    """
    unknown = sorted(set(shares) - set(FLAWS[1:]))
    if unknown:
        raise ValueError(f"unknown flaw {', '.join(unknown)}; there are {', '.join(FLAWS[1:])}")
    least = min(shares.values(), default=0)
    if least < 0 or sum(shares.values()) > 1:
        raise ValueError(f"shares must not be negative and add up to at most 1, got {dict(shares)}")

    # Deal the flaws out, in random order.
    n = len(labels)
    rng = default_rng((seed, n))
    order = rng.permutation(n)
    flaw = np.zeros(n, np.int8)
    start = 0
    for name, share in shares.items():
        stop = start + round(share * n)
        flaw[order[start:stop]] = FLAWS.index(name)
        start = stop

    # Draw wrong labels, and the images that are duplicated.
    planned = np.array(labels, np.int64)
    source = np.arange(n)
    sound_of = []
    for label in range(n_classes):
        is_sound = (flaw == 0) & (planned == label)
        sound_of.append(np.flatnonzero(is_sound))
    for i in np.flatnonzero(flaw):
        rng = default_rng((seed, n, int(i)))
        name = FLAWS[flaw[i]]
        if name == "wrong label":
            step = rng.integers(1, n_classes)
            planned[i] = (planned[i] + step) % n_classes
        elif name == "near duplicate":
            originals = sound_of[planned[i]]
            if len(originals):
                source[i] = rng.choice(originals)
    return FlawPlan(planned, flaw, source, seed)


def _blur(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Blur an image, and add noise."""
    radius = rng.uniform(*BLUR_RADIUS) * image.shape[0]
    blur = ImageFilter.GaussianBlur(radius)
    blurred = Image.fromarray(image).filter(blur)
    noise = rng.normal(0, NOISE, image.shape)
    return to_uint8(np.asarray(blurred) + noise)


def _restain(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Fade one stain and deepen the other."""
    stains = np.array(STAINS)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    # Separate the stains: optical density = amounts @ stains.
    intensity = (image.astype(np.float64) + 1) / 256
    amounts = -np.log(intensity) @ np.linalg.inv(stains)  # (h, w, 3)
    strength = rng.uniform(0.6, 1) * STAIN_SHIFT
    shift = strength * rng.choice([-1, 1])
    amounts[..., 0] *= 1 + shift
    amounts[..., 1] *= 1 - shift
    intensity = np.exp(-amounts @ stains)
    return to_uint8(256 * intensity - 1)


def _duplicate(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Mirror and shift an image, and change its brightness."""
    height, width = image.shape[:2]
    reach = max(1, round(DUPLICATE_SHIFT * height))
    mirrored = image[:, ::-1]
    margin = (reach, reach)
    padded = np.pad(mirrored, (margin, margin, (0, 0)), mode="reflect")
    top, left = rng.integers(0, 2 * reach + 1, 2)
    shifted = padded[top : top + height, left : left + width]
    brightness = rng.uniform(*DUPLICATE_BRIGHTNESS)
    return to_uint8(shifted * brightness)


def _tear(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Tear the tissue twice. The slide shows through, and the tissue beside is pushed apart."""
    height, width = image.shape[:2]
    glass = int(np.percentile(image, 99))
    rows = np.arange(height)[:, None]  # (h, 1)
    columns = np.arange(width)
    torn = image
    shares = rng.dirichlet((4, 4)) * rng.uniform(*TEAR)
    for share in shares:
        gap = max(1, round(share * width))
        # A jagged line from top to bottom: start, random walk, tilt.
        start = rng.uniform(0.2, 0.8) * width
        jags = rng.normal(0, 0.012 * width, (height, 1))
        tilt = rng.normal(0, 0.3)
        edge = start + np.cumsum(jags, axis=0) + tilt * rows
        edge = edge.clip(0, width - 1)
        # Glass to the right of the line, and beyond it what was at the line.
        distance = columns - edge  # (h, w)
        source = np.where(distance > gap, columns - gap, columns)
        shows_glass = (distance > 0) & (distance <= gap)
        moved = torn[rows, source]
        torn = np.where(shows_glass[..., None], glass, moved)
    return torn.astype(np.uint8)


SPOILERS: dict[str, Spoiler] = {
    "blur and noise": _blur,
    "wrong stain": _restain,
    "near duplicate": _duplicate,
    "torn": _tear,
}
"""Changes of an image's pixels by the name of the flaw."""
