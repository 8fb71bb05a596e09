"""Parts that several commands share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py

from agents.progress import progress_bar
from agents.runs.config import given
from synthselect_env.bank.extraction import train_extractor
from synthselect_env.data import Dataset
from synthselect_env.training.classifier import Classifier
from synthselect_env.training.config import TrainingConfig

Facts = dict[str, Any]
"""JSON-able facts on what a command did, which ``--json`` prints."""


class Command(ABC):
    """A command: its fields are its arguments."""

    @abstractmethod
    def run(self) -> Facts:
        """Do the work, and return facts on it."""


def check_bank_to_write(out: Path, discard_existing: bool) -> None:
    """Refuse to replace a bank with retrainings, which took long, unless that is asked for.

    :param out: bank to write
    :param discard_existing: whether it is asked for
    :raises ValueError: if ``out`` holds retrainings, or is a directory
    """
    if out.is_dir():
        raise ValueError(f"{out} is a directory; give the name of a file, e.g. {out}/bank.h5")
    out.parent.mkdir(parents=True, exist_ok=True)
    if discard_existing or not out.is_file() or not h5py.is_hdf5(out):
        return
    with h5py.File(out, "r") as file:
        if "retrainings" in file:
            raise ValueError(
                f"{out} holds retrainings, which would be lost: give another --out, "
                "or --discard-existing to drop them"
            )


def changed_config(
    config: TrainingConfig, options: Any, names: Sequence[str], train: Dataset
) -> TrainingConfig:
    """Return a training configuration with the options that are given.

    :param config: default configuration
    :param options: object with an attribute per name, and ``size``, each None if not given
    :param names: fields of the configuration that are options
    :param train: training images, whose proportions are taken if no size is given
    """
    config = replace(config, **given(options, names))
    if options.size:
        return replace(config, size=options.size)
    return config if train.images is None else config.for_images(*train.image_size)


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


@dataclass(frozen=True, kw_only=True)
class SeededCommand(Command):
    """A command that computes.

    :param seed: random seed
    :param device: cpu, cuda or cuda:1; "auto" takes a GPU where there is one
    """

    seed: int = 0
    device: str = "auto"
