"""How a image looks, whatever it shows: stain, contrast and sharpness in a dozen numbers.

A network that was trained to tell classes apart is blind to what does not tell them apart: blur, noise, faded stains, tears. Candidates have
such flaws, and a classifier that trains on them suffers. These statistics are what quality control of slides looks at.
"""

from __future__ import annotations

import numpy as np

SCALES = (1, 2, 4)
"""Pixels over which differences are taken: noise shows in the first, blur in all."""

AT_ONCE = 256
"""Images that are worked on at once, which bounds memory."""


def compute_image_stats(images: np.ndarray) -> np.ndarray:
    """Low-level statistics of images.

    Optical density, ``-log(intensity)``, is proportional to the amount of stain (Beer–Lambert). The statistics are its mean and standard
    deviation in each channel, its correlations between channels (which stains there are), and the logarithm of the mean absolute
    difference of brightness over 1, 2 and 4 pixels (sharpness). Images that are compared must have one size.

    :param images: uint8 (n, h, w, 3)
    :return: float32 (n, 12)
    """
    parts = [np.zeros((0, 9 + len(SCALES)), np.float32)]
    for start in range(0, len(images), AT_ONCE):
        intensity = np.maximum(images[start : start + AT_ONCE], 1).astype(np.float32) / 255
        density = -np.log(intensity).reshape(len(intensity), -1, 3)  # (n, pixels, 3)
        mean, centred = density.mean(1), density - density.mean(1, keepdims=True)
        covariance = np.einsum("npi,npj->nij", centred, centred) / density.shape[1]
        std = np.sqrt(np.einsum("nii->ni", covariance)) + 1e-4
        correlation = (covariance / std[:, :, None] / std[:, None, :])[:, [0, 0, 1], [1, 2, 2]]
        grey = intensity.mean(3)
        edges = [
            np.abs(grey[:, :, s:] - grey[:, :, :-s]).mean((1, 2))
            + np.abs(grey[:, s:] - grey[:, :-s]).mean((1, 2))
            for s in SCALES
        ]
        parts.append(
            np.column_stack([mean, std, correlation, np.log(np.stack(edges, 1) + 1e-3)]).astype(
                np.float32
            )
        )
    return np.concatenate(parts)
