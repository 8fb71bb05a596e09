"""Planted flaws: real pictures made into candidates of known quality."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

FLAWS = ("sound", "wrong label", "blur and noise", "wrong stain", "near duplicate")
"""What ``flaw`` numbers in a bank's candidates stand for."""

BLUR_RADIUS = (0.02, 0.04)
"""Of the picture's height: nuclei lose their edges, the tissue's layout stays."""
NOISE = 20.0
"""Standard deviation of the noise, in grey levels of 256."""
STAIN_SHIFT = 0.45
"""Largest change of an optical density, as a share: haematoxylin fades while eosin deepens, or the other way round."""
DUPLICATE_SHIFT = 0.04
"""Of the picture's height: how far a near duplicate is moved."""


class Planted(NamedTuple):
    """Candidates of known quality."""

    images: np.ndarray  # uint8 (n, h, w, 3)
    labels: np.ndarray  # int64 (n,), as an agent sees them
    flaw: np.ndarray  # int8 (n,), positions in FLAWS


def plant_flaws(images: np.ndarray, labels: np.ndarray, n_classes: int, shares: dict[str, float], seed: int) -> Planted:
    """Spoil a share of the pictures in one way each, the rest stays sound.

    A near duplicate is a sound picture that replaces another one of its class: mirrored, shifted by a few pixels, and slightly
    brighter or darker.

    :param images: uint8 (n, h, w, 3)
    :param labels: int (n,)
    :param n_classes: number of classes
    :param shares: name of a flaw in :data:`FLAWS` to the share of the pictures that get it
    :param seed: of everything that is random; picture i is drawn from a stream of its own
    :raises ValueError: when a name is unknown, or the shares do not lie between 0 and 1 in sum
    """
    unknown = sorted(set(shares) - set(FLAWS[1:]))
    if unknown:
        raise ValueError(f"unknown flaw {', '.join(unknown)}; there are {', '.join(FLAWS[1:])}")
    if min(shares.values(), default=0) < 0 or sum(shares.values()) > 1:
        raise ValueError(f"shares must not be negative and add up to at most 1, got {shares}")
    n = len(images)
    order = np.random.default_rng((seed, n)).permutation(n)
    flaw, planted, new_labels = np.zeros(n, np.int8), images.copy(), np.asarray(labels, np.int64).copy()
    start = 0
    for name, share in shares.items():
        stop = start + round(share * n)
        flaw[order[start:stop]] = FLAWS.index(name)
        start = stop
    sound = [np.flatnonzero((flaw == 0) & (new_labels == label)) for label in range(n_classes)]
    for i in np.flatnonzero(flaw):
        rng = np.random.default_rng((seed, n, int(i)))
        match FLAWS[flaw[i]]:
            case "wrong label":
                new_labels[i] = (new_labels[i] + rng.integers(1, n_classes)) % n_classes
            case "blur and noise":
                planted[i] = _blurred(images[i], rng)
            case "wrong stain":
                planted[i] = _restained(images[i], rng)
            case "near duplicate" if len(sound[new_labels[i]]):
                planted[i] = _duplicated(images[rng.choice(sound[new_labels[i]])], rng)
    return Planted(planted, new_labels, flaw)


def _blurred(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR_RADIUS) * image.shape[0]))
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
    return np.clip(moved[top : top + image.shape[0], left : left + image.shape[1]] * rng.uniform(0.95, 1.05), 0, 255).astype(np.uint8)
