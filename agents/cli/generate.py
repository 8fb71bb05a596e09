"""Train a HistoGAN on real images, or sample candidates from one.

synthselect generate train --data real --split train --reference-split valid
synthselect generate sample --gan runs/histogan/histogan.pt --out synthetic
"""

from __future__ import annotations

import argparse

from agents.cli import generate_sample, generate_train
from agents.cli.common import add_commands


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two commands."""
    add_commands(parser, {"train": generate_train, "sample": generate_sample})
