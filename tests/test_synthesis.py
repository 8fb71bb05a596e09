from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from synthselect_env.data import read_class_folders
from synthselect_env.synthesis import (
    CollapseError,
    HistoGAN,
    HistoGANConfig,
    frechet_distance,
    image_grid,
    nearest_distances,
    share_closer,
)
from synthselect_env.synthesis.augment import augment, crop
from synthselect_env.synthesis.histogan import truncate
from synthselect_env.synthesis.networks import Discriminator, Generator, ResidualBlock, Wrapped

CONFIG = HistoGANConfig(steps=4, batch_size=4, width=4, latent=8, pretraining_steps=2)


@pytest.fixture(scope="module")
def patches() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 2
    return np.clip(
        80 + 90 * labels[:, None, None, None] + rng.normal(0, 20, (12, 16, 32, 3)), 0, 255
    ).astype(np.uint8), labels


def gan(config: HistoGANConfig = CONFIG) -> HistoGAN:
    return HistoGAN((16, 32), ("dark", "bright"), config, device="cpu")


def brightness(images: np.ndarray) -> np.ndarray:
    """Two features: mean and spread of the pixels."""
    return np.stack([images.mean((1, 2, 3)), images.std((1, 2, 3))], axis=1)


class Scripted:
    """Feature vectors at a distance from the real ones that is told beforehand, check by check."""

    def __init__(self, distances: Sequence[float]) -> None:
        self.shifts = iter([0.0, *np.sqrt(distances)])  # the first call is for the real images

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.arange(len(images))[:, None] + next(self.shifts)


def test_sampling_is_seeded_and_does_not_depend_on_the_batch() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    pictures = gan().sample(labels, seed=3)
    assert pictures.shape == (5, 16, 32, 3) and pictures.dtype == np.uint8
    assert (
        np.abs(pictures.astype(int) - gan().sample(labels, seed=3, batch_size=2)).max() <= 1
    )  # float rounding
    assert (pictures == gan().sample(labels, seed=3)).all() and not (
        pictures == gan().sample(labels, seed=4)
    ).all()


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
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "histogan.pt",
        "losses.csv",
        "samples-000002.png",
        "samples-000004.png",
    ]
    assert len((tmp_path / "losses.csv").read_text().splitlines()) == 3
    assert list(HistoGAN.load(tmp_path / "histogan.pt").fit(*patches)) == []  # done


def test_frechet_curve_and_best_checkpoint(patches: tuple, tmp_path: Path) -> None:
    rows = list(
        gan().fit(
            *patches, directory=tmp_path, save_every=1, features=Scripted([9.0, 2.0, 5.0, 4.0])
        )
    )
    assert [row["frechet"] for row in rows] == pytest.approx([9, 2, 5, 4])
    log = list(csv.DictReader((tmp_path / "losses.csv").read_text().splitlines()))
    assert [float(row["frechet"]) for row in log] == pytest.approx([9, 2, 5, 4])
    best, last = (HistoGAN.load(tmp_path / name) for name in ("best.pt", "histogan.pt"))
    assert (best.step, last.step) == (2, 4) and last.history == rows and best.history == rows[:2]


def test_reference_pictures_are_matched_in_number_and_class(patches: tuple) -> None:
    asked: list[int] = []
    few = patches[0][:5, :8, :8], patches[1][:5]
    list(
        gan().fit(
            *patches,
            save_every=4,
            features=lambda x: asked.append(len(x)) or brightness(x),
            reference=few,
        )
    )
    assert asked == [5, 5]


