"""HistoGAN: train a class-conditional GAN on a small set of real patches, and sample candidates from it."""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from synthselect_env.data.images import image_grid, images_digest
from synthselect_env.storage import atomic_write
from synthselect_env.synthesis.augment import augment, crop
from synthselect_env.synthesis.networks import STAGES, Discriminator, Generator
from synthselect_env.synthesis.pretraining import BATCH_SIZE, pretrain
from synthselect_env.synthesis.quality import frechet_distance
from synthselect_env.training.augmentation import dihedral
from synthselect_env.training.checkpoints import load_config, load_state
from synthselect_env.training.device import autocast, pick_device, seeded

Features = Callable[[np.ndarray], np.ndarray]
"""Images to feature vectors: uint8 (n, h, w, 3) -> (n, d), the same for the same images."""

COLLAPSE_RATIO, COLLAPSE_CHECKS = 3.0, 5
"""Training stops when this many Fréchet distances in succession are more than this many times the best one. The distance of a sound
training wanders by tens of per cent from check to check; a collapsed one does not come back."""

LATENTS_AT_ONCE = 128
"""Latents drawn together, and the most images generated together. Drawn in these units, they do not depend on the batch size; a multiple
of 16, for which torch's stream is that of a single draw of all: the embedded PCam pool was drawn so."""

DECAY_FROM = 0.5
"""The generator's learning rate falls to zero from this share of the steps on. The discriminator's stays: it learns to tell a generator
that stands still from real images (area under the curve .66 to .85 in 240 steps, measured), and so has more to say to one that is slow."""

LOG = "losses.csv"


class CollapseError(RuntimeError):
    """The Fréchet distance rose far above its best, and stayed there."""


@dataclass(frozen=True)
class HistoGANConfig:
    """Everything that determines a training run, beside the images.

    :param steps: generator steps
    :param batch_size: images a step
    :param width: channels at full resolution, of all networks
    :param latent: length of the latent vector
    :param discriminator_steps: discriminator steps a generator step
    :param generator_lr: Adam's learning rate for the generator
    :param discriminator_lr: the same for the discriminator, larger (two time scales, Heusel et al. 2017)
    :param ema: decay of the generator average that is sampled from
    :param seed: of weights, latents, batches and augmentation
    :param pretraining_steps: of the network that the discriminator looks through, before the first step
    :param canvas: sides of what the generator makes, as multiples of the images', which are cut out of it at random places; opposite
        borders of a canvas fit each other, and so do a image's where this is 1
    :param turned: images are flipped both ways and transposed, in training and when they are sampled, as tissue has no up; False where they have one
    """

    steps: int = 2500
    batch_size: int = 32
    width: int = 32
    latent: int = 64
    discriminator_steps: int = 2
    generator_lr: float = 2e-4
    discriminator_lr: float = 5e-4
    ema: float = 0.998
    seed: int = 0
    pretraining_steps: int = 750
    canvas: float = 4 / 3
    random_flips: bool = True


