"""HistoGAN: a class-conditional GAN for small sets of real images."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from synthselect_env.data.images import image_grid, images_digest
from synthselect_env.storage import atomic_write
from synthselect_env.synthesis.diff_augment import augment, crop
from synthselect_env.synthesis.monitoring import Row, best_distance, refuse_collapse, write_log
from synthselect_env.synthesis.networks import STAGES, Discriminator, Generator
from synthselect_env.synthesis.pretraining import BATCH_SIZE, pretrain
from synthselect_env.synthesis.quality import frechet_distance
from synthselect_env.synthesis.sampling import (
    CHUNK_SIZE,
    class_files,
    generate_images,
    write_images,
)
from synthselect_env.training.augmentation import dihedral
from synthselect_env.training.checkpoints import load_config, load_state
from synthselect_env.training.device import autocast, pick_device, seeded

Features = Callable[[np.ndarray], np.ndarray]
"""Images to feature vectors: uint8 (n, h, w, 3) -> (n, d), the same for the same images."""

UNIT = 1 << STAGES
"""Sides of images and canvases are multiples of this."""

DECAY_FROM = 0.5
"""The generator's learning rate falls to zero from this share of the steps on. The discriminator's
stays, as it learns more against a generator that is slow."""

CALIBRATION_IMAGES = 4 * BATCH_SIZE
"""Most real images to which the inputs of the discriminator's heads are scaled."""

CHECKPOINT, BEST_CHECKPOINT, LOG = "histogan.pt", "best.pt", "losses.csv"
"""Files of a run directory."""

GRID_IMAGES = 16
"""Images per class in a sample grid, one class per row."""

RENAMED_FIELDS = {"turned": "random_flips"}
"""Fields of :class:`HistoGANConfig` in former checkpoints, and their names now."""


