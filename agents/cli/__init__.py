"""The ``synthselect`` command: one module per sub-command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from agents.cli import bank, generate, known_truth, retrain, train
from agents.cli.common import add_commands
from synthselect_env.training.device import check_device

COMMANDS = {
    "bank": bank,
    "retrain": retrain,
    "train": train,
    "generate": generate,
    "known-truth": known_truth,
}
"""Modules by command. Each has a description, ``add_arguments(parser)`` and ``run(args)``."""

OURS = ("agents", "synthselect_env")
"""Packages whose failing import is a programming error, and no missing extra."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="synthselect",
        description="Choose which synthetic images are worth adding to a training set.",
    )
    add_commands(parser, COMMANDS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    A user's error prints one line and returns 2. Other errors are raised.

    .. code-block:: python

        main(["train", "--bank", "toy", "--judge", "linear_probe"])

    :param argv: arguments; None for those of the process
    :return: exit status
    """
    args = make_parser().parse_args(argv)
    try:
        if "device" in args:
            check_device(args.device)
        args.function(args)
    except (ValueError, FileNotFoundError, ImportError) as error:
        if isinstance(error, ImportError) and (error.name or "").split(".")[0] in OURS:
            raise
        print(f"{args.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0
