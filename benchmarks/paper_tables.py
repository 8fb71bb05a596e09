"""The paper's three tables, our figures beside the published ones.

    python benchmarks/paper_tables.py --scale cpu

Table 1: cervical. Table 2: PCam, with the selectors that a reviewer would ask for today. Table 3: controllers and algorithms on cervical.

* smoke: parts of the banks, one round, a linear probe, 64 evaluations an agent; seconds, to see that everything runs
* cpu: 5 rounds; ResNet18 at 32 pixels on the shorter side retrained; agents are rewarded by the bank's datamodel
* long: the same in 3 rounds with eight times as many images drawn in a retraining, which many real images need; best with some --rows
* gpu: 5 rounds; ResNet34 at the images' own size, 1,600 steps of 64; agents are rewarded by the bank's datamodel
* paper: 5 rounds; ResNet34 retrained at the images' own size, also as the reward. For one large GPU; the agents then cost a retraining
  an evaluation

With --pcam, Table 2 is of a bank of your own from PCam, e.g. at the full 96 pixels (benchmarks/README.md has the commands). With --test, it is
judged by patches by which no default was chosen: those of pcam.zip's train split that the bank does not hold.
Finished selections and predictions are kept in runs/paper-tables/SCALE, and an interrupted run goes on where it stopped. With --out, tables
are also written there as Markdown, CSV and LaTeX, and Table 2 as a report.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from machine import add_worker_arguments, describe_machine
from stable_baselines3 import PPO

from agents import REINFORCE, CreditPPO, GRUAttentionPolicy, GRUPolicy, TransformerPolicy
from agents.evaluation.comparison import Comparison, Outcome, compare
from agents.report import comparison_latex, comparison_markdown, write_report
from agents.selectors import SELECTORS, CreditSelector, SearchSelector, Selector, TrainingSelector
from synthselect_env import FeatureBank, Dataset
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.data import EncodedImages, read_class_folders
from synthselect_env.envs.rewards import DEFAULT_REWARD
from synthselect_env.evaluators import (
    CachedEvaluator,
    Evaluator,
    LinearProbeEvaluator,
    ParallelEvaluator,
    RetrainEvaluator,
)
from synthselect_env.storage import atomic_write
from synthselect_env.training.classifier import LONG, QUICK, TrainingConfig


@dataclass(frozen=True)
class Scale:
    """How much is spent.

    :param rounds: repetitions
    :param evaluations: of an agent or search
    :param every: every so many-th candidate is in the pool
    :param config: how the classifier is trained at the images' size; None for a linear probe
    :param rewarded_by: the evaluator of agents and searches, by name: "classifier" is what the table trains; None for the bank's datamodel
    """

    rounds: int
    evaluations: int
    every: int
    config: TrainingConfig | None
    rewarded_by: str | None


SCALES = {
    "smoke": Scale(1, 64, 16, None, "linear_probe"),
    "cpu": Scale(5, 1024, 1, QUICK, None),
    "long": Scale(3, 1024, 1, LONG, None),
    "gpu": Scale(5, 1024, 1, TrainingConfig(size=(256, 256), steps_per_epoch=200), None),
    "paper": Scale(
        5, 1024, 1, TrainingConfig(size=(256, 256), epochs=50, steps_per_epoch=None), "classifier"
    ),
}
AGENT = {"learning_rate": 1e-3, "gamma": 0.0, "device": "cpu"}
PPO_AGENT = {**AGENT, "batch_size": 64, "n_epochs": 4}
CONTROLLERS = {"GRU": GRUPolicy, "GRU-Attn": GRUAttentionPolicy, "Transformer": TransformerPolicy}
ALGORITHMS = {"REINFORCE": (REINFORCE, AGENT), "PPO": (PPO, PPO_AGENT)}
PAPERS_PPO = {**PPO_AGENT, "learning_rate": 2.5e-4, "gamma": 0.99, "reward": "paper"}
BY_THE_PAPER, OURS = "Transformer-PPO as in the paper", "CreditPPO"
"""The former with the paper's reward and learning rate, and a discount that the paper does not give: SB3's."""
NO_AUGMENTATION, TRADITIONAL = "none, no augmentation", "none, traditional augmentation"
ELSEWHERE = ("oracle", "random search", "cross-entropy")
"""What benchmarks/learning.py compares."""

QUALITY = 80
"""Of the bank's own images as WebP (examples/build_bank.py)."""