def test_a_killed_run_resumes_exactly(patches: tuple, tmp_path: Path) -> None:
    """Killed after a step past the last checkpoint, with a line too many in the log."""
    arguments = {"save_every": 2, "features": brightness}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    config = replace(CONFIG, steps=8)
    rows = list(gan(config).fit(*patches, directory=whole, **arguments))
    run = gan(config).fit(*patches, directory=killed, **arguments)
    for _ in range(5):
        next(run)
    with (killed / "losses.csv").open("a") as log:
        log.write("6,0,0,0,0,0\n")
    resumed = HistoGAN.load(killed / "histogan.pt", device="cpu")
    assert resumed.step == 4
    rest = resumed.fit(*patches, directory=killed, **arguments)
    assert (
        next(rest) == rows[4] and len((killed / "losses.csv").read_text().splitlines()) == 3
    )  # before the next check
    assert list(rest) == rows[5:]
    assert (killed / "losses.csv").read_text() == (whole / "losses.csv").read_text()
    for name in ("best.pt", "histogan.pt"):
        a, b = (HistoGAN.load(folder / name, device="cpu") for folder in (whole, killed))
        assert a.step == b.step and a.history == b.history
        assert all(
            torch.equal(x, y)
            for x, y in zip(a.generator.state_dict().values(), b.generator.state_dict().values())
        )


def test_collapse_stops_and_keeps_the_best(patches: tuple, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=50)
    script = [
        8.0,
        1.0,
        4.0,
        4.0,
        2.0,
        *[3.5] * 5,
        1.0,
    ]  # four times the best, but back within five checks; then for good
    run = gan(config).fit(*patches, directory=tmp_path, save_every=1, features=Scripted(script))
    with pytest.raises(
        CollapseError,
        match="collapsed by step 10: .* 3.5 and more, the best 1 at step 2; take best.pt",
    ):
        list(run)
    assert (
        HistoGAN.load(tmp_path / "best.pt").step == 2
        and HistoGAN.load(tmp_path / "histogan.pt").step == 10
    )


def test_a_checkpoint_of_an_earlier_release_is_refused(patches: tuple, tmp_path: Path) -> None:
    gan().save(tmp_path / "new.pt")
    state = torch.load(tmp_path / "new.pt", weights_only=True)
    del state["pretrained"]
    torch.save(state, tmp_path / "old.pt")
    with pytest.raises(
        ValueError, match="old.pt was not written by this release's HistoGAN.save: it lacks"
    ):
        HistoGAN.load(tmp_path / "old.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(ValueError, match="text.pt was not written by HistoGAN.save, or is damaged"):
        HistoGAN.load(tmp_path / "text.pt")


def test_the_feature_network_learns_first_and_stays(patches: tuple, tmp_path: Path) -> None:
    config = replace(CONFIG, pretraining_steps=40, width=8)
    trained = gan(config)
    rows = list(trained.pretrain(*patches))
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert (
        rows[-1]["cross_entropy"] < 0.4 < rows[0]["cross_entropy"]
        and rows[-1]["contrast"] < rows[0]["contrast"]
    )
    before = {
        name: value.clone() for name, value in trained.discriminator.features.state_dict().items()
    }
    trained.save(tmp_path / "pretrained.pt")
    losses = list(trained.fit(*patches))
    assert all(
        torch.equal(value, before[name])
        for name, value in trained.discriminator.features.state_dict().items()
    )
    assert not trained.discriminator.features.training
    assert (
        list(HistoGAN.load(tmp_path / "pretrained.pt", device="cpu").fit(*patches))
        == losses
        == list(gan(config).fit(*patches))
    )


def test_an_interrupted_pretraining_starts_again(patches: tuple) -> None:
    config = replace(CONFIG, pretraining_steps=3)
    once, twice = gan(config), gan(config)
    rows = list(once.pretrain(*patches))
    interrupted = twice.pretrain(*patches)
    next(interrupted)
    interrupted.close()
    assert list(twice.pretrain(*patches)) == rows
    states = (network.discriminator.features.state_dict() for network in (once, twice))
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(*(state.values() for state in states))
    )


