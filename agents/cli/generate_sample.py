"""Write class folders of images that a trained HistoGAN makes.

    synthselect generate sample --gan runs/histogan/histogan.pt --per-class 2048 --out synthetic

The same checkpoint, seed and truncation give the same files on the same device.
``synthselect bank --candidates`` reads them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from agents.cli.common import add_seed_and_device
from agents.progress import progress_bar
from synthselect_env.synthesis import HistoGAN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--gan", type=Path, required=True, help="checkpoint: histogan.pt or best.pt of a run"
    )
    parser.add_argument("--per-class", type=int, default=2048, help="images per class")
    parser.add_argument(
        "--truncation",
        type=float,
        help="less diverse and more typical images, e.g. 1.0 (default: none)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=128, help="images at once, at most 128; bounds memory"
    )
    add_seed_and_device(parser)
    parser.add_argument("--out", type=Path, required=True, help="directory of the class folders")


def run(args: argparse.Namespace) -> None:
    """Sample the images."""
    gan = HistoGAN.load(args.gan, args.device)
    with progress_bar(args.per_class * len(gan.classes), "image") as bar:
        gan.sample_to_folders(
            args.out,
            args.per_class,
            args.seed,
            args.truncation,
            args.batch_size,
            on_batch=bar.update,
        )
    print(
        f"{args.per_class} images each of {', '.join(gan.classes)}, step {gan.step}, "
        f"seed {args.seed}, in {args.out}"
    )