PUBLISHED = {
    "cervical": {
        NO_AUGMENTATION: ".754", TRADITIONAL: ".766", "random": ".787", "triplet": ".798", "centroid": ".808", "GRU-REINFORCE": ".789",
        "GRU-PPO": ".792", "GRU-Attn-REINFORCE": ".804", "GRU-Attn-PPO": ".811", "Transformer-REINFORCE": ".812",
        BY_THE_PAPER: ".835 ± .007",
    },
    "pcam": {NO_AUGMENTATION: ".853", TRADITIONAL: ".860", "random": ".859", "triplet": ".864", "centroid": ".868", BY_THE_PAPER: ".876 ± .001"},
}  # fmt: skip
"""Test accuracy in the paper's tables 1 to 3."""

DIFFERENCES = {
    "cervical": "The data differ: the paper's cervical pictures are private, these are a rendered phantom, and so are the candidates (no GAN, other patients), "
    "half of them with planted flaws. Class counts and the split by patient are like the paper's.",
    "pcam": "The data differ: {real:,} real training patches (the paper's 6,688) and {test:,} to test on, from the same public set; candidates are from our HistoGAN.",
}


def agents_of(scale: Scale, table: str, evaluator: str | Evaluator | None) -> list[Selector]:
    """The reinforcement learning rows."""
    common = {"evaluator": evaluator}
    by_paper = TrainingSelector(
        PPO, evaluations=scale.evaluations, name=BY_THE_PAPER, **common, **PAPERS_PPO
    )  # type: ignore[arg-type]
    rows: list[Selector] = [by_paper]
    for controller, policy in CONTROLLERS.items():
        for algorithm, (kind, settings) in ALGORITHMS.items():
            if table == "cervical" or (controller, algorithm) == ("Transformer", "PPO"):
                name = f"{controller}-{algorithm}"
                rows.append(
                    TrainingSelector(
                        kind, policy, evaluations=scale.evaluations, name=name, **common, **settings
                    )
                )  # type: ignore[arg-type]
    ours = TrainingSelector(
        CreditPPO, evaluations=scale.evaluations, name=OURS, device="cpu", **common
    )  # type: ignore[arg-type]
    return [*rows, ours]


def controls_of(scale: Scale, table: str, evaluator: str | Evaluator | None) -> list[Selector]:
    """The rows that have to be beaten: the paper's, on PCam all that the evaluator allows, on the phantom what its known truth does."""
    if table == "cervical":
        return [
            SELECTORS[name]()
            for name in ("none", "all", "random", "triplet", "centroid", "fit and looks", "oracle")
        ]
    asked = {"evaluator": evaluator, "evaluations": scale.evaluations}
    kinds = [kind for name, kind in SELECTORS.items() if name not in ELSEWHERE]
    if scale.rewarded_by == "classifier":
        kinds.remove(CreditSelector)  # a retraining has no derivative
    return [kind(**asked) if issubclass(kind, SearchSelector) else kind() for kind in kinds]


def classifier_of(bank: FeatureBank, scale: Scale, augmentation: str | None = None) -> Evaluator:
    """What is trained on each selection."""
    if scale.config is None:
        return LinearProbeEvaluator(bank)
    config = scale.config.for_images(*bank.train.image_size)
    return RetrainEvaluator(
        bank, config=replace(config, augmentation=augmentation or config.augmentation)
    )


