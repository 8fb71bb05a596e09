from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synthselect_env.synthesis import CollapseError, HistoGAN

Patches = tuple[np.ndarray, np.ndarray]
MakeGAN = Callable[..., HistoGAN]


def brightness(images: np.ndarray) -> np.ndarray:
    """Return two features per image: mean and spread of the pixels."""
    return np.stack([images.mean((1, 2, 3)), images.std((1, 2, 3))], axis=1)


class Scripted:
    """Feature vectors at given Fréchet distances from the real ones, check by check."""

    def __init__(self, distances: Sequence[float]) -> None:
        self.shifts = iter([0.0, *np.sqrt(distances)])  # the first call is for the real images

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.arange(len(images))[:, None] + next(self.shifts)


def change_checkpoint(path: Path, config: dict[str, Any], **changes: object) -> None:
    """Overwrite entries of a checkpoint; None removes one."""
    state = torch.load(path, weights_only=True) | changes | {"config": config}
    torch.save({name: value for name, value in state.items() if value is not None}, path)


def former_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration as the former release wrote it."""
    former = {name: value for name, value in config.items() if name != "random_flips"}
    return former | {"turned": config["random_flips"], "attention": False}


def same_networks(one: HistoGAN, other: HistoGAN) -> bool:
    return all(
        torch.equal(a, b)
        for name in ("generator", "average", "discriminator")
        for a, b in zip(
            getattr(one, name).state_dict().values(), getattr(other, name).state_dict().values()
        )
    )


# Training


@pytest.mark.slow
def test_training_moves_the_average_towards_the_data(patches: Patches, tiny_gan: MakeGAN) -> None:
    rates = {"generator_lr": 2e-3, "discriminator_lr": 2e-3}
    gan = tiny_gan(steps=20, batch_size=8, width=8, canvas=1.0, pretraining_steps=10, **rates)
    list(gan.fit(*patches))
    means = gan.sample(np.repeat([0, 1], 32), 0).mean((1, 2, 3))
    assert means[32:].mean() > means[:32].mean() + 15  # the class is listened to


def test_learning_rates_fall_to_zero(patches: Patches, tiny_gan: MakeGAN) -> None:
    gan = tiny_gan(canvas=1.0)
    generator, discriminator = (
        gan.optimizers[name].param_groups[0] for name in ("generator", "discriminator")
    )
    rates = [(generator["lr"], discriminator["lr"]) for _ in gan.fit(*patches)]
    expected = gan.config.generator_lr * np.array([1, 1, 1, 0.5])
    assert [rate for rate, _ in rates] == pytest.approx(expected)
    assert {rate for _, rate in rates} == {gan.config.discriminator_lr}


def test_upright_images_are_never_flipped(
    patches: Patches, tiny_gan: MakeGAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        raise AssertionError("flipped")

    for module in ("histogan", "pretraining", "sampling"):
        monkeypatch.setattr(f"synthselect_env.synthesis.{module}.dihedral", refuse)
    gan = tiny_gan(random_flips=False, steps=1)
    assert len(list(gan.fit(*patches))) == 1
    assert len(gan.sample(np.array([0, 1]), seed=0)) == 2
    with pytest.raises(AssertionError, match="flipped"):
        next(tiny_gan().fit(*patches))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trains_on_cuda(patches: Patches, tiny_gan: MakeGAN) -> None:
    gan = HistoGAN((16, 32), ("dark", "bright"), tiny_gan().config)
    assert len(list(gan.fit(*patches))) == 4
    assert gan.device.type == "cuda"


# Run directory and Fréchet distance


@pytest.mark.slow
def test_run_directory(patches: Patches, tiny_gan: MakeGAN, tmp_path: Path) -> None:
    list(tiny_gan().fit(*patches, directory=tmp_path, save_every=3))
    names = sorted(file.name for file in tmp_path.iterdir())
    samples = ["samples-000003.png", "samples-000004.png"]  # the last step is checked, too
    assert names == ["histogan.pt", "losses.csv", *samples]
    assert len((tmp_path / "losses.csv").read_text().splitlines()) == 3
    done = HistoGAN.load(tmp_path / "histogan.pt")
    assert list(done.fit(*patches)) == []


@pytest.mark.slow
def test_the_best_checkpoint_has_the_smallest_distance(
    patches: Patches, tiny_gan: MakeGAN, tmp_path: Path
) -> None:
    features = Scripted([9.0, 2.0, 5.0, 4.0])
    rows = list(tiny_gan().fit(*patches, directory=tmp_path, save_every=1, features=features))
    assert [row["frechet"] for row in rows] == pytest.approx([9, 2, 5, 4])
    log = list(csv.DictReader((tmp_path / "losses.csv").read_text().splitlines()))
    assert [float(row["frechet"]) for row in log] == pytest.approx([9, 2, 5, 4])
    best, last = (HistoGAN.load(tmp_path / name) for name in ("best.pt", "histogan.pt"))
    assert (best.step, last.step) == (2, 4)
    assert last.history == rows
    assert best.history == rows[:2]


def test_generated_images_match_the_reference_in_number(
    patches: Patches, tiny_gan: MakeGAN
) -> None:
    asked: list[int] = []

    def features(images: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        return brightness(images)

    images, labels = patches
    reference = images[:5, :8, :8], labels[:5]  # of another size than the training images
    list(tiny_gan(steps=1).fit(images, labels, features=features, reference=reference))
    assert asked == [5, 5]


@pytest.mark.slow
def test_collapse_stops_and_keeps_the_best(
    patches: Patches, tiny_gan: MakeGAN, tmp_path: Path
) -> None:
    # Four times the best, but back within five checks. Then for good.
    script = [8.0, 1.0, 4.0, 4.0, 2.0, *[3.5] * 5, 1.0]
    gan = tiny_gan(steps=50, canvas=1.0, discriminator_steps=1)
    run = gan.fit(*patches, directory=tmp_path, save_every=1, features=Scripted(script))
    message = "collapsed by step 10: .* 3.5 and more, the best 1 at step 2; take best.pt"
    with pytest.raises(CollapseError, match=message):
        list(run)
    assert HistoGAN.load(tmp_path / "best.pt").step == 2
    assert HistoGAN.load(tmp_path / "histogan.pt").step == 10


# Checkpoints


@pytest.mark.slow
def test_a_killed_run_resumes_exactly(patches: Patches, tiny_gan: MakeGAN, tmp_path: Path) -> None:
    """Killed after a step past the last checkpoint, with a line too many in the log."""
    arguments: dict[str, Any] = {"save_every": 2, "features": brightness}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    rows = list(tiny_gan(steps=6).fit(*patches, directory=whole, **arguments))
    run = tiny_gan(steps=6).fit(*patches, directory=killed, **arguments)
    for _ in range(3):
        next(run)
    with (killed / "losses.csv").open("a") as log:
        log.write("4,0,0,0,0,0\n")
    resumed = HistoGAN.load(killed / "histogan.pt", device="cpu")
    assert resumed.step == 2
    rest = resumed.fit(*patches, directory=killed, **arguments)
    assert next(rest) == rows[2]
    assert len((killed / "losses.csv").read_text().splitlines()) == 2  # before the next check
    assert list(rest) == rows[3:]
    assert (killed / "losses.csv").read_text() == (whole / "losses.csv").read_text()
    for name in ("best.pt", "histogan.pt"):
        a, b = (HistoGAN.load(folder / name, device="cpu") for folder in (whole, killed))
        assert (a.step, a.history) == (b.step, b.history)
        assert same_networks(a, b)


def test_a_checkpoint_of_the_former_release_resumes_exactly(
    patches: Patches, tiny_gan: MakeGAN, tmp_path: Path
) -> None:
    gan, path = tiny_gan(random_flips=False), tmp_path / "former.pt"
    run = gan.fit(*patches)
    next(run)
    gan.save(path)
    saved = torch.load(path, weights_only=True)
    change_checkpoint(path, former_config(saved["config"]))
    resumed = HistoGAN.load(path, device="cpu")
    assert resumed.config == gan.config
    assert resumed.image_digests == gan.image_digests == saved["pictures"]
    labels = np.array([0, 1])
    assert (resumed.sample(labels, 0) == gan.sample(labels, 0)).all()
    assert list(resumed.fit(*patches)) == list(run)
    assert same_networks(resumed, gan)


@pytest.mark.parametrize(
    "config, changes, message",
    [
        ({"attention": True}, {}, "has a generator with self-attention, .* train again"),
        ({"canvas": None}, {}, "is not a HistoGAN checkpoint of this release, .* train again"),
        ({"depth": 3}, {}, "is of a release whose HistoGANConfig was another .*depth"),
        ({}, {"pretrained": None}, "was not written by this release's HistoGAN.save: it lacks"),
    ],
)
def test_checkpoints_of_other_networks_are_refused(
    config: dict[str, Any],
    changes: dict[str, Any],
    message: str,
    tiny_gan: MakeGAN,
    tmp_path: Path,
) -> None:
    path = tmp_path / "other.pt"
    tiny_gan().save(path)
    fields = torch.load(path, weights_only=True)["config"] | config
    fields = {name: value for name, value in fields.items() if value is not None}
    change_checkpoint(path, fields, **changes)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} {message}"):
        HistoGAN.load(path)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(ValueError, match="text.pt was not written by HistoGAN.save, or is damaged"):
        HistoGAN.load(tmp_path / "text.pt")


def test_a_checkpoint_from_another_device_samples_and_resumes(
    patches: Patches, tiny_gan: MakeGAN, tmp_path: Path
) -> None:
    gan, path = tiny_gan(steps=2), tmp_path / "cuda.pt"
    next(gan.fit(*patches))
    gan.save(path)
    state = torch.load(path, weights_only=True)
    foreign = torch.zeros(16, dtype=torch.uint8)
    change_checkpoint(path, state["config"], rng=foreign, device="cuda")
    moved = HistoGAN.load(path, device="cpu")
    labels = np.array([0, 1])
    assert (moved.sample(labels, 0) == gan.sample(labels, 0)).all()
    assert len(list(moved.fit(*patches))) == 1


def test_a_training_goes_on_with_its_own_images(
    patches: Patches, tiny_gan: MakeGAN, tmp_path: Path
) -> None:
    images, labels = patches
    reference = images[:8], labels[:8]
    first = tiny_gan(steps=1)
    list(first.fit(images, labels, tmp_path, features=brightness, reference=reference))
    resumed = HistoGAN.load(tmp_path / "histogan.pt", "cpu")
    resumed.config = replace(resumed.config, steps=2)
    with pytest.raises(ValueError, match="the training images or labels are not those"):
        next(resumed.fit(images[::-1].copy(), labels[::-1].copy()))
    with pytest.raises(ValueError, match="the reference images or labels are not those"):
        fewer = images[:4], labels[:4]
        next(resumed.fit(images, labels, features=brightness, reference=fewer))
    # Labels of another integer type are the same labels.
    rows = resumed.fit(images, labels.astype(np.int32), features=brightness, reference=reference)
    assert [row["step"] for row in rows] == [2]


# Errors


@pytest.mark.parametrize("size", [(96, 100), (0, 16)])
def test_sides_must_be_multiples_of_16(size: tuple[int, int]) -> None:
    message = f"sides are multiples of 16, got {size[0]}×{size[1]}"
    with pytest.raises(ValueError, match=message):
        HistoGAN(size, ("a", "b"))


def test_the_canvas_holds_the_images(tiny_gan: MakeGAN) -> None:
    with pytest.raises(ValueError, match="at least as large as the images, got 0.5 times"):
        tiny_gan(canvas=0.5)


def test_unfit_training_images_are_refused(patches: Patches, tiny_gan: MakeGAN) -> None:
    images, labels = patches
    gan = tiny_gan()
    with pytest.raises(ValueError, match="no training image of class bright"):
        next(gan.fit(images, np.zeros_like(labels)))
    with pytest.raises(ValueError, match="labels must lie in 0..1, positions in dark, bright"):
        next(gan.fit(images, labels + 1))
    for other in (images.astype(np.float32), images[:, :8], images[1:]):
        with pytest.raises(ValueError, match=r"expected uint8 \(n, 16, 32, 3\) with as many"):
            next(gan.fit(other, labels))


def test_divergence_stops_the_training(patches: Patches, tiny_gan: MakeGAN) -> None:
    gan = tiny_gan()
    with torch.no_grad():
        gan.generator.to_rgb.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="diverged at step 1"):
        next(gan.fit(*patches))


def test_broken_weights_do_not_reach_the_checkpoint(
    patches: Patches, tiny_gan: MakeGAN, tmp_path: Path
) -> None:
    """A loss is from before the step, so a step that breaks the weights has a sound one."""
    gan = tiny_gan()
    run = gan.fit(*patches, directory=tmp_path, save_every=1)
    next(run)

    def break_weights(*_: object) -> None:
        with torch.no_grad():
            gan.generator.to_rgb.bias.fill_(float("inf"))

    gan.optimizers["generator"].register_step_post_hook(break_weights)
    with pytest.raises(FloatingPointError, match="diverged at step 2"):
        next(run)
    assert HistoGAN.load(tmp_path / "histogan.pt").step == 1
