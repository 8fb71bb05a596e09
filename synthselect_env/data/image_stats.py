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

N_DENSITY_STATS = 9
"""Statistics of the optical density: three means, standard deviations and correlations each."""

MIN_STD = 1e-4
"""Amount added to standard deviations. It keeps flat images finite."""

MIN_DIFFERENCE = 1e-3
"""Amount added to differences, for the same reason."""


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
    n_stats = N_DENSITY_STATS + len(SCALES)
    stats = np.zeros((len(images), n_stats), np.float32)
    for start in range(0, len(images), CHUNK_SIZE):
        chunk = slice(start, start + CHUNK_SIZE)
        levels = np.maximum(images[chunk], 1)  # no logarithm of zero
        intensity = levels.astype(np.float32) / 255
        stats[chunk, :N_DENSITY_STATS] = _density_stats(intensity)
        stats[chunk, N_DENSITY_STATS:] = _sharpness(intensity)
    return stats


def _density_stats(intensity: np.ndarray) -> np.ndarray:
    """Return means, standard deviations and correlations.  (n, h, w, 3) -> (n, 9)"""
    n, height, width, _ = intensity.shape
    n_pixels = height * width
    density = -np.log(intensity).reshape(n, n_pixels, 3)
    mean = density.mean(1, keepdims=True)
    centred = density - mean
    products = np.einsum("npi,npj->nij", centred, centred)
    covariance = products / n_pixels  # (n, 3, 3)
    variance = np.einsum("nii->ni", covariance)
    std = np.sqrt(variance) + MIN_STD
    column = std[:, :, None]
    row = std[:, None, :]
    correlation = covariance / column / row
    red_green = correlation[:, 0, 1]
    red_blue = correlation[:, 0, 2]
    green_blue = correlation[:, 1, 2]
    return np.column_stack([mean[:, 0], std, red_green, red_blue, green_blue])


def _sharpness(intensity: np.ndarray) -> np.ndarray:
    """Return the sharpness at each scale.  (n, h, w, 3) -> (n, scales)"""
    grey = intensity.mean(3)
    differences = []
    for scale in SCALES:
        across = grey[:, :, scale:] - grey[:, :, :-scale]
        down = grey[:, scale:] - grey[:, :-scale]
        differences.append(_mean_size(across) + _mean_size(down))
    return np.log(np.stack(differences, 1) + MIN_DIFFERENCE)


def _mean_size(differences: np.ndarray) -> np.ndarray:
    """Return the mean absolute value per image.  (n, h, w) -> (n,)"""
    return np.abs(differences).mean((1, 2))