def rows_of(
    scale: Scale, table: str, evaluator: str | Evaluator | None = None
) -> dict[str, Selector | str]:
    """The rows of a table by name, in the paper's order; those of other augmentations select nothing."""
    augmented = (
        {} if scale.config is None else {NO_AUGMENTATION: "none", TRADITIONAL: "none"}
    )  # a linear probe sees no images
    return augmented | {
        row.name: row
        for row in (*controls_of(scale, table, evaluator), *agents_of(scale, table, evaluator))
    }


def unseen(bank: FeatureBank, data: Path) -> Dataset:
    """The images of a train split that are in none of the bank's, as a test split for classifiers that are retrained.

    Its features are blank: what made the bank's is not at hand, and of the judges only a linear probe would look at them.
    """
    found = read_class_folders(data, "train", tuple(bank.classes))
    held = {name for split in bank.splits.values() for name in split.ids or ()}
    rest = found.subset(np.flatnonzero([name not in held for name in found.ids]))
    if not len(rest):
        raise ValueError(
            f"{bank.source} holds all train pictures of {data}; none is left to test on"
        )
    images = EncodedImages.encode(iter(rest.pixels()), QUALITY)
    return Dataset(
        np.zeros((len(rest), bank.n_features), np.float32), rest.labels, images=images, ids=rest.ids
    )


def table_of(
    name: str, bank: FeatureBank, scale: Scale, root: Path, workers: int, wanted: Sequence[str]
) -> tuple[FeatureBank, Comparison]:
    """One bank's comparison of the wanted rows, in the paper's order."""
    if scale.every > 1:
        bank = replace(
            bank,
            candidates=bank.candidates.subset(np.arange(0, len(bank.candidates), scale.every)),
            retrainings=None,
        )
    start, parts = time.perf_counter(), []

    def said(row: Outcome) -> None:
        minutes = (time.perf_counter() - start) / 60
        print(
            f"{name}, {minutes:.0f} min: round {row.round}, {row.selector}: test accuracy {row.test['accuracy']:.4f}",
            flush=True,
        )

    with ExitStack() as stack:
        evaluator: str | Evaluator | None = scale.rewarded_by
        if evaluator == "classifier":
            retrainings = stack.enter_context(
                ParallelEvaluator(classifier_of(bank.sealed, scale), workers)
            )
            evaluator = CachedEvaluator(retrainings, root / name / "rewards")
        chosen = {
            row: selector
            for row, selector in rows_of(scale, name, evaluator).items()
            if row in wanted
        }
        for title, augmentation in (
            (NO_AUGMENTATION, "none"),
            (TRADITIONAL, "traditional"),
            (None, None),
        ):
            rows = [
                s
                for row, s in chosen.items()
                if (row == title if title else row not in (NO_AUGMENTATION, TRADITIONAL))
            ]
            if not rows:
                continue
            judge = classifier_of(bank, scale, augmentation)
            if scale.config is not None:
                judge = stack.enter_context(ParallelEvaluator(judge, min(workers, len(rows))))
            parts.append(
                compare(
                    bank,
                    rows,
                    scale.rounds,
                    judge,
                    directory=root / name / (augmentation or "all"),
                    on_outcome=said,
                )
            )
            if title:
                parts[-1] = replace(
                    parts[-1],
                    outcomes=tuple(replace(o, selector=title) for o in parts[-1].outcomes),
                )
    return bank, replace(parts[-1], outcomes=tuple(o for part in parts for o in part.outcomes))


def of_rows(comparison: Comparison, names: Sequence[str]) -> Comparison:
    """A comparison of some of the selectors."""
    return replace(
        comparison, outcomes=tuple(o for o in comparison.outcomes if o.selector in names)
    )


