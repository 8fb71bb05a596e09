"""HistoGAN: train a class-conditional GAN on a small set of real patches, and sample candidates from it."""

from __future__ import annotations

import copy
import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from synthselect_env.compute import autocast, pick_device, seeded
from synthselect_env.data.augment import dihedral
from synthselect_env.files import atomic_write
from synthselect_env.synthesis.augment import augment
from synthselect_env.synthesis.networks import STAGES, Discriminator, Generator


@dataclass(frozen=True)
class HistoGANConfig:
    """Everything that determines a training run, beside the pictures.

    :param steps: generator steps
    :param batch_size: pictures a step
    :param width: channels at full resolution, of both networks
    :param latent: length of the latent vector
    :param discriminator_steps: discriminator steps a generator step; with one, the generator outran it from the start
    :param generator_lr: Adam's learning rate for the generator
    :param discriminator_lr: the same for the discriminator, larger (two time scales, Heusel et al. 2017)
    :param ema: decay of the generator average that is sampled from
    :param seed: of weights, latents, batches and augmentation
    """

    steps: int = 3500
    batch_size: int = 32
    width: int = 32
    latent: int = 64
    discriminator_steps: int = 2
    generator_lr: float = 1e-4
    discriminator_lr: float = 4e-4
    ema: float = 0.998
    seed: int = 0