@dataclass(frozen=True)
class HistoGANConfig:
    """Everything that determines a training run, beside the images.

    :param steps: Number of generator steps
    :param batch_size: Number of images per step
    :param width: Channels at full resolution, of all networks
    :param latent: Length of the latent vector
    :param discriminator_steps: Discriminator steps per generator step
    :param generator_lr: Adam's learning rate for the generator
    :param discriminator_lr: Adam's learning rate for the discriminator, larger than the generator's
        (two time scales, Heusel et al. 2017)
    :param ema: Decay of the generator average that is sampled from
    :param seed: Random seed of weights, latents, batches and augmentation
    :param pretraining_steps: Steps of the discriminator's feature network before the first step
    :param canvas: Sides of the generator's canvas, as multiples of the images' sides. Images are
        cut out of it at random places. Opposite borders of a canvas fit each other, and so do those
        of an image if this is 1
    :param random_flips: Whether images are flipped both ways and transposed, in training and when
        they are sampled. Tissue has no up; set False for images that have one
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
    """Class-conditional GAN whose images are the candidates to choose from.

    It is trained on the real training images, and conditioned on the class as the paper's. The
    paper gives its HistoGAN only in a supplement. Its authors described the architecture later
    (Medical Image Analysis 2021, arXiv:2111.06399); this one is ours, on common practice: a hinge
    loss on projected features, and differentiable augmentation. Averaging, truncation and the
    choice of a checkpoint are ours, too. See :mod:`synthselect_env.synthesis.networks`.

    The discriminator looks through a network that learns the same images first (:meth:`pretrain`).
    :attr:`history` has one row per check, as in ``losses.csv``. :attr:`image_digests` identifies
    the images of training and of the Fréchet distances.

    .. code-block:: python

        images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
        labels = np.arange(8) % 2
        config = HistoGANConfig(steps=2, batch_size=4, width=4, pretraining_steps=2)
        gan = HistoGAN((16, 16), ("normal", "tumor"), config)
        for row in gan.fit(images, labels):
            print(row["step"], row["generator_loss"])
        gan.sample(np.array([0, 1]), seed=0).shape  # (2, 16, 16, 3)

    :param size: Height and width of the images, multiples of 16
    :param classes: Class names, in label order
    :param config: Training configuration
    :param device: Torch device, or "auto"
    :raises ValueError: if a side is no multiple of 16, or the canvas is smaller than the images
    """

    def __init__(
        self,
        size: tuple[int, int],
        classes: tuple[str, ...],
        config: HistoGANConfig | None = None,
        device: str = "auto",
    ) -> None:
        if any(side % UNIT or side <= 0 for side in size):
            raise ValueError(
                f"HistoGAN makes images whose sides are multiples of {UNIT}, "
                f"got {size[0]}×{size[1]}; resize or crop them"
            )
        self.size = size[0], size[1]
        self.classes = tuple(classes)
        self.config = config or HistoGANConfig()
        self.device = pick_device(device)
        self._build_networks()
        self.pretrained = False
        self.image_digests: dict[str, str] = {}
        self.rng = torch.Generator(self.device).manual_seed(self.config.seed)
        self.step = 0
        self.history: list[Row] = []

    def _build_networks(self) -> None:
        config, n_classes = self.config, len(self.classes)
        if config.canvas < 1:
            raise ValueError(
                "the canvas must be at least as large as the images, "
                f"got {config.canvas} times their sides"
            )
        # The canvas has the next multiple of 16, whatever rounding makes of 4/3.
        height, width = (UNIT * math.ceil(side * config.canvas / UNIT - 1e-9) for side in self.size)
        with seeded(config.seed):
            self.generator = Generator((height, width), n_classes, config.width, config.latent)
            self.discriminator = Discriminator(n_classes, config.width, config.batch_size)
        for network in (self.generator, self.discriminator):
            network.to(self.device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)

        # The discriminator's frozen features and mixtures are not trained.
        judging = [p for p in self.discriminator.parameters() if p.requires_grad]
        self._judging_parameters = judging
        betas = (0.0, 0.99)
        self.optimizers = {
            "generator": torch.optim.Adam(
                self.generator.parameters(), config.generator_lr, betas=betas
            ),
            "discriminator": torch.optim.Adam(judging, config.discriminator_lr, betas=betas),
        }

    def pretrain(self, images: np.ndarray, labels: np.ndarray) -> Iterator[Row]:
        """Train the discriminator's feature network, one step at each ``next``.

        :meth:`fit` does so if it was not done. An interrupted pretraining starts again. See
        :func:`~synthselect_env.synthesis.pretraining.pretrain`.

        :param images: Images uint8 (n, h, w, 3)
        :param labels: Labels int (n,), positions in ``classes``
        :return: Iterator over steps: ``step``, ``contrast``, ``cross_entropy``
        :raises ValueError: if images and labels do not fit the networks
        """
        config = self.config
        data, targets = self._to_device(images, labels)
        self._refuse_other_images("training", images, labels)

        # Train a copy: a pretraining that is interrupted leaves no trace.
        network = copy.deepcopy(self.discriminator.features)
        yield from pretrain(
            network,
            data,
            targets,
            len(self.classes),
            config.pretraining_steps,
            config.seed,
            config.random_flips,
        )
        self.discriminator.features.load_state_dict(network.state_dict())

        # Fit the heads to the range of the new features.
        rng = torch.Generator(self.device).manual_seed(config.seed)
        order = torch.randperm(len(data), device=self.device, generator=rng)
        self.discriminator.calibrate(_scaled(data[order[:CALIBRATION_IMAGES]]))
        self.pretrained = True

    def fit(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        directory: str | Path | None = None,
        save_every: int = 500,
        features: Features | None = None,
        reference: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Iterator[Row]:
        """Train, one step at each ``next``, and write the progress to ``directory``.

        Every ``save_every`` steps and at the end, the state is checked. Then a checkpoint
        ``histogan.pt``, a sample grid and ``losses.csv`` are written. A loaded checkpoint goes on
        where it stopped, with the same random numbers.

        With ``features``, a check takes the Fréchet distance between the reference images and as
        many generated ones of the same labels, from the same latents each time. ``best.pt`` is the
        checkpoint with the smallest distance.

        :param images: Images uint8 (n, h, w, 3)
        :param labels: Labels int (n,), positions in ``classes``
        :param directory: Run directory, or None
        :param save_every: Number of steps between checks
        :param features: Features for the Fréchet distance, e.g. :meth:`Classifier.features
            <synthselect_env.training.classifier.Classifier.features>`
        :param reference: Real images (m, h, w, 3) of any size and their labels (m,). The default is
            the training images, to which a generator that copies them is near
        :return: Iterator over steps: ``step``, ``generator_loss``, ``discriminator_loss``,
            ``score_real``, ``score_fake``, and ``frechet`` if it was taken
        :raises ValueError: if images and labels do not fit the networks, or a training goes on with
            other ones than it began with
        :raises FloatingPointError: if a loss or a weight is no longer finite; the checkpoints from
            before are kept
        :raises CollapseError: if the Fréchet distance stays far above its best, see
            :func:`~synthselect_env.synthesis.monitoring.refuse_collapse`
        """
        data, targets = self._to_device(images, labels)
        if self.pretrained:
            self._refuse_other_images("training", images, labels)
        else:
            for _ in self.pretrain(images, labels):
                pass
        directory = None if directory is None else Path(directory)
        distance = None
        if features is not None:
            distance = self._distance_to(features, *(reference or (images, labels)))
        # A run that was killed may have left more rows in its log, or fewer.
        if directory and self.step:
            write_log(directory / LOG, self.history)

        while self.step < self.config.steps:
            row = {"step": self.step + 1, **self._train_step(data, targets)}
            self.step += 1
            due = self.step % save_every == 0 or self.step == self.config.steps
            self._refuse_divergence(row, check_weights=due)
            if due:
                if distance is not None:
                    row["frechet"] = distance()
                self._record_check(directory, row)
            yield dict(row)
            if due:
                refuse_collapse(self.history)

    def _to_device(
        self, images: np.ndarray, labels: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Check images and labels.  uint8 (n, 3, h, w), int64 (n,)"""
        expected = (*self.size, 3)
        fits = images.dtype == np.uint8 and images.shape[1:] == expected
        if not fits or len(images) != len(labels):
            raise ValueError(
                f"expected uint8 (n, {self.size[0]}, {self.size[1]}, 3) with as many labels, "
                f"got {images.dtype} {images.shape} and {len(labels)} labels"
            )
        if not np.isin(labels, np.arange(len(self.classes))).all():
            raise ValueError(
                f"labels must lie in 0..{len(self.classes) - 1}, "
                f"positions in {', '.join(self.classes)}"
            )
        missing = [name for i, name in enumerate(self.classes) if not (labels == i).any()]
        if missing:
            raise ValueError(f"no training image of class {', '.join(missing)}")
        data = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        targets = torch.from_numpy(np.ascontiguousarray(labels, np.int64)).to(self.device)
        return data.permute(0, 3, 1, 2), targets

    def _refuse_other_images(self, kind: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Refuse other images than before, as losses and distances would not compare."""
        digest = images_digest(images, labels)
        if self.image_digests.setdefault(kind, digest) != digest:
            raise ValueError(
                f"the {kind} images or labels are not those that this training began with; "
                "give those, or start another one"
            )

    def _distance_to(
        self, features: Features, images: np.ndarray, labels: np.ndarray
    ) -> Callable[[], float]:
        """Return a function for the present Fréchet distance to real images."""
        self._refuse_other_images("reference", images, labels)
        real = features(images)
        return lambda: frechet_distance(real, features(self.sample(labels, seed=0)))

    def _refuse_divergence(self, row: Row, check_weights: bool) -> None:
        # A loss is from before the step. A step that broke the weights has a sound one.
        finite = np.isfinite([row["generator_loss"], row["discriminator_loss"]]).all()
        if check_weights:
            finite &= all(p.isfinite().all() for p in self.generator.parameters())
        if not finite:
            raise FloatingPointError(
                f"HistoGAN diverged at step {self.step}: {row}; start again with smaller learning "
                "rates; the checkpoints are from before"
            )

    def _train_step(self, data: torch.Tensor, targets: torch.Tensor) -> Row:
        config = self.config
        remaining = min(1.0, (1 - self.step / config.steps) / (1 - DECAY_FROM))
        self.optimizers["generator"].param_groups[0]["lr"] = config.generator_lr * remaining

        for _ in range(config.discriminator_steps):
            discriminator_loss, on_real, on_fake = self._discriminator_step(data, targets)
        generator_loss = self._generator_step(targets)
        self._update_average()
        return {
            "generator_loss": generator_loss.item(),
            "discriminator_loss": discriminator_loss.item(),
            "score_real": _mean(scores.mean() for scores in on_real).item(),
            "score_fake": _mean(scores.mean() for scores in on_fake).item(),
        }

    def _discriminator_step(
        self, data: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """Return the loss, and the scores (b, places) of each head on real and generated images."""
        index = self._draw_batch(len(data))
        real, labels = _scaled(data[index]), targets[index]
        if self.config.random_flips:
            real = dihedral(real, self.rng)
        with autocast(self.device):
            with torch.no_grad():
                fake = self._generate(labels)
            # One pass over both halves: fewer calls, and the same spectral norms for both.
            scores = self._judge(torch.cat([real, fake.float()]), labels.repeat(2))
            halves = [head.chunk(2) for head in scores]
            loss = _mean(F.relu(1 - a).mean() + F.relu(1 + b).mean() for a, b in halves)
        self._descend("discriminator", loss)
        return loss, [a for a, _ in halves], [b for _, b in halves]

    def _generator_step(self, targets: torch.Tensor) -> torch.Tensor:
        for parameter in self._judging_parameters:
            parameter.requires_grad_(False)
        labels = targets[self._draw_batch(len(targets))]
        with autocast(self.device):
            fake = self._generate(labels)
            scores = self._judge(fake.float(), labels)
            loss = -_mean(head.mean() for head in scores)
        self._descend("generator", loss)
        for parameter in self._judging_parameters:
            parameter.requires_grad_(True)
        return loss

    def _draw_batch(self, n: int) -> torch.Tensor:
        shape = (self.config.batch_size,)
        return torch.randint(n, shape, device=self.device, generator=self.rng)

    def _generate(self, labels: torch.Tensor) -> torch.Tensor:  # (b,) -> (b, 3, h, w) in -1..1
        shape = len(labels), self.generator.latent_length
        latents = torch.randn(shape, device=self.device, generator=self.rng)
        return crop(self.generator(latents, labels), self.size, self.rng)

    # (b, 3, h, w) in -1..1, (b,) -> (b, places) per head
    def _judge(self, images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        augmented = augment(images, self.rng)
        return self.discriminator(augmented.contiguous(memory_format=torch.channels_last), labels)

    def _descend(self, network: str, loss: torch.Tensor) -> None:
        optimizer = self.optimizers[network]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def _update_average(self) -> None:
        # Short memory at first, when everything moves.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        current = self.generator.state_dict()
        # Weights and batch statistics are averaged, counters are copied.
        for name, mean in self.average.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(current[name], 1 - decay)
            else:
                mean.copy_(current[name])

    def sample(
        self,
        labels: np.ndarray,
        seed: int,
        batch_size: int = CHUNK_SIZE,
        truncation: float | None = None,
    ) -> np.ndarray:
        """Generate images from the averaged generator.

        Each image is cut out of its canvas and flipped at random. ``truncation`` trades diversity
        for typical images: no number of the latent vector lies beyond it, see
        :func:`~synthselect_env.synthesis.sampling.truncate`. The noise maps, which say where things
        lie, are not truncated.

        :param labels: Classes to generate, int (n,)
        :param seed: Random seed; the same seed and labels give the same images on the same device
        :param batch_size: Number of images at once, 128 at most; bounds memory and does not change
            the images
        :param truncation: Bound of the latent vector's numbers, e.g. 1.0; None for no bound
        :return: Images uint8 (n, h, w, 3)
        :raises ValueError: if ``truncation`` is not positive
        """
        return np.concatenate(list(self._sample_chunks(labels, seed, batch_size, truncation)))

    def sample_to_folders(
        self,
        directory: str | Path,
        per_class: int,
        seed: int,
        truncation: float | None = None,
        batch_size: int = CHUNK_SIZE,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        """Write ``per_class`` images of each class as ``directory/CLASS/NNNN.png``.

        They are those of :meth:`sample` for ``per_class`` labels of the first class, then of the
        second, and so on. Only one chunk of images is in memory at a time.

        :param directory: Parent of the class folders, as
            :func:`~synthselect_env.data.read_class_folders` reads them
        :param per_class: Number of images per class
        :param seed: Random seed
        :param truncation: Bound of the latent vector's numbers, as in :meth:`sample`
        :param batch_size: Number of images at once
        :param on_batch: Function that is called with the number of images written since its last
            call
        :raises ValueError: if a class folder holds images that would not be overwritten, or a class
            name is no folder name
        """
        files = class_files(directory, self.classes, per_class)
        labels = np.repeat(np.arange(len(self.classes)), per_class)
        chunks = self._sample_chunks(labels, seed, batch_size, truncation)
        write_images(chunks, files, on_batch)

    def _sample_chunks(
        self, labels: np.ndarray, seed: int, batch_size: int, truncation: float | None
    ) -> Iterator[np.ndarray]:
        return generate_images(
            self.average,
            np.asarray(labels, np.int64),
            self.size,
            seed,
            batch_size,
            truncation,
            self.config.random_flips,
        )

    def _record_check(self, directory: Path | None, row: Row) -> None:
        """Note a check, and write checkpoints, a sample grid and the log."""
        is_best = row.get("frechet", math.inf) < best_distance(self.history)
        self.history.append(row)
        if directory is None:
            return
        # The best one first: a run that is killed between the two repeats the check, and writes
        # the same again.
        if is_best:
            self.save(directory / BEST_CHECKPOINT)
        self.save(directory / CHECKPOINT)
        labels = np.repeat(np.arange(len(self.classes)), GRID_IMAGES)
        samples = self.sample(labels, seed=0)
        with atomic_write(directory / f"samples-{self.step:06d}.png") as path:
            Image.fromarray(image_grid(samples, GRID_IMAGES)).save(path)
        write_log(directory / LOG, self.history)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint from which :meth:`load` samples and resumes.

        On the CPU, a training resumes exactly.

        :param path: Checkpoint file
        """
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        state = {
            "size": self.size,
            "classes": self.classes,
            "config": asdict(self.config),
            "step": self.step,
            "history": self.history,
            "rng": self.rng.get_state(),
            "device": self.device.type,
            "pretrained": self.pretrained,
            "pictures": self.image_digests,  # key of the former release
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizers": optimizers,
        }
        with atomic_write(path) as temporary:
            torch.save(state, temporary)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> HistoGAN:
        """Read a checkpoint of :meth:`save`.

        A checkpoint from another kind of device resumes with other random numbers, since CPU and
        CUDA have different generators.

        :param path: Checkpoint file
        :param device: Torch device, or "auto"
        :raises ValueError: if the file is no checkpoint, is damaged, or is of a release whose
            networks were others
        """
        state = load_state(path, "HistoGAN.save", "config", "pretrained")
        config = _read_config(state["config"], path)
        gan = cls(tuple(state["size"]), tuple(state["classes"]), config, device)
        for name in ("generator", "average", "discriminator"):
            getattr(gan, name).load_state_dict(state[name])
        for name, optimizer in gan.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        gan.step = state["step"]
        gan.history = state["history"]
        gan.pretrained = state["pretrained"]
        gan.image_digests = state.get("pictures", {})  # early checkpoints have none

        # Go on with the same random numbers where the device has the same generator.
        same_length = len(state["rng"]) == len(gan.rng.get_state())
        if state["device"] == gan.device.type and same_length:
            gan.rng.set_state(state["rng"])
        else:
            gan.rng.manual_seed(config.seed + gan.step)
        return gan


def _read_config(saved: dict[str, Any], path: str | Path) -> HistoGANConfig:
    """Return the configuration of a checkpoint, which may be of a former release."""
    fields = {RENAMED_FIELDS.get(name, name): value for name, value in saved.items()}
    if fields.pop("attention", False):
        raise ValueError(
            f"{path} has a generator with self-attention, which this release does not have; "
            "train again"
        )
    config = load_config(HistoGANConfig, fields, path)
    if "canvas" not in fields:
        raise ValueError(
            f"{path} is not a HistoGAN checkpoint of this release, whose networks are others; "
            "train again"
        )
    return config


def _scaled(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images as floats in -1..1."""
    return images.float() / 127.5 - 1


def _mean(values: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(values)).mean()