def with_published(markdown: str, published: dict[str, str]) -> str:
    """A Markdown table with the published accuracy as its second column."""
    lines = []
    for i, line in enumerate(markdown.splitlines()):
        first, rest = line[2:].split(" | ", 1)
        cell = ("published accuracy", "---:")[i] if i < 2 else published.get(first, "")
        lines.append(f"| {first} | {cell} | {rest}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="smoke")
    parser.add_argument(
        "--tables", nargs="+", default=["cervical", "pcam"], choices=("pcam", "cervical")
    )
    parser.add_argument(
        "--pcam",
        default="pcam",
        metavar="BANK",
        help="a file with retrainings, in the place of the embedded bank",
    )
    parser.add_argument(
        "--test",
        type=Path,
        metavar="DATA",
        help="class folders whose train patches, but for the bank's, are Table 2's test split",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        help="these rows only, e.g. none all centroid CreditPPO (default: all of them)",
    )
    parser.add_argument("--rounds", type=int, help="default: the scale's")
    parser.add_argument("--out", type=Path, help="directory for the tables and the report")
    add_worker_arguments(parser)
    args = parser.parse_args()
    known = {name: list(rows_of(SCALES[args.scale], name)) for name in args.tables}
    for name, rows in known.items():
        if args.rows is not None and (unknown := set(args.rows) - set(rows)):
            parser.error(
                f"--rows: {name} has no {', '.join(sorted(unknown))} at scale {args.scale}; its rows are {', '.join(rows)}"
            )
    if args.test and SCALES[args.scale].config is None:
        parser.error(
            f"--test: scale {args.scale} judges by a linear probe, which needs features; choose one that retrains"
        )
    scale, root, begin = (
        SCALES[args.scale],
        Path("runs/paper-tables") / args.scale,
        time.perf_counter(),
    )
    scale = replace(scale, rounds=args.rounds or scale.rounds)
    print(
        f"{describe_machine()}; {args.workers} processes; scale {args.scale}: {scale}; reward {DEFAULT_REWARD}\n",
        flush=True,
    )
    tables: dict[str, tuple[str, str, Comparison]] = {}  # file name to title, table and content
    differences: dict[str, str] = {}
    for name in args.tables:
        bank = resolve_bank(args.pcam if name == "pcam" else name)
        if name == "pcam" and args.test:
            bank = replace(bank, test=unseen(bank, args.test))
            print(
                f"test split: {len(bank.test):,} pictures of {args.test.name} that the bank does not hold",
                flush=True,
            )
        differences[name] = DIFFERENCES[name].format(real=len(bank.train), test=len(bank.test))
        bank, comparison = table_of(name, bank, scale, root, args.workers, args.rows or known[name])
        if name == "pcam":
            tables["table2-pcam"] = "Table 2, PCam", name, comparison
            if args.out is not None and OURS in comparison.selectors:
                write_report(
                    args.out / "report.html",
                    bank,
                    of_rows(
                        comparison,
                        [
                            s
                            for s in comparison.selectors
                            if s not in (NO_AUGMENTATION, TRADITIONAL)
                        ],
                    ),
                    OURS,
                )
            continue
        grid = [
            f"{controller}-{algorithm}" for controller in CONTROLLERS for algorithm in ALGORITHMS
        ]
        tables["table1-cervical"] = (
            "Table 1, cervical",
            name,
            of_rows(comparison, [s for s in comparison.selectors if s not in grid[:-1]]),
        )
        tables["table3-ablation"] = (
            "Table 3, controllers and algorithms on cervical",
            name,
            of_rows(comparison, ["none", *grid, BY_THE_PAPER]),
        )
    for stem, (title, name, part) in sorted(tables.items()):
        table = with_published(comparison_markdown(part), PUBLISHED[name])
        print(
            f"\n## {title}\n\n{differences[name]}\nClassifier: {part.classifier}; {scale.rounds} rounds, mean ± standard deviation.\n\n{table}",
            flush=True,
        )
        if args.out is not None:
            part.save(args.out / f"{stem}.csv")
            for suffix, text in (("md", table), ("tex", comparison_latex(part))):
                with atomic_write(args.out / f"{stem}.{suffix}") as path:
                    path.write_text(f"{text}\n", encoding="utf-8")
    print(f"\n{(time.perf_counter() - begin) / 60:.0f} min in all")
