"""Measure whether a training configuration gains from more real images.

    python benchmarks/recipe.py --data pcam.zip

Time on two cores: 5 minutes for the small network, hours for ResNet34. Finished retrainings are
kept in runs/.

A configuration that cannot use more real images cannot show what synthetic ones are worth. The sets
are nested and keep the classes' shares. Each seed draws the sets again, and also sets weights and
order. Without --data the patches are those of the embedded bank. --data reads the class folders
train/, valid/ and test/ of a directory or zip.

Results: benchmarks/results/recipe.md
"""

from __future__ import annotations

import argparse
from ast import literal_eval
from dataclasses import asdict

import numpy as np
from machine import add_worker_arguments, describe_machine, markdown_table, score_on

from agents.runs import RETRAINED
from synthselect_env import Dataset, FeatureBank
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.data import EncodedImages, read_class_folders
from synthselect_env.evaluators import CachedEvaluator, RetrainEvaluator, spread
from synthselect_env.training.config import SMALL, TrainingConfig, default_config

METRICS = ("accuracy", "auc", "log_likelihood")


def read(
    args: argparse.Namespace,
) -> tuple[list[tuple[EncodedImages | np.ndarray, np.ndarray]], tuple[str, ...]]:
    """Return images and labels of train, valid and test, and the classes."""
    if args.data is None:
        bank = resolve_bank(args.bank)
        splits = (bank.train, bank.valid, bank.test)
        return [(split.images, split.labels) for split in splits], bank.classes
    parts = [read_class_folders(args.data, name) for name in ("train", "valid", "test")]
    return [(part.images, part.labels) for part in parts], parts[0].classes


def nested(labels: np.ndarray, sizes: list[int], seed: int) -> list[np.ndarray]:
    """Return positions of nested sets with the same shares of the classes."""
    rng, share = np.random.default_rng(seed), np.bincount(labels) / len(labels)
    orders = [rng.permutation(np.flatnonzero(labels == i)) for i in range(len(share))]
    return [
        np.sort(np.concatenate([order[: round(n * s)] for order, s in zip(orders, share)]))
        for n in sizes
    ]


def nested_bank(
    parts: list[tuple[EncodedImages | np.ndarray, np.ndarray]],
    classes: tuple[str, ...],
    sets: list[np.ndarray],
) -> tuple[FeatureBank, np.ndarray]:
    """Return a bank of nested sets, and one selection per set.

    Its real images are the smallest set. The images that the others add are its candidates.
    """
    train, valid, test = parts
    rest = np.setdiff1d(sets[-1], sets[0])
    splits = {
        name: Dataset(np.zeros((len(labels), 1), np.float32), labels, images=images)
        for name, images, labels in (
            ("train", train[0][sets[0]], train[1][sets[0]]),
            ("candidates", train[0][rest], train[1][rest]),
            ("valid", *valid),
            ("test", *test),
        )
    }
    bank = FeatureBank(**splits, classes=classes, source="recipe")
    return bank, np.stack([np.isin(rest, chosen) for chosen in sets])


def parse_config(items: list[str], n_real: int) -> TrainingConfig:
    """Return an architecture's default configuration, changed by KEY=VALUE items.

    :param items: KEY=VALUE items, keys of which are fields of TrainingConfig
    :param n_real: number of real images to train on
    """
    given = dict(item.partition("=")[::2] for item in items)
    config = asdict(default_config(given.get("architecture", SMALL.architecture), n_real))
    for key, value in given.items():
        try:
            config[key] = literal_eval(value)
        except ValueError:
            config[key] = value  # a name
    return TrainingConfig(**config)


def score_all(
    bank: FeatureBank, masks: np.ndarray, configs: list[TrainingConfig], seed: int, workers: int
) -> dict[str, np.ndarray]:
    """Retrain on each set by its own configuration.

    :param bank: bank of :func:`nested_bank`
    :param masks: its selections, bool (k, n)
    :param configs: training configuration of each
    :param seed: random seed of the training
    :param workers: number of processes
    :return: name of a column to its values (k,)
    """
    columns = [f"{split} {metric}" for split in ("valid", "test") for metric in METRICS]
    values = {column: np.zeros(len(masks)) for column in columns}
    for config in dict.fromkeys(configs):
        rows = np.array([i for i, other in enumerate(configs) if other == config])
        with spread(RetrainEvaluator(bank, config=config), workers) as parallel:
            cached = CachedEvaluator(parallel, RETRAINED)
            results = score_on(cached, masks[rows], seed, bank.valid, bank.test)
        for split, evaluations in zip(("valid", "test"), results):
            for metric in METRICS:
                values[f"{split} {metric}"][rows] = getattr(evaluations, metric)
        print(f"seed {seed}, {config.steps_per_epoch} steps per epoch: {cached}", flush=True)
    return values


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="directory or zip with train/, valid/ and test/")
    parser.add_argument("--bank", default="pcam")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[128, 256, 512, 1000, 2000, 3344, 6688]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="parameters of TrainingConfig, e.g. learning_rate=1e-3 size=(32,32)",
    )
    add_worker_arguments(parser)
    args = parser.parse_args()
    parts, classes = read(args)
    labels = parts[0][1]
    sizes = [n for n in args.sizes if n <= len(labels)]
    configs = [parse_config(args.set, n) for n in sizes]
    print(f"{describe_machine()}; {args.workers} processes", flush=True)
    for config in dict.fromkeys(configs):
        print(config, flush=True)

    # retrain on each set
    found = []
    for seed in range(args.seeds):
        bank, masks = nested_bank(parts, classes, nested(labels, sizes, seed))
        found.append(score_all(bank, masks, configs, seed, args.workers))

    # print the table
    print(f"\nmean ± standard deviation over {args.seeds} seeds")
    rows = []
    for i, n in enumerate(sizes):
        columns = [np.array([values[name][i] for values in found]) for name in found[0]]
        spreads = [v.std(ddof=1) if len(v) > 1 else np.nan for v in columns]
        rows.append([f"{n:,}", *(f"{v.mean():.4f} ± {s:.4f}" for v, s in zip(columns, spreads))])
    print(markdown_table(["real patches", *found[0]], rows))
