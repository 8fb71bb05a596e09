from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from synthselect_env.data import read_class_folders
from synthselect_env.synthesis import HistoGAN
from synthselect_env.synthesis.sampling import truncate


@pytest.fixture(scope="module")
def gan(tiny_gan: Callable[..., HistoGAN]) -> HistoGAN:
    return tiny_gan()


def differ_by_rounding(a: np.ndarray, b: np.ndarray) -> bool:
    return np.abs(a.astype(int) - b).max() <= 1


def test_samples_depend_on_seed_and_labels_alone(
    gan: HistoGAN, tiny_gan: Callable[..., HistoGAN]
) -> None:
    labels = np.array([0, 1, 1, 0, 1])
    images = gan.sample(labels, seed=3)
    assert images.shape == (5, 16, 32, 3)
    assert images.dtype == np.uint8
    assert (images == tiny_gan().sample(labels.astype(np.uint8), seed=3)).all()
    assert not (images == gan.sample(labels, seed=4)).all()
    assert not (images == gan.sample(1 - labels, seed=3)).all()


def test_samples_do_not_depend_on_batch_size_or_number(gan: HistoGAN) -> None:
    labels = np.arange(140) % 2  # more than one chunk
    images = gan.sample(labels, 0)
    assert differ_by_rounding(gan.sample(labels, 0, batch_size=50), images)
    assert differ_by_rounding(gan.sample(labels[:130], 0), images[:130])


def test_no_labels_give_no_images(gan: HistoGAN) -> None:
    assert gan.sample(np.zeros(0, int), 0).shape == (0, 16, 32, 3)
    assert gan.sample([], 0).dtype == np.uint8


@pytest.mark.parametrize("n, length", [(300, 97), (5, 41)])
def test_latents_in_chunks_are_one_stream(n: int, length: int) -> None:
    """The embedded pool was drawn at once; torch must keep that stream when drawn in chunks."""
    rng = torch.Generator().manual_seed(1)
    chunks = [torch.randn(len(part), length, generator=rng) for part in torch.arange(n).split(128)]
    whole = torch.randn(n, length, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.cat(chunks), whole)


@pytest.mark.parametrize(
    "factor, canvas", [(1.0, (16, 32)), (4 / 3, (32, 48)), (1.5, (32, 48)), (2.0, (32, 64))]
)
def test_images_are_cut_out_of_a_canvas_in_units_of_16(
    factor: float, canvas: tuple[int, int], tiny_gan: Callable[..., HistoGAN]
) -> None:
    gan = tiny_gan(canvas=factor)
    assert gan.generator.noise_sizes[-1] == canvas
    assert gan.sample(np.array([0, 1]), 0).shape == (2, 16, 32, 3)


def test_random_flips_turn_the_same_images(tiny_gan: Callable[..., HistoGAN]) -> None:
    labels = np.arange(12) % 2
    upright, flipped = (
        tiny_gan(random_flips=flips).sample(labels, 0).astype(int) for flips in (False, True)
    )
    ways = np.stack([upright, upright[:, ::-1], upright[:, :, ::-1], upright[:, ::-1, ::-1]])
    equal = (ways == flipped).all((2, 3, 4))  # (4, n)
    assert equal.any(0).all()  # each image is one of its flips
    assert equal.any(1).all()  # and every flip occurs


def test_truncation_keeps_order_and_distribution() -> None:
    z = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    cut = truncate(z, 0.8)
    assert cut.abs().max() <= 0.8
    assert (cut.sort().indices == z.sort().indices).all()
    expected = scipy.stats.truncnorm(-0.8, 0.8)
    assert scipy.stats.kstest(cut.numpy(), expected.cdf).pvalue > 0.01
    assert torch.allclose(truncate(z, 10.0), z, atol=1e-5)


def test_truncated_samples(gan: HistoGAN) -> None:
    labels = np.repeat([0, 1], 20)
    truncated = gan.sample(labels, 0, truncation=0.3)
    assert not (gan.sample(labels, 0) == truncated).all()
    assert (gan.sample(labels, 0, truncation=0.3) == truncated).all()
    with pytest.raises(ValueError, match="truncation must be positive, got 0"):
        gan.sample(labels, 0, truncation=0)


def test_sample_to_folders_writes_what_sample_returns(gan: HistoGAN, tmp_path: Path) -> None:
    batches: list[int] = []
    gan.sample_to_folders(tmp_path, 5, seed=3, truncation=1.0, on_batch=batches.append)
    assert sum(batches) == 10
    names = sorted(file.name for file in (tmp_path / "dark").iterdir())
    assert names == [f"000{i}.png" for i in range(5)]
    read = read_class_folders(tmp_path, classes=("dark", "bright"))
    expected = gan.sample(np.repeat([0, 1], 5), seed=3, truncation=1.0)
    assert (read.pixels()[read.labels.argsort(kind="stable")] == expected).all()


def test_sample_to_folders_overwrites_but_does_not_mix(gan: HistoGAN, tmp_path: Path) -> None:
    for seed in (3, 4):
        gan.sample_to_folders(tmp_path, 5, seed)
    read = read_class_folders(tmp_path, classes=("dark", "bright"))
    expected = gan.sample(np.repeat([0, 1], 5), seed=4)
    assert (read.pixels()[read.labels.argsort(kind="stable")] == expected).all()
    with pytest.raises(ValueError, match="holds 0003.png, which these 3 images would stand beside"):
        gan.sample_to_folders(tmp_path, 3, seed=4)


@pytest.mark.parametrize("name", ["a/b", ".."])
def test_class_names_that_are_no_folder_names_are_refused(
    name: str, gan: HistoGAN, tmp_path: Path
) -> None:
    other = HistoGAN((16, 16), ("c", name), replace(gan.config, canvas=1.0), device="cpu")
    with pytest.raises(ValueError, match="cannot name a folder"):
        other.sample_to_folders(tmp_path / "other", 1, seed=0)
    assert not (tmp_path / "other").exists()
