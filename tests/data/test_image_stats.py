from __future__ import annotations

import numpy as np
import pytest

from synthselect_env.data import compute_image_stats


def stats_of(image: np.ndarray) -> list[float]:
    """Each statistic by the plainest means."""
    intensity = np.maximum(image, 1) / 255
    density = -np.log(intensity).reshape(-1, 3)
    stats = [*density.mean(0), *density.std(0)]
    stats += [np.corrcoef(density[:, a], density[:, b])[0, 1] for a, b in ((0, 1), (0, 2), (1, 2))]
    grey = intensity.mean(2)
    for scale in (1, 2, 4):
        across = np.abs(grey[:, scale:] - grey[:, :-scale]).mean()
        down = np.abs(grey[scale:] - grey[:-scale]).mean()
        stats.append(np.log(across + down + 1e-3))
    return stats


def test_each_statistic_of_more_images_than_one_chunk() -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 9, 7, 3), dtype=np.uint8)
    found = compute_image_stats(images)
    assert found.shape == (300, 12) and found.dtype == np.float32
    assert np.isfinite(found).all()
    for i in (0, 299):
        assert found[i] == pytest.approx(stats_of(images[i]), abs=2e-3)


@pytest.mark.parametrize("shade", [0, 200, 255])
def test_flat_images_have_finite_statistics(shade: int) -> None:
    assert np.isfinite(compute_image_stats(np.full((2, 8, 8, 3), shade, np.uint8))).all()


def test_no_images_have_no_statistics() -> None:
    assert compute_image_stats(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, 12)