class HistoGAN:
    """A class-conditional GAN for small histology sets: hinge loss on projected features, and differentiable augmentation.

    The first step of the method: the pool of candidates comes from a GAN that was trained on the real training images. That it is
    conditioned on the class is the paper's. The paper describes its HistoGAN in a supplement that is not public: architecture, losses,
    augmentation, averaging, truncation and the choice of a checkpoint are ours (see :mod:`synthselect_env.synthesis.networks`).
    The discriminator looks through a network that is trained on the same images first (:meth:`pretrain`).

    :attr:`history` has one row a check, as in ``losses.csv``.

    :param size: (height, width) of the images, multiples of 16
    :param classes: class names, in label order
    :param config: training configuration
    :param device: "auto", or a torch device
    """

    def __init__(
        self,
        size: tuple[int, int],
        classes: tuple[str, ...],
        config: HistoGANConfig | None = None,
        device: str = "auto",
    ) -> None:
        if any(side % (1 << STAGES) or side <= 0 for side in size):
            raise ValueError(
                f"HistoGAN makes pictures whose sides are multiples of {1 << STAGES}, got {size[0]}×{size[1]}; resize or crop them"
            )
        self.size, self.classes, self.config, self.device = (
            (size[0], size[1]),
            tuple(classes),
            config or HistoGANConfig(),
            pick_device(device),
        )
        c, unit = self.config, 1 << STAGES
        if c.canvas < 1:
            raise ValueError(
                f"the canvas must be at least as large as the pictures, got {c.canvas} times their sides"
            )
        # to the next multiple; 4/3 of 48 are 64, whatever rounding makes of it
        height, width = (unit * math.ceil(side * c.canvas / unit - 1e-9) for side in self.size)
        with seeded(c.seed):
            self.generator = Generator((height, width), len(classes), c.width, c.latent)
            self.discriminator = Discriminator(len(classes), c.width, c.batch_size)
        for network in (self.generator, self.discriminator):
            network.to(self.device).to(memory_format=torch.channels_last)
        self._judging = [
            p for p in self.discriminator.parameters() if p.requires_grad
        ]  # without the frozen features and mixtures
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.optimizers = {
            "generator": torch.optim.Adam(
                self.generator.parameters(), c.generator_lr, betas=(0.0, 0.99)
            ),
            "discriminator": torch.optim.Adam(self._judging, c.discriminator_lr, betas=(0.0, 0.99)),
        }
        self.pretrained = False
        self.pictures: dict[str, str] = {}
        """Digests of what it was trained on, and of what its Fréchet distances are to."""
        self.rng = torch.Generator(self.device).manual_seed(c.seed)
        self.step = 0
        self.history: list[dict[str, float]] = []

    def pretrain(self, images: np.ndarray, labels: np.ndarray) -> Iterator[dict[str, float]]:
        """Train the network that the discriminator looks through, one step at each ``next``; :meth:`fit` does so when it was not done.

        See :func:`~synthselect_env.synthesis.pretraining.pretrain`. Interrupted, it starts again.

        :param images: uint8 (n, h, w, 3)
        :param labels: int (n,), positions in ``classes``
        :return: an iterator over steps: ``step``, ``contrast``, ``cross_entropy``
        :raises ValueError: when images and labels do not fit the networks
        """
        data, targets = self._checked(images, labels)
        self._same("training", images, labels)
        network = copy.deepcopy(
            self.discriminator.features
        )  # one that is interrupted leaves no trace
        yield from pretrain(
            network,
            data,
            targets,
            len(self.classes),
            self.config.pretraining_steps,
            self.config.seed,
            self.config.random_flips,
        )
        self.discriminator.features.load_state_dict(network.state_dict())
        rng = torch.Generator(self.device).manual_seed(self.config.seed)
        some = data[torch.randperm(len(data), device=self.device, generator=rng)[: 4 * BATCH_SIZE]]
        self.discriminator.calibrate(some.float() / 127.5 - 1)
        self.pretrained = True

    def fit(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        directory: str | Path | None = None,
        save_every: int = 500,
        features: Features | None = None,
        reference: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Iterator[dict[str, float]]:
        """Train, one step at each ``next``; checkpoints, sample grids and ``losses.csv`` go to ``directory``.

        A loaded checkpoint goes on where it stopped, with the same random numbers. Every ``save_every`` steps, and at the end, the
        state is checked and ``histogan.pt`` written. With ``features``, a check takes the Fréchet distance between the reference
        images and as many generated ones of the same labels and the same latents each time; ``best.pt`` is the checkpoint where it was
        smallest.

        :param images: uint8 (n, h, w, 3)
        :param labels: int (n,), positions in ``classes``
        :param directory: run directory, or None
        :param save_every: steps between checks
        :param features: what the Fréchet distance is taken on, e.g. :meth:`Classifier.features <synthselect_env.training.classifier.Classifier.features>`
        :param reference: real images (m, h, w, 3) of any size and their labels (m,); by default the training images, which a generator
            that copies them is near to
        :return: an iterator over steps: ``step``, ``generator_loss``, ``discriminator_loss``, ``score_real``, ``score_fake``, and ``frechet``
            where it was taken
        :raises ValueError: when images and labels do not fit the networks, or a training goes on with other ones than it began with
        :raises FloatingPointError: when a loss or a weight is no longer finite; the checkpoints of before are kept
        :raises CollapseError: when the Fréchet distance has been above ``COLLAPSE_RATIO`` times its best for ``COLLAPSE_CHECKS`` checks
        """
        data, targets = self._checked(images, labels)
        if self.pretrained:
            self._same("training", images, labels)
        else:
            for _ in self.pretrain(images, labels):
                pass
        directory = None if directory is None else Path(directory)
        if features is not None:
            pictures, reference_labels = (images, labels) if reference is None else reference
            self._same("reference", pictures, reference_labels)
            real = features(pictures)
        if directory and self.step:
            self._write_log(directory)  # a run that was killed may have left more, or less
        while self.step < self.config.steps:
            row = {"step": self.step + 1, **self._train_step(data, targets)}
            self.step += 1
            due = self.step % save_every == 0 or self.step == self.config.steps
            broken = due and not all(p.isfinite().all() for p in self.generator.parameters())
            if broken or not np.isfinite([row["generator_loss"], row["discriminator_loss"]]).all():
                raise FloatingPointError(
                    f"HistoGAN diverged at step {self.step}: {row}; start again with smaller learning rates; the checkpoints are from before"
                )
            if due:
                if features is not None:
                    row["frechet"] = frechet_distance(
                        real, features(self.sample(reference_labels, seed=0))
                    )
                self._keep(directory, row)
            yield dict(row)
            if due:
                self._stop_when_collapsed()

    def _same(self, kind: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Refuse other images than those of before: losses and distances would not be of one training."""
        digest = images_digest(images, labels)
        if self.pictures.setdefault(kind, digest) != digest:
            raise ValueError(
                f"the {kind} pictures or labels are not those that this training began with; give those, or start another one"
            )

    def _checked(self, images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels on the device, or a ValueError that says what is wrong.  uint8 (n, 3, h, w), int64 (n,)"""
        if (
            images.dtype != np.uint8
            or images.shape[1:] != (*self.size, 3)
            or len(images) != len(labels)
        ):
            raise ValueError(
                f"expected uint8 (n, {self.size[0]}, {self.size[1]}, 3) with as many labels, got {images.dtype} {images.shape} and {len(labels)} labels"
            )
        if not np.isin(labels, np.arange(len(self.classes))).all():
            raise ValueError(
                f"labels must lie in 0..{len(self.classes) - 1}, positions in {', '.join(self.classes)}"
            )
        missing = [name for i, name in enumerate(self.classes) if not (labels == i).any()]
        if missing:
            raise ValueError(f"no training picture of class {', '.join(missing)}")
        data, targets = (
            torch.from_numpy(np.ascontiguousarray(a)).to(self.device)
            for a in (images, np.asarray(labels, np.int64))
        )
        return data.permute(0, 3, 1, 2), targets

    def _train_step(self, data: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        remaining = min(1.0, (1 - self.step / self.config.steps) / (1 - DECAY_FROM))
        self.optimizers["generator"].param_groups[0]["lr"] = self.config.generator_lr * remaining
        for _ in range(self.config.discriminator_steps):
            real, labels = self._real_batch(data, targets)
            with autocast(self.device):
                with torch.no_grad():
                    fake = self._generated(labels)
                # one pass over both halves: half the calls, and the same spectral norms for real and generated
                scores = [
                    scale.chunk(2)
                    for scale in self._scores(torch.cat([real, fake.float()]), labels.repeat(2))
                ]
                discriminator_loss = _mean(
                    F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
                    for on_real, on_fake in scores
                )
            self._descend("discriminator", discriminator_loss)

        for parameter in self._judging:
            parameter.requires_grad_(False)
        labels = targets[
            torch.randint(
                len(targets), (self.config.batch_size,), device=self.device, generator=self.rng
            )
        ]
        with autocast(self.device):
            fake = self._generated(labels)
            generator_loss = -_mean(scale.mean() for scale in self._scores(fake.float(), labels))
        self._descend("generator", generator_loss)
        for parameter in self._judging:
            parameter.requires_grad_(True)
        self._average()
        values = {
            "generator_loss": generator_loss,
            "discriminator_loss": discriminator_loss,
            "score_real": _mean(on_real.mean() for on_real, _ in scores),
            "score_fake": _mean(on_fake.mean() for _, on_fake in scores),
        }
        return {name: value.item() for name, value in values.items()}

    def _scores(self, images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        return self.discriminator(
            augment(images, self.rng).contiguous(memory_format=torch.channels_last), labels
        )

    def _real_batch(
        self, data: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.randint(
            len(data), (self.config.batch_size,), device=self.device, generator=self.rng
        )
        real = data[index].float() / 127.5 - 1
        return dihedral(real, self.rng) if self.config.random_flips else real, targets[index]

    def _generated(self, labels: torch.Tensor) -> torch.Tensor:
        latents = torch.randn(
            len(labels), self.generator.latent_length, device=self.device, generator=self.rng
        )
        return crop(self.generator(latents, labels), self.size, self.rng)

    def _descend(self, network: str, loss: torch.Tensor) -> None:
        optimizer = self.optimizers[network]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(
            self.config.ema, (1 + self.step) / (10 + self.step)
        )  # short memory at first, when everything moves
        current = self.generator.state_dict()
        for (
            name,
            mean,
        ) in self.average.state_dict().items():  # weights and batch statistics; counters are copied
            mean.lerp_(current[name], 1 - decay) if mean.is_floating_point() else mean.copy_(
                current[name]
            )

    def sample(
        self,
        labels: np.ndarray,
        seed: int,
        batch_size: int = LATENTS_AT_ONCE,
        truncation: float | None = None,
    ) -> np.ndarray:
        """Generate images from the averaged generator, each cut out of its canvas and turned at random.

        ``truncation`` trades diversity for typical images (BigGAN, Brock et al. 2019): the numbers of the latent vector follow a normal
        distribution without what lies beyond ± that value. BigGAN draws again what lies beyond; here each number moves to the same quantile
        of the same truncated distribution, so that a image keeps its character and all others theirs. The noise maps, which say where
        things lie, are not truncated.

        :param labels: int (n,), the classes to generate
        :param seed: of the latents; the same seed and labels give the same images on the same device
        :param batch_size: images at once, 128 at most; bounds memory and does not change the images
        :param truncation: e.g. 1.0; None for the full distribution
        :return: uint8 (n, h, w, 3)
        :raises ValueError: when ``truncation`` is not positive
        """
        pictures = list(self._pictures(np.asarray(labels, np.int64), seed, batch_size, truncation))
        return np.concatenate(pictures) if pictures else np.zeros((0, *self.size, 3), np.uint8)

    def sample_to_folders(
        self,
        directory: str | Path,
        per_class: int,
        seed: int,
        truncation: float | None = None,
        batch_size: int = LATENTS_AT_ONCE,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        """Write ``per_class`` images of each class as ``directory/CLASS/NNNN.png``, in memory that does not grow with their number.

        They are those of :meth:`sample` for ``per_class`` labels of the first class, then of the second, and so on.

        :param directory: for the class folders, as :func:`~synthselect_env.data.read_class_folders` reads them
        :param per_class: images of each class
        :param seed: of the latents
        :param truncation: as in :meth:`sample`
        :param batch_size: images at once
        :param on_batch: called with the number of images written since the last call
        :raises ValueError: when a class folder holds images that would not be overwritten, or a class name is no folder name
        """
        folders = [Path(directory) / name for name in self.classes]
        digits = max(4, len(str(per_class - 1)))
        names = [f"{i:0{digits}d}.png" for i in range(per_class)]
        for folder, name in zip(folders, self.classes):
            if name in (".", "..") or Path(name).name != name:
                raise ValueError(f"class {name!r} cannot name a folder; rename it")
            others = {p.name for p in folder.glob("[!.]*")} - set(names)
            if others:
                raise ValueError(
                    f"{folder} holds {min(others)}, which these {per_class} pictures would stand beside; give an empty directory"
                )
        files = (folder / name for folder in folders for name in names)
        for batch in self._pictures(
            np.repeat(np.arange(len(self.classes)), per_class), seed, batch_size, truncation
        ):
            for picture, file in zip(batch, files):
                with atomic_write(file) as path:
                    Image.fromarray(picture).save(path)
            if on_batch:
                on_batch(len(batch))

    @torch.no_grad()
    def _pictures(
        self, labels: np.ndarray, seed: int, batch_size: int, truncation: float | None
    ) -> Iterator[np.ndarray]:
        if truncation is not None and truncation <= 0:
            raise ValueError(
                f"truncation must be positive, got {truncation}; None for the full distribution"
            )
        rng, places = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
        for part in torch.as_tensor(labels).split(LATENTS_AT_ONCE):
            latents = torch.randn(len(part), self.generator.latent_length, generator=rng)
            if truncation is not None:
                vector = latents[:, : self.generator.latent]
                vector.copy_(truncate(vector, truncation))
            pictures = [  # float32: the same images with and without bf16, but for rounding
                ((self.average(z.to(self.device), y.to(self.device)) + 1) * 127.5)
                .round()
                .clamp(0, 255)
                .to(torch.uint8)
                .cpu()
                for z, y in zip(latents.split(batch_size), part.split(batch_size))
            ]
            unit = F.pad(
                torch.cat(pictures), (0, 0, 0, 0, 0, 0, 0, LATENTS_AT_ONCE - len(part))
            )  # as many random numbers each time
            cut = crop(unit, self.size, places)
            random_flips = dihedral(cut, places) if self.config.random_flips else cut
            yield random_flips[: len(part)].permute(0, 2, 3, 1).numpy()

    def _keep(self, directory: Path | None, row: dict[str, float]) -> None:
        """Note a check; write the best checkpoint, the last one, a sample grid and the log.

        The best one first: a run that is killed between the two repeats the check, and writes the same again.
        """
        best = min((r["frechet"] for r in self.history if "frechet" in r), default=np.inf)
        self.history.append(row)
        if directory is None:
            return
        if row.get("frechet", np.inf) < best:
            self.save(directory / "best.pt")
        self.save(directory / "histogan.pt")
        per_class = 8
        labels = np.repeat(np.arange(len(self.classes)), per_class * 2)
        with atomic_write(directory / f"samples-{self.step:06d}.png") as path:
            Image.fromarray(image_grid(self.sample(labels, seed=0), per_class * 2)).save(path)
        self._write_log(directory)

    def _write_log(self, directory: Path) -> None:
        columns = list(dict.fromkeys(name for row in self.history for name in row))
        with atomic_write(directory / LOG) as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.history)

    def _stop_when_collapsed(self) -> None:
        distances = [row["frechet"] for row in self.history if "frechet" in row]
        recent = distances[-COLLAPSE_CHECKS:]
        if len(recent) == COLLAPSE_CHECKS and min(recent) > COLLAPSE_RATIO * min(distances):
            best = next(row for row in self.history if row.get("frechet") == min(distances))
            raise CollapseError(
                f"HistoGAN collapsed by step {self.step}: the last {COLLAPSE_CHECKS} Fréchet distances were {min(recent):.4g} and more, the best "
                f"{min(distances):.4g} at step {best['step']}; take best.pt, or start again with smaller learning rates or another seed"
            )

    def save(self, path: str | Path) -> None:
        """Write a checkpoint from which :meth:`load` samples, and from which training resumes: on the CPU exactly."""
        state = {
            "size": self.size, "classes": self.classes, "config": asdict(self.config), "step": self.step, "history": self.history,
            "rng": self.rng.get_state(), "device": self.device.type, "pretrained": self.pretrained, "pictures": self.pictures,
            "generator": self.generator.state_dict(), "average": self.average.state_dict(), "discriminator": self.discriminator.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }  # fmt: skip
        with atomic_write(path) as temporary:
            torch.save(state, temporary)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> HistoGAN:
        """Read a checkpoint of :meth:`save`.

        One from another kind of device resumes with other random numbers, since CPU and CUDA have different generators.

        :param path: checkpoint
        :param device: "auto", or a torch device
        :raises ValueError: when it is of an earlier release, whose networks were others
        """
        state = load_state(path, "HistoGAN.save", "config", "pretrained")
        fields = dict(state["config"])
        if fields.pop("attention", False):  # a field of earlier releases
            raise ValueError(
                f"{path} has a generator with self-attention, which this release does not have; train again"
            )
        config = load_config(HistoGANConfig, fields, path)
        if "canvas" not in fields:
            raise ValueError(
                f"{path} is not a HistoGAN checkpoint of this release, whose networks are others; train again"
            )
        gan = cls(tuple(state["size"]), tuple(state["classes"]), config, device)
        for name in ("generator", "average", "discriminator"):
            getattr(gan, name).load_state_dict(state[name])
        for name, optimizer in gan.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        gan.step, gan.history, gan.pretrained = state["step"], state["history"], state["pretrained"]
        gan.pictures = state.get("pictures", {})  # a checkpoint of before does not tell
        if state["device"] == gan.device.type and len(state["rng"]) == len(gan.rng.get_state()):
            gan.rng.set_state(state["rng"])
        else:
            gan.rng.manual_seed(gan.config.seed + gan.step)
        return gan


def truncate(z: torch.Tensor, threshold: float) -> torch.Tensor:
    """Standard normal numbers to the same quantiles of the normal distribution without what lies beyond ± ``threshold``."""
    below = torch.special.ndtr(torch.tensor(-threshold, dtype=torch.float64))
    return torch.special.ndtri(below + torch.special.ndtr(z.double()) * (1 - 2 * below)).to(z.dtype)


def _mean(values: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(values)).mean()
