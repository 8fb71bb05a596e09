"""Parts that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import h5py

from agents.progress import progress_bar
from synthselect_env.bank.extraction import train_extractor
from synthselect_env.data import Dataset
from synthselect_env.training.classifier import Classifier
from synthselect_env.training.config import TrainingConfig


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Add an option's default to its help, where the help does not tell it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.help is None or action.default is argparse.SUPPRESS:
            return action.help
        is_told = "(default: " in action.help or action.required
        has_none = action.default is None or action.default is False or action.default == ""
        return action.help if is_told or has_none else f"{action.help} (default: %(default)s)"


def add_commands(parser: argparse.ArgumentParser, commands: Mapping[str, ModuleType]) -> None:
    """Add a sub-parser per command.

    :param parser: parser to add to
    :param commands: name of each command to its module
    """
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in commands.items():
        description = module.__doc__ or ""
        subparser = subparsers.add_parser(
            name,
            help=description.split("\n")[0],
            description=description,
            formatter_class=HelpFormatter,
        )
        module.add_arguments(subparser)
        if hasattr(module, "run"):
            subparser.set_defaults(function=module.run, prog=subparser.prog)


def add_seed_and_device(parser: argparse.ArgumentParser, seed: str = "random seed") -> None:
    """Add ``--seed`` and ``--device``.

    :param parser: parser to add to
    :param seed: help text of the seed
    """
    parser.add_argument("--seed", type=int, default=0, help=seed)
    parser.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, or cuda:1 (default: a GPU where there is one)",
    )


def add_size(parser: argparse.ArgumentParser, help: str) -> None:
    """Add ``--size HEIGHT WIDTH``.

    :param parser: parser to add to
    :param help: help text
    """
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=help)


def add_bank_to_write(parser: argparse.ArgumentParser) -> None:
    """Add ``--out`` and ``--discard-existing``.

    :param parser: parser to add to
    """
    parser.add_argument("--out", type=Path, required=True, help="bank to write")
    parser.add_argument(
        "--discard-existing",
        action="store_true",
        help="replace a bank at OUT although it holds retrainings, which are lost",
    )


def check_bank_to_write(args: argparse.Namespace) -> None:
    """Refuse to replace a bank with retrainings, which took hours, unless that is asked for.

    :param args: arguments of :func:`add_bank_to_write`
    :raises ValueError: if OUT holds retrainings
    """
    if args.discard_existing or not args.out.is_file() or not h5py.is_hdf5(args.out):
        return
    with h5py.File(args.out, "r") as file:
        if "retrainings" in file:
            raise ValueError(
                f"{args.out} holds retrainings, which would be lost: give another --out, "
                "or --discard-existing to drop them"
            )


def class_names(dataset: Dataset) -> tuple[str, ...]:
    """Return a dataset's class names, in label order."""
    return tuple(dataset.classes or ())


def train_extractor_with_bar(
    images: Mapping[str, Dataset], seed: int, config: TrainingConfig, device: str
) -> Classifier:
    """Train a feature extractor, and draw a bar.

    :param images: datasets by split; "train" trains, "valid" is scored
    :param seed: random seed of weights and order
    :param config: training configuration
    :param device: "auto", or a torch device
    """
    with progress_bar(config.epochs, "epoch", "extractor") as bar:

        def report(epoch: int, metrics: dict[str, float]) -> None:
            accuracy = f"{metrics['accuracy']:.3f}"
            log_likelihood = f"{metrics['log_likelihood']:.3f}"
            bar.update()
            bar.set_postfix(valid_accuracy=accuracy, valid_log_likelihood=log_likelihood)

        return train_extractor(
            images["train"], images["valid"], seed, config, device, on_epoch=report
        )
