"""Sampling from a trained generator: latents, truncation, and files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from synthselect_env.storage import atomic_write
from synthselect_env.synthesis.diff_augment import crop
from synthselect_env.synthesis.networks import Generator
from synthselect_env.training.augmentation import dihedral

CHUNK_SIZE = 128
"""Latents drawn together, and the most images generated together.

Latents that are drawn in chunks do not depend on the batch size. In chunks of a multiple of 16,
torch's random numbers are those of a single draw, as which the embedded PCam pool was made.
"""

LEAST_DIGITS = 4
"""Least number of digits in the name of a written image."""


@torch.no_grad()
def generate_images(
    generator: Generator,
    labels: np.ndarray,
    size: tuple[int, int],
    seed: int,
    batch_size: int = CHUNK_SIZE,
    truncation: float | None = None,
    random_flips: bool = True,
) -> Iterator[np.ndarray]:
    """Generate images in chunks, each image cut out of its canvas at its own place.

    :param generator: Generator in evaluation mode
    :param labels: Classes to generate, int (n,)
    :param size: Height and width of the images, at most those of the generator's canvas
    :param seed: Random seed of latents, places and flips
    :param batch_size: Number of images at once, 128 at most
    :param truncation: Bound of the latent vector's numbers, see :func:`truncate`; None for no bound
    :param random_flips: Whether images are flipped both ways and transposed at random
    :return: Iterator over chunks of images, uint8 (128 or fewer, h, w, 3)
    :raises ValueError: if ``truncation`` is not positive
    """
    if truncation is not None and truncation <= 0:
        raise ValueError(
            f"truncation must be positive, got {truncation}; None for the full distribution"
        )
    device = generator.embedding.weight.device
    latent_rng = torch.Generator().manual_seed(seed)
    place_rng = torch.Generator().manual_seed(seed)
    for chunk in torch.as_tensor(labels).split(CHUNK_SIZE):
        latents = torch.randn(len(chunk), generator.latent_length, generator=latent_rng)
        if truncation is not None:
            vector = latents[:, : generator.latent]
            vector.copy_(truncate(vector, truncation))

        # Without autocast: bf16 would make other images than float32.
        canvases = []
        for z, y in zip(latents.split(batch_size), chunk.split(batch_size)):
            canvas = generator(z.to(device), y.to(device))
            shades = ((canvas + 1) * 127.5).round().clamp(0, 255)
            canvases.append(shades.to(torch.uint8).cpu())

        # A shorter chunk is padded, so that each chunk takes as many random numbers.
        padding = CHUNK_SIZE - len(chunk)
        padded = F.pad(torch.cat(canvases), (0, 0, 0, 0, 0, 0, 0, padding))
        images = crop(padded, size, place_rng)
        if random_flips:
            images = dihedral(images, place_rng)
        images = images[: len(chunk)]
        yield images.permute(0, 2, 3, 1).numpy()


def truncate(z: torch.Tensor, threshold: float) -> torch.Tensor:
    """Map standard normal numbers into ± ``threshold``, quantile by quantile.

    The result follows the normal distribution without its tails. BigGAN's truncation (Brock et al.
    2019) draws again what lies in the tails. Here each number moves to the same quantile of the
    same distribution: an image keeps its character, and so do all others.

    :param z: Standard normal numbers of any shape
    :param threshold: Bound, above 0
    :return: Truncated numbers of the same shape
    """
    bound = torch.tensor(-threshold, dtype=torch.float64)
    below = torch.special.ndtr(bound)
    quantiles = torch.special.ndtr(z.double())
    quantiles = below + quantiles * (1 - 2 * below)
    return torch.special.ndtri(quantiles).to(z.dtype)


def class_files(directory: str | Path, classes: tuple[str, ...], per_class: int) -> list[Path]:
    """Return the files ``directory/CLASS/NNNN.png``, class by class.

    :param directory: Parent of the class folders
    :param classes: Class names
    :param per_class: Number of files per class
    :raises ValueError: if a class folder holds files that would not be overwritten, or a class name
        is no folder name
    """
    digits = max(LEAST_DIGITS, len(str(per_class - 1)))
    names = [f"{i:0{digits}d}.png" for i in range(per_class)]
    files: list[Path] = []
    for class_name in classes:
        folder = Path(directory) / class_name
        if class_name in (".", "..") or Path(class_name).name != class_name:
            raise ValueError(f"class {class_name!r} cannot name a folder; rename it")
        others = {file.name for file in folder.glob("[!.]*")} - set(names)
        if others:
            raise ValueError(
                f"{folder} holds {min(others)}, which these {per_class} images would stand beside; "
                "give an empty directory"
            )
        files += [folder / name for name in names]
    return files


def write_images(
    chunks: Iterable[np.ndarray],
    files: Iterable[Path],
    on_batch: Callable[[int], None] | None = None,
) -> None:
    """Write images to files, chunk by chunk.

    :param chunks: Images uint8 (n, h, w, 3) each
    :param files: One file per image, in order
    :param on_batch: Function that is called with the number of images written since its last call
    """
    remaining = iter(files)
    for images in chunks:
        for image in images:
            with atomic_write(next(remaining)) as path:
                Image.fromarray(image).save(path)
        if on_batch:
            on_batch(len(images))
