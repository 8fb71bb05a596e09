"""Write class folders of images that a trained HistoGAN makes.

    synthselect generate sample --gan runs/histogan/histogan.pt --per-class 2048 --out synthetic

The same checkpoint, seed and truncation give the same files on the same device.
``synthselect bank build --candidates`` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.cli.common import Facts, SeededCommand
from agents.progress import progress_bar
from synthselect_env.synthesis import HistoGAN


@dataclass(frozen=True, kw_only=True)
class SampleGenerator(SeededCommand):
    """Write class folders of images that a trained HistoGAN makes.

    The same checkpoint, seed and truncation give the same files on the same device.

    :param gan: checkpoint: histogan.pt or best.pt of a run
    :param out: directory of the class folders
    :param per_class: images per class
    :param truncation: less diverse and more typical images, e.g. 1.0
    :param batch_size: images at once, at most 128; bounds memory
    """

    gan: Path
    out: Path
    per_class: int = 2048
    truncation: float | None = None
    batch_size: int = 128

    def run(self) -> Facts:
        """Sample the images."""
        gan = HistoGAN.load(self.gan, self.device)
        with progress_bar(self.per_class * len(gan.classes), "image") as bar:
            gan.sample_to_folders(
                self.out,
                self.per_class,
                self.seed,
                self.truncation,
                self.batch_size,
                on_batch=bar.update,
            )
        print(
            f"{self.per_class} images each of {', '.join(gan.classes)}, step {gan.step}, "
            f"seed {self.seed}, in {self.out}"
        )
        return {"images": str(self.out), "count": self.per_class * len(gan.classes)}
