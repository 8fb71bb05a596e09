from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from synthselect_env.synthesis import HistoGAN, HistoGANConfig, tile
from synthselect_env.synthesis.augment import augment

CONFIG = HistoGANConfig(steps=4, batch_size=4, width=4, latent=8)


@pytest.fixture(scope="module")
def patches() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 2
    return np.clip(80 + 90 * labels[:, None, None, None] + rng.normal(0, 20, (12, 16, 32, 3)), 0, 255).astype(np.uint8), labels


def gan(config: HistoGANConfig = CONFIG) -> HistoGAN:
    return HistoGAN((16, 32), ("dark", "bright"), config, device="cpu")


def test_sampling_is_seeded_and_does_not_depend_on_the_batch() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    pictures = gan().sample(labels, seed=3)
    assert pictures.shape == (5, 16, 32, 3) and pictures.dtype == np.uint8
    assert np.abs(pictures.astype(int) - gan().sample(labels, seed=3, batch_size=2)).max() <= 1  # float rounding
    assert (pictures == gan().sample(labels, seed=3)).all() and not (pictures == gan().sample(labels, seed=4)).all()


def test_resuming_is_exact(patches: tuple, tmp_path: Path) -> None:
    whole = gan()
    losses = list(whole.fit(*patches))
    half = gan()
    run = half.fit(*patches)
    first = [next(run), next(run)]
    half.save(tmp_path / "half.pt")
    resumed = HistoGAN.load(tmp_path / "half.pt", device="cpu")
    assert first + list(resumed.fit(*patches)) == losses
    assert (resumed.sample(np.array([0, 1]), 0) == whole.sample(np.array([0, 1]), 0)).all()


def test_run_directory(patches: tuple, tmp_path: Path) -> None:
    trained = gan()
    list(trained.fit(*patches, directory=tmp_path, save_every=2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["histogan.pt", "losses.csv", "samples-000002.png", "samples-000004.png"]
    assert len((tmp_path / "losses.csv").read_text().splitlines()) == 3
    assert list(HistoGAN.load(tmp_path / "histogan.pt").fit(*patches)) == []  # done


def test_training_moves_the_average_towards_the_data(patches: tuple) -> None:
    config = replace(CONFIG, steps=60, batch_size=8, width=8, generator_lr=1e-3)
    trained = gan(config)
    labels = np.repeat([0, 1], 8)
    list(trained.fit(*patches))
    brightness = trained.sample(labels, 0).mean((1, 2, 3))
    assert brightness[8:].mean() > brightness[:8].mean() + 5  # the class is listened to


def test_augmentation_is_seeded_and_differentiable() -> None:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out, again = (augment(images, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(out, again) and out.shape == images.shape
    out.square().sum().backward()
    assert (images.grad.abs().sum((1, 2, 3)) > 0).all()


def test_errors(patches: tuple) -> None:
    images, labels = patches
    with pytest.raises(ValueError, match="multiples of 16, got 96×100"):
        HistoGAN((96, 100), ("a", "b"))
    with pytest.raises(ValueError, match="no training picture of class bright"):
        next(gan().fit(images, np.zeros_like(labels)))
    with pytest.raises(ValueError, match="labels must lie in 0..1"):
        next(gan().fit(images, labels + 1))
    with pytest.raises(ValueError, match=r"expected uint8 \(n, 16, 32, 3\)"):
        next(gan().fit(images.astype(np.float32), labels))
    broken = gan()
    with torch.no_grad():
        broken.generator.to_rgb.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="diverged at step 1"):
        next(broken.fit(images, labels))


def test_tile() -> None:
    sheet = tile(np.zeros((5, 4, 6, 3), np.uint8), columns=3, gap=2)
    assert sheet.shape == (10, 22, 3) and (sheet[:4, :6] == 0).all() and (sheet[4:6] == 255).all() and (sheet[6:, 16:] == 255).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trains_on_cuda(patches: tuple) -> None:
    trained = HistoGAN((16, 32), ("dark", "bright"), CONFIG)
    assert len(list(trained.fit(*patches))) == 4 and trained.device.type == "cuda"