class HistoGAN:
    """A class-conditional GAN for small histology sets, with the hinge loss and differentiable augmentation.

    The first step of the method: the pool of candidates comes from a GAN that was trained on the real training images. The
    paper describes its HistoGAN in a supplement that is not public; everything here is our choice (see
    :mod:`synthselect_env.synthesis.networks`).

    :param size: (height, width) of the pictures, multiples of 16
    :param classes: class names, in label order
    :param config: training configuration
    :param device: "auto", or a torch device
    """

    def __init__(self, size: tuple[int, int], classes: tuple[str, ...], config: HistoGANConfig | None = None, device: str = "auto") -> None:
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
        c = self.config
        with seeded(c.seed):
            self.generator = Generator(self.size, len(classes), c.width, c.latent)
            self.discriminator = Discriminator(len(classes), c.width)
        for network in (self.generator, self.discriminator):
            network.to(self.device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.optimizers = {
            "generator": torch.optim.Adam(self.generator.parameters(), c.generator_lr, betas=(0.0, 0.99)),
            "discriminator": torch.optim.Adam(self.discriminator.parameters(), c.discriminator_lr, betas=(0.0, 0.99)),
        }
        self.rng = torch.Generator(self.device).manual_seed(c.seed)
        self.step = 0

    def fit(
        self, images: np.ndarray, labels: np.ndarray, directory: str | Path | None = None, save_every: int = 500
    ) -> Iterator[dict[str, float]]:
        """Train, one step at each ``next``; a checkpoint, a sample grid and ``losses.csv`` go to ``directory``.

        A loaded checkpoint goes on where it stopped, with the same random numbers.

        :param images: uint8 (n, h, w, 3)
        :param labels: int (n,), positions in ``classes``
        :param directory: run directory, or None
        :param save_every: steps between checkpoints
        :return: an iterator over steps: ``step``, ``generator_loss``, ``discriminator_loss``, ``score_real``, ``score_fake``
        :raises ValueError: when pictures and labels do not fit the networks
        :raises FloatingPointError: when a loss is no longer finite; the last checkpoint is kept
        """
        if images.dtype != np.uint8 or images.shape[1:] != (*self.size, 3) or len(images) != len(labels):
            raise ValueError(
                f"expected uint8 (n, {self.size[0]}, {self.size[1]}, 3) with as many labels, got {images.dtype} {images.shape} and {len(labels)} labels"
            )
        if not np.isin(labels, np.arange(len(self.classes))).all():
            raise ValueError(f"labels must lie in 0..{len(self.classes) - 1}, positions in {', '.join(self.classes)}")
        missing = [name for i, name in enumerate(self.classes) if not (labels == i).any()]
        if missing:
            raise ValueError(f"no training picture of class {', '.join(missing)}")
        data = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)
        targets = torch.from_numpy(labels).to(self.device)
        while self.step < self.config.steps:
            losses = self._train_step(data, targets)
            self.step += 1
            if not np.isfinite([losses["generator_loss"], losses["discriminator_loss"]]).all():
                raise FloatingPointError(
                    f"HistoGAN diverged at step {self.step}: {losses}; start again with smaller learning rates; the last checkpoint is from before"
                )
            if directory and (self.step % save_every == 0 or self.step == self.config.steps):
                self._log(Path(directory), losses)
            yield {"step": self.step, **losses}

    def _train_step(self, data: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        for _ in range(self.config.discriminator_steps):
            real, labels = self._real_batch(data, targets)
            with autocast(self.device):
                with torch.no_grad():
                    fake = self.generator(self._latents(len(labels)), labels)
                # one pass over both halves: half the calls, and the same spectral norms for real and generated
                scores = self._score(torch.cat([real, fake.float()]), labels.repeat(2))
                score_real, score_fake = scores.chunk(2)
                discriminator_loss = F.relu(1 - score_real).mean() + F.relu(1 + score_fake).mean()
            self._descend("discriminator", discriminator_loss)

        self.discriminator.requires_grad_(False)
        labels = targets[torch.randint(len(targets), (self.config.batch_size,), device=self.device, generator=self.rng)]
        with autocast(self.device):
            fake = self.generator(self._latents(len(labels)), labels)
            generator_loss = -self._score(fake.float(), labels).mean()
        self._descend("generator", generator_loss)
        self.discriminator.requires_grad_(True)
        self._average()
        values = {
            "generator_loss": generator_loss,
            "discriminator_loss": discriminator_loss,
            "score_real": score_real.mean(),
            "score_fake": score_fake.mean(),
        }
        return {name: value.item() for name, value in values.items()}

    def _score(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.discriminator(augment(images, self.rng).contiguous(memory_format=torch.channels_last), labels)

    def _real_batch(self, data: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.randint(len(data), (self.config.batch_size,), device=self.device, generator=self.rng)
        return dihedral(data[index].float() / 127.5 - 1, self.rng), targets[index]

    def _latents(self, n: int) -> torch.Tensor:
        return torch.randn(n, self.generator.latent_length, device=self.device, generator=self.rng)

    def _descend(self, network: str, loss: torch.Tensor) -> None:
        optimizer = self.optimizers[network]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))  # short memory at first, when everything moves
        current = self.generator.state_dict()
        for name, mean in self.average.state_dict().items():  # weights and batch statistics; counters are copied
            mean.lerp_(current[name], 1 - decay) if mean.is_floating_point() else mean.copy_(current[name])

    @torch.no_grad()
    def sample(self, labels: np.ndarray, seed: int, batch_size: int = 128) -> np.ndarray:
        """Generate pictures from the averaged generator.

        :param labels: int (n,), the classes to generate
        :param seed: of the latents; the same seed and labels give the same pictures on the same device
        :param batch_size: pictures at once, which bounds memory and does not change the pictures
        :return: uint8 (n, h, w, 3)
        """
        rng = torch.Generator().manual_seed(seed)
        latents = torch.randn(len(labels), self.generator.latent_length, generator=rng)
        pictures = []
        for z, y in zip(latents.split(batch_size), torch.as_tensor(labels).split(batch_size)):
            x = self.average(z.to(self.device), y.to(self.device))  # float32: a checkpoint gives the same pictures with and without bf16
            pictures.append(((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(pictures) if pictures else np.zeros((0, *self.size, 3), np.uint8)

    def _log(self, directory: Path, losses: dict[str, float]) -> None:
        self.save(directory / "histogan.pt")
        per_class = 8
        labels = np.repeat(np.arange(len(self.classes)), per_class * 2)
        with atomic_write(directory / f"samples-{self.step:06d}.png") as path:
            Image.fromarray(tile(self.sample(labels, seed=0), per_class * 2)).save(path)
        log = directory / "losses.csv"
        new = not log.exists()
        with log.open("a", newline="") as file:
            writer = csv.DictWriter(file, ["step", *losses])
            if new:
                writer.writeheader()
            writer.writerow({"step": self.step, **losses})

    def save(self, path: str | Path) -> None:
        """Write a checkpoint from which training resumes exactly and from which :meth:`load` samples."""
        state = {
            "size": self.size, "classes": self.classes, "config": asdict(self.config), "step": self.step, "rng": self.rng.get_state(),
            "generator": self.generator.state_dict(), "average": self.average.state_dict(), "discriminator": self.discriminator.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }  # fmt: skip
        with atomic_write(path) as temporary:
            torch.save(state, temporary)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> HistoGAN:
        """Read a checkpoint of :meth:`save`.

        :param path: checkpoint
        :param device: "auto", or a torch device
        """
        state = torch.load(path, map_location="cpu", weights_only=True)
        gan = cls(tuple(state["size"]), tuple(state["classes"]), HistoGANConfig(**state["config"]), device)
        for name in ("generator", "average", "discriminator"):
            getattr(gan, name).load_state_dict(state[name])
        for name, optimizer in gan.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        gan.rng.set_state(state["rng"])
        gan.step = state["step"]
        return gan


def tile(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Lay pictures out in rows on white.  uint8 (n, h, w, 3) -> uint8 (H, W, 3)"""
    n, h, w, _ = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        sheet[top : top + h, left : left + w] = image
    return sheet
