"""Stain, contrast and sharpness of images, in a dozen numbers.

A network that tells classes apart is blind to flaws that all classes share: blur, noise, faded
stains, tears. Candidates have such flaws, and a classifier that trains on them suffers. Quality
control of slides looks at statistics like these.
"""

from __future__ import annotations

import numpy as np

SCALES = (1, 2, 4)
"""Pixels over which differences are taken. Noise shows in the first, blur in all."""

CHUNK_SIZE = 256
"""Images worked on at once, which bounds memory."""

MIN_STD, MIN_DIFFERENCE = 1e-4, 1e-3
"""Amounts added to standard deviations and differences. They keep flat images finite."""


def compute_image_stats(images: np.ndarray) -> np.ndarray:
    """Return low-level statistics of images.

    Optical density, ``-log(intensity)``, is proportional to the amount of stain (Beer–Lambert).
    The statistics are

    - its mean and standard deviation in each channel,
    - its correlations between channels, which tell the stains apart,
    - the sharpness: log of the mean absolute difference of brightness over 1, 2 and 4 pixels.

    Images that are compared must have one size.

    :param images: uint8 (n, h, w, 3)
    :return: float32 (n, 12)
    """
    parts = [np.zeros((0, 9 + len(SCALES)), np.float32)]
    for start in range(0, len(images), CHUNK_SIZE):
        chunk = np.maximum(images[start : start + CHUNK_SIZE], 1)  # no logarithm of zero
        intensity = chunk.astype(np.float32) / 255
        stats = np.column_stack([_density_stats(intensity), _sharpness(intensity)])
        parts.append(stats.astype(np.float32))
    return np.concatenate(parts)


def _density_stats(intensity: np.ndarray) -> np.ndarray:  # (n, h, w, 3) -> (n, 9)
    density = -np.log(intensity).reshape(len(intensity), -1, 3)  # (n, pixels, 3)
    mean = density.mean(1)
    centred = density - density.mean(1, keepdims=True)
    covariance = np.einsum("npi,npj->nij", centred, centred) / density.shape[1]
    std = np.sqrt(np.einsum("nii->ni", covariance)) + MIN_STD
    correlation = covariance / std[:, :, None] / std[:, None, :]  # (n, 3, 3)
    pairs = correlation[:, [0, 0, 1], [1, 2, 2]]
    return np.column_stack([mean, std, pairs])


def _sharpness(intensity: np.ndarray) -> np.ndarray:  # (n, h, w, 3) -> (n, scales)
    grey = intensity.mean(3)
    differences = []
    for scale in SCALES:
        across = np.abs(grey[:, :, scale:] - grey[:, :, :-scale]).mean((1, 2))
        down = np.abs(grey[:, scale:] - grey[:, :-scale]).mean((1, 2))
        differences.append(across + down)
    return np.log(np.stack(differences, 1) + MIN_DIFFERENCE)