def test_upright_pictures_are_never_turned(patches: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        raise AssertionError("turned")

    for module in ("histogan", "pretraining"):
        monkeypatch.setattr(f"synthselect_env.synthesis.{module}.dihedral", refuse)
    upright = gan(replace(CONFIG, random_flips=False, steps=1))
    assert (
        len(list(upright.fit(*patches))) == 1 and len(upright.sample(np.array([0, 1]), seed=0)) == 2
    )
    with pytest.raises(AssertionError, match="turned"):
        gan().sample(np.array([0]), seed=0)


def test_heads_see_standardised_features() -> None:
    torch.manual_seed(0)
    judge = Discriminator(2, 4, 4)
    images = torch.rand(64, 3, 32, 32) * 2 - 1
    judge.calibrate(images)
    with torch.no_grad():
        for head, features in zip(judge.heads, judge.maps(images)):
            mixed = head.mix(features)
            assert torch.allclose(mixed.mean((0, 2, 3)), torch.zeros(8), atol=1e-4)
            assert torch.allclose(mixed.std((0, 2, 3)), torch.ones(8), atol=1e-3)


def test_repetition_is_seen_and_halves_do_not_mix() -> None:
    """The coarsest head knows how images of a group differ; real and generated ones in one call do not change each other."""
    torch.manual_seed(0)
    judge = Discriminator(2, 4, 4)
    one, other = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    labels = torch.tensor([0, 1, 0, 1])
    with torch.no_grad():
        judge.calibrate(one)
        both = judge(torch.cat([one, other]), labels.repeat(2))
        judge.eval()  # spectral norms stand still
        both, alone = judge(torch.cat([one, other]), labels.repeat(2)), judge(one, labels)
        assert all(torch.allclose(b[:4], a, atol=1e-5) for a, b in zip(alone, both))
        repeated = judge(one[:1].repeat(4, 1, 1, 1), labels[:1].repeat(4))
    assert all(torch.allclose(r[0], a[0], atol=1e-5) for r, a in zip(repeated[:-1], alone[:-1]))
    assert not torch.allclose(repeated[-1][0], alone[-1][0], atol=1e-5)


def test_learning_rates_fall_to_zero(patches: tuple) -> None:
    trained = gan(replace(CONFIG, steps=8))
    rates = [trained.optimizers["generator"].param_groups[0]["lr"] for _ in trained.fit(*patches)]
    assert rates == pytest.approx(CONFIG.generator_lr * np.array([1, 1, 1, 1, 1, 0.75, 0.5, 0.25]))


def test_a_checkpoint_from_another_device_samples_and_resumes(
    patches: tuple, tmp_path: Path
) -> None:
    one = gan()
    next(one.fit(*patches))
    one.save(tmp_path / "cpu.pt")
    state = torch.load(tmp_path / "cpu.pt", weights_only=True)
    torch.save(
        state | {"rng": torch.zeros(16, dtype=torch.uint8), "device": "cuda"}, tmp_path / "cuda.pt"
    )
    moved = HistoGAN.load(tmp_path / "cuda.pt", device="cpu")
    assert (moved.sample(np.array([0, 1]), 0) == one.sample(np.array([0, 1]), 0)).all()
    assert len(list(moved.fit(*patches))) == 3


def test_a_checkpoint_of_when_there_was_self_attention(tmp_path: Path) -> None:
    one, labels = gan(), np.array([0, 1])
    one.save(tmp_path / "now.pt")
    state = torch.load(tmp_path / "now.pt", weights_only=True)
    for attention in (False, True):
        torch.save(
            state | {"config": state["config"] | {"attention": attention}},
            tmp_path / f"{attention}.pt",
        )
    loaded = HistoGAN.load(tmp_path / "False.pt", device="cpu")
    assert loaded.config == one.config and (loaded.sample(labels, 0) == one.sample(labels, 0)).all()
    with pytest.raises(
        ValueError, match=r"True.pt has a generator with self-attention, .* train again"
    ):
        HistoGAN.load(tmp_path / "True.pt", device="cpu")


def test_no_place_of_the_canvas_differs_from_another() -> None:
    """Noise that is moved by cells of the smallest grid, around the borders, moves the image and changes nothing else."""
    torch.manual_seed(0)
    network = Generator((48, 64), 2, 4, 8).eval()
    z, labels = torch.randn(3, network.latent_length), torch.tensor([0, 1, 0])
    vector, *noises = z.split([network.latent, *network.noise_lengths], dim=1)
    moved = []
    for noise, (h, w) in zip(noises, [network.grid, *network.noise_sizes]):
        cell = h // network.grid[0]
        moved.append(noise.view(3, -1, h, w).roll((cell, 2 * cell), (2, 3)).flatten(1))
    with torch.no_grad():
        picture, again = network(z, labels), network(torch.cat([vector, *moved], 1), labels)
    assert torch.allclose(picture.roll((16, 32), (2, 3)), again, atol=1e-5)
    assert (picture - picture.roll((16, 32), (2, 3))).abs().mean() > 0.01


@pytest.mark.parametrize("size", [(4, 5), (1, 1), (1, 3)])
def test_wrapping_is_circular_padding(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="circular")
    assert torch.equal(Wrapped.apply(x), expected)
    weights = torch.randn_like(expected)
    ours, theirs = (
        torch.autograd.grad((y * weights).sum(), x)[0] for y in (Wrapped.apply(x), expected)
    )
    assert torch.allclose(ours, theirs)


def test_pictures_are_cut_out_of_the_canvas() -> None:
    """Whole parts of it, at all places alike; a canvas of the images' size is left as it is."""
    canvas = torch.arange(6 * 8).view(1, 1, 6, 8).repeat(4000, 3, 1, 1)
    parts = crop(canvas, (4, 5), torch.Generator().manual_seed(0))
    first = parts[:, 0, 0, 0]
    assert torch.equal(parts - first.view(-1, 1, 1, 1), canvas[:, :, :4, :5])
    places, counts = first.unique(return_counts=True)
    assert (
        places.tolist() == [8 * y + x for y in range(3) for x in range(4)]
        and counts.min() > 4000 / 12 * 0.75
    )
    assert torch.equal(crop(canvas, (6, 8), torch.Generator()), canvas)
    sizes = {1.0: (16, 32), 4 / 3: (32, 48), 1.5: (32, 48), 2.0: (32, 64)}  # in units of 16
    for factor, size in sizes.items():
        small = gan(replace(CONFIG, canvas=factor))
        assert small.generator.noise_sizes[-1] == size and small.sample(
            np.array([0, 1]), 0
        ).shape == (2, 16, 32, 3)
    with pytest.raises(ValueError, match="at least as large as the pictures, got 0.5 times"):
        gan(replace(CONFIG, canvas=0.5))


def test_truncation() -> None:
    z = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    cut = truncate(z, 0.8)
    assert cut.abs().max() <= 0.8 and (cut.sort().indices == z.sort().indices).all()
    expected = scipy.stats.truncnorm(-0.8, 0.8)
    assert scipy.stats.kstest(cut.numpy(), expected.cdf).pvalue > 0.01
    assert torch.allclose(truncate(z, 10.0), z, atol=1e-5)

    labels = np.repeat([0, 1], 20)
    whole, cut_images = gan().sample(labels, 0), gan().sample(labels, 0, truncation=0.3)
    assert (
        not (whole == cut_images).all()
        and (cut_images == gan().sample(labels, 0, truncation=0.3)).all()
    )
    with pytest.raises(ValueError, match="truncation must be positive, got 0"):
        gan().sample(labels, 0, truncation=0)


def test_latents_are_one_stream_in_units() -> None:
    """Of all at once, as the embedded pool's were drawn; more images do not change the first ones."""
    for n, length in ((300, 97), (5, 41)):
        rng = torch.Generator().manual_seed(1)
        units = torch.cat(
            [torch.randn(len(part), length, generator=rng) for part in torch.arange(n).split(128)]
        )
        assert torch.equal(
            units, torch.randn(n, length, generator=torch.Generator().manual_seed(1))
        )
    labels = np.arange(140) % 2
    assert (
        np.abs(gan().sample(labels, 0, batch_size=50).astype(int) - gan().sample(labels, 0)).max()
        <= 1
    )
    assert (
        np.abs(gan().sample(labels[:130], 0).astype(int) - gan().sample(labels, 0)[:130]).max() <= 1
    )


def test_sample_to_folders(tmp_path: Path) -> None:
    batches: list[int] = []
    gan().sample_to_folders(tmp_path, 5, seed=3, truncation=1.0, on_batch=batches.append)
    assert sum(batches) == 10 and sorted(p.name for p in (tmp_path / "dark").iterdir()) == [
        f"000{i}.png" for i in range(5)
    ]
    read = read_class_folders(tmp_path, classes=("dark", "bright"))
    expected = gan().sample(np.repeat([0, 1], 5), seed=3, truncation=1.0)
    assert (read.pixels()[read.labels.argsort(kind="stable")] == expected).all()
    gan().sample_to_folders(tmp_path, 5, seed=4)  # overwrites
    with pytest.raises(ValueError, match="holds 0003.png"):
        gan().sample_to_folders(tmp_path, 3, seed=4)
    for name in ("a/b", ".."):
        with pytest.raises(ValueError, match="cannot name a folder"):
            HistoGAN((16, 16), ("c", name), CONFIG, device="cpu").sample_to_folders(
                tmp_path / "other", 1, seed=0
            )


def test_frechet_distance_closed_forms() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 2, (50, 1)), rng.normal(-1, 3, (80, 1))
    assert frechet_distance(a, b) == pytest.approx(
        (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    )
    corners = np.array(
        [[1, 1], [1, -1], [-1, 1], [-1, -1]], float
    )  # uncorrelated: the dimensions add up
    s = np.sqrt(4 / 3)
    assert frechet_distance(corners * [2, 5], corners * [3, 1] + [7, 0]) == pytest.approx(
        49 + s**2 * (1 + 16)
    )


@pytest.mark.parametrize("n, m, d", [(60, 40, 6), (40, 60, 39), (12, 9, 20)])
def test_frechet_distance_against_a_matrix_root(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(d)
    a, b = (
        rng.normal(size=(n, d)) @ rng.normal(size=(d, d)),
        1 + rng.normal(size=(m, d)) @ rng.normal(size=(d, d)),
    )
    # a hair of ridge, since a root of the singular product (few images) is beyond sqrtm
    product = (np.cov(a.T) + 1e-9 * np.eye(d)) @ (np.cov(b.T) + 1e-9 * np.eye(d))
    root = np.trace(scipy.linalg.sqrtm(product)).real
    expected = (
        ((a.mean(0) - b.mean(0)) ** 2).sum()
        + np.trace(np.cov(a.T))
        + np.trace(np.cov(b.T))
        - 2 * root
    )
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4) == frechet_distance(b, a)
    assert frechet_distance(a.astype(np.float32), a.astype(np.float32)) < 1e-9


def test_frechet_distance_says_what_is_wrong() -> None:
    with pytest.raises(
        ValueError,
        match=r"two or more feature vectors of one length, got shapes \(3, 2\) and \(3, 4\)",
    ):
        frechet_distance(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(np.full((3, 2), np.nan), np.zeros((3, 2)))


def test_nearest_distances() -> None:
    rng = np.random.default_rng(0)
    queries, references = rng.normal(size=(1100, 4)), rng.normal(size=(37, 4))
    table = np.linalg.norm(queries[:, None] - references[None], axis=2)
    distances, nearest = nearest_distances(queries, references)
    assert np.allclose(distances, table.min(1)) and (nearest == table.argmin(1)).all()
    assert (
        nearest_distances(references.astype(np.float32), references.astype(np.float32))[0] == 0
    ).all()  # copies, exactly
    others = np.linalg.norm(references[:, None] - references[None], axis=2) + np.diag(
        np.full(37, np.inf)
    )
    assert np.allclose(nearest_distances(references, references, skip_own=True)[0], others.min(1))
    with pytest.raises(ValueError, match="no reference picture"):
        nearest_distances(references[:1], references[:1], skip_own=True)


def test_share_closer() -> None:
    real = np.arange(1.0, 102.0)  # the 1st percentile is 2
    assert share_closer(np.array([0.0, 1.9, 2.0, 50.0]), real) == 0.5 and share_closer(
        real, real
    ) == pytest.approx(1 / 101)


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


def test_broken_weights_do_not_reach_the_checkpoint(patches: tuple, tmp_path: Path) -> None:
    """A loss is of before the step: one that broke the weights looks sound."""
    trained = gan()
    run = trained.fit(*patches, directory=tmp_path, save_every=1)
    next(run)
    descend = trained._descend

    def breaking(network: str, loss: torch.Tensor) -> None:
        descend(network, loss)
        if network == "generator":
            with torch.no_grad():
                trained.generator.to_rgb.bias.fill_(float("inf"))

    trained._descend = breaking  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError, match="diverged at step 2"):
        next(run)
    assert HistoGAN.load(tmp_path / "histogan.pt").step == 1


def test_tile() -> None:
    sheet = image_grid(np.zeros((5, 4, 6, 3), np.uint8), columns=3, gap=2)
    assert (
        sheet.shape == (10, 22, 3)
        and (sheet[:4, :6] == 0).all()
        and (sheet[4:6] == 255).all()
        and (sheet[6:, 16:] == 255).all()
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trains_on_cuda(patches: tuple) -> None:
    trained = HistoGAN((16, 32), ("dark", "bright"), CONFIG)
    assert len(list(trained.fit(*patches))) == 4 and trained.device.type == "cuda"


def test_a_training_goes_on_with_its_own_pictures(patches: tuple, tmp_path: Path) -> None:
    images, labels = patches
    first = gan()
    for _ in first.fit(images, labels, tmp_path, 2, brightness, (images[:8], labels[:8])):
        pass
    resumed = HistoGAN.load(tmp_path / "histogan.pt", "cpu")
    resumed.config = replace(CONFIG, steps=6)
    with pytest.raises(ValueError, match="the training pictures or labels are not those"):
        next(iter(resumed.fit(images[::-1].copy(), labels[::-1].copy())))
    with pytest.raises(ValueError, match="the reference pictures or labels are not those"):
        next(iter(resumed.fit(images, labels, tmp_path, 2, brightness, (images[:4], labels[:4]))))
    assert [
        row["step"]
        for row in resumed.fit(
            images, labels.astype(np.int32), tmp_path, 2, brightness, (images[:8], labels[:8])
        )
    ] == [
        5,
        6,
    ]


def test_sampling_nothing(patches: tuple) -> None:
    assert gan().sample([], 0).shape == (0, 16, 32, 3)
    assert (gan().sample(np.array([0, 1], np.uint8), 0) == gan().sample(np.array([0, 1]), 0)).all()


def test_narrow_networks_have_the_gradient_of_a_strided_shortcut() -> None:
    """The shortcut reads every second pixel; as a strided convolution it would corrupt memory on some processors."""
    torch.manual_seed(0)
    block = ResidualBlock(4, 8).double().eval()
    x = torch.randn(2, 4, 6, 9, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.conv2d(x, block.shortcut[0].weight, stride=2)
    assert torch.allclose(block.shortcut[0](x[:, :, ::2, ::2]), expected)
    assert block(x).shape == (2, 8, 3, 5) and torch.autograd.gradcheck(
        block.shortcut, x[:, :, ::2, ::2].detach().requires_grad_()
    )
