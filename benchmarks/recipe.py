"""Does the classifier's recipe make use of more real data?  Test accuracy against the number of real patches.

    python benchmarks/recipe.py --data pcam.zip

A recipe that cannot use more real images cannot show what synthetic ones are worth. The sets are nested, each has the classes'
shares of the whole, and each is drawn again for each seed, which also sets weights and order. By default the patches are those of
the embedded bank; --data reads class folders train/, valid/, test/ from a directory or zip. Finished retrainings are kept in runs/.
"""

import argparse
from dataclasses import asdict

import numpy as np
from machine import add_worker_arguments, describe_machine

from synthselect_env import FeatureBank, Dataset
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.data import EncodedImages, read_class_folders
from synthselect_env.evaluators import CachedEvaluator, ParallelEvaluator, RetrainEvaluator
from synthselect_env.training.classifier import TrainingConfig


def read(
    args: argparse.Namespace,
) -> tuple[list[tuple[EncodedImages | np.ndarray, np.ndarray]], tuple[str, ...]]:
    """Images and labels of train, valid and test, and the classes."""
    if args.data is None:
        bank = resolve_bank(args.bank)
        return [
            (split.images, split.labels) for split in (bank.train, bank.valid, bank.test)
        ], bank.classes
    parts = [read_class_folders(args.data, name) for name in ("train", "valid", "test")]
    return [(part.images, part.labels) for part in parts], parts[0].classes


def nested(labels: np.ndarray, sizes: list[int], seed: int) -> list[np.ndarray]:
    """Positions of nested sets with the same shares of the classes."""
    rng, share = np.random.default_rng(seed), np.bincount(labels) / len(labels)
    orders = [rng.permutation(np.flatnonzero(labels == i)) for i in range(len(share))]
    return [
        np.sort(np.concatenate([order[: round(n * s)] for order, s in zip(orders, share)]))
        for n in sizes
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="directory or zip with train/, valid/ and test/")
    parser.add_argument("--bank", default="pcam")
    parser.add_argument("--sizes", type=int, nargs="+", default=[250, 500, 1000, 2000, 3344, 6688])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="parameters of TrainingConfig, e.g. learning_rate=1e-3",
    )
    add_worker_arguments(parser)
    args = parser.parse_args()
    config = asdict(TrainingConfig())
    for key, _, value in (item.partition("=") for item in args.set):
        kind = type(config[key])
        config[key] = (int(value), int(value)) if kind is tuple else kind(value)
    (train, valid, test), classes = read(args)
    sizes = [n for n in args.sizes if n <= len(train[1])]
    print(f"{describe_machine()}; {args.workers} processes", flush=True)
    print(", ".join(f"{k}={v}" for k, v in config.items()), flush=True)

    figures: dict[str, list[np.ndarray]] = {}
    for seed in range(args.seeds):
        sets = nested(train[1], sizes, seed)
        rest = np.setdiff1d(
            sets[-1], sets[0]
        )  # the smallest set is "real", what the others add are "candidates"
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
        masks = np.stack([np.isin(rest, chosen) for chosen in sets])
        with ParallelEvaluator(RetrainEvaluator(bank, config=config), args.workers) as parallel:
            cached = CachedEvaluator(parallel, "runs/retrained")
            for split, evaluations in zip(
                ("valid", "test"), cached.evaluate_on(masks, seed, bank.valid, bank.test)
            ):
                for metric in ("accuracy", "auc", "log_likelihood"):
                    figures.setdefault(f"{split} {metric}", []).append(getattr(evaluations, metric))
            print(f"seed {seed}: {cached}", flush=True)
    print(
        f"\nmean ± standard deviation over {args.seeds} seeds\n| real patches | "
        + " | ".join(figures)
        + " |\n|---"
        + "|---" * len(figures)
        + "|"
    )
    for i, n in enumerate(sizes):
        columns = [np.array(values)[:, i] for values in figures.values()]
        print(
            f"| {n:,} | "
            + " | ".join(
                f"{v.mean():.4f} ± {v.std(ddof=1) if len(v) > 1 else np.nan:.4f}" for v in columns
            )
            + " |"
        )
