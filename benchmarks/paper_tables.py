"""Make the paper's three tables, with our metrics beside the published ones.

    python benchmarks/paper_tables.py --scale smoke                     # under a minute
    python benchmarks/paper_tables.py --scale cpu --out tables          # about 1.5 hours, two cores
    python benchmarks/paper_tables.py --headroom pcam-planted cervical  # about 30 minutes

Table 1: cervical. Table 2: PCam, with the selectors that a reviewer would ask for today. Table 3:
controllers and algorithms on cervical.

Scales:

* smoke: parts of the banks, one round, a linear probe, 64 evaluations per agent
* cpu: 5 rounds; the small network is retrained; the bank's datamodel rewards agents
* gpu: 5 rounds; ResNet34 at the images' own size, 1,600 steps of 64; rewards as for cpu
* paper: 5 rounds; ResNet34 at the images' own size, also as the reward; for one large GPU

--pcam takes a bank of your own for Table 2. --test judges Table 2 by patches that no default was
chosen by: those of pcam.zip's train split that the bank does not hold. --out also writes the tables
as Markdown, CSV and LaTeX, and Table 2 as a report. Finished selections and predictions are kept in
runs/paper-tables/SCALE, so that an interrupted run continues.

--headroom prints instead what there is to win on some banks: test metrics with no candidates, all,
a random half, the half nearer to its class centroid, and the sound ones where they are known. Round
r has seed r. Finished retrainings are kept in runs/retrained.

Results: paper_tables_pcam.md, paper_tables_cervical.md and headroom.md in benchmarks/results/
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
from agents.evaluation import Comparison, Outcome, compare
from agents.report import comparison_latex, comparison_markdown, comparison_table, write_report
from agents.runs import RETRAINED
from agents.selectors import SELECTORS, CreditSelector, SearchSelector, Selector, TrainingSelector
from synthselect_env import Dataset, FeatureBank
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
from synthselect_env.training.config import (
    MANY_IMAGES,
    PAPER,
    SMALL,
    TrainingConfig,
    default_config,
)


@dataclass(frozen=True)
class Scale:
    """Hold how much is spent.

    :param rounds: number of rounds
    :param evaluations: number of evaluations per agent or search
    :param every: step between the candidates that are in the pool
    :param config: classifier's training configuration; None for a linear probe
    :param rewarded_by: name of the evaluator of agents and searches. "classifier" is the one that
        the table trains; None is the bank's datamodel
    """

    rounds: int
    evaluations: int
    every: int
    config: TrainingConfig | None
    rewarded_by: str | None


MANY = default_config(SMALL.architecture, MANY_IMAGES)
"""Training of the small network on the embedded banks, which have thousands of real images."""

LAST_EPOCHS = 5
"""Epochs of which the paper's reward is the best."""

NATIVE = (256, 256)
"""Size that no image exceeds, so that images keep their own."""

SCALES = {
    "smoke": Scale(1, 64, 16, None, "linear_probe"),
    "cpu": Scale(5, 1024, 1, MANY, None),
    "gpu": Scale(5, 1024, 1, TrainingConfig(size=NATIVE, steps_per_epoch=200), None),
    "paper": Scale(
        5, 1024, 1, TrainingConfig(size=NATIVE, epochs=50, steps_per_epoch=None), "classifier"
    ),
}
AGENT = {"learning_rate": 1e-3, "gamma": 0.0, "device": "cpu"}
PPO_AGENT = {**AGENT, "batch_size": 64, "n_epochs": 4}
CONTROLLERS = {"GRU": GRUPolicy, "GRU-Attn": GRUAttentionPolicy, "Transformer": TransformerPolicy}
ALGORITHMS = {"REINFORCE": (REINFORCE, AGENT), "PPO": (PPO, PPO_AGENT)}
PAPERS_PPO = {**PPO_AGENT, "learning_rate": 2.5e-4, "gamma": 0.99, "reward": "paper"}
"""The paper's reward and learning rate, and SB3's discount, as the paper gives none."""

BY_THE_PAPER, OURS = "Transformer-PPO as in the paper", "CreditPPO"
NO_AUGMENTATION, TRADITIONAL = "none, no augmentation", "none, traditional augmentation"
AUGMENTED = (NO_AUGMENTATION, TRADITIONAL)
ON_CERVICAL = ("none", "all", "random", "triplet", "centroid", "label fit + realism", "oracle")
ELSEWHERE = ("oracle", "random search", "cross-entropy")
"""Selectors that benchmarks/learning.py compares."""

QUALITY = 80
"""WebP quality of the bank's own images (synthselect bank)."""

PUBLISHED = {
    "cervical": {
        NO_AUGMENTATION: ".754",
        TRADITIONAL: ".766",
        "random": ".787",
        "triplet": ".798",
        "centroid": ".808",
        "GRU-REINFORCE": ".789",
        "GRU-PPO": ".792",
        "GRU-Attn-REINFORCE": ".804",
        "GRU-Attn-PPO": ".811",
        "Transformer-REINFORCE": ".812",
        BY_THE_PAPER: ".835 ± .007",
    },
    "pcam": {
        NO_AUGMENTATION: ".853",
        TRADITIONAL: ".860",
        "random": ".859",
        "triplet": ".864",
        "centroid": ".868",
        BY_THE_PAPER: ".876 ± .001",
    },
}
"""Test accuracy in the paper's tables 1 to 3."""

DIFFERENCES = {
    "cervical": (
        "The data differ: the paper's cervical images are private. These are a rendered phantom, "
        "and so are the candidates (no GAN, other patients), half of them with planted flaws. "
        "Class counts and the split by patient are like the paper's."
    ),
    "pcam": (
        "The data differ: {real:,} real training patches (the paper's 6,688) and {test:,} to test "
        "on, from the same public set. Candidates are from our HistoGAN."
    ),
}
HEADROOM_CLASSIFIERS = {"probe": None, "small_cnn": MANY, "resnet34": PAPER}


def agents_of(scale: Scale, table: str, evaluator: str | Evaluator | None) -> list[Selector]:
    """Return the reinforcement learning rows."""

    def row(name: str, algorithm: type, *policy: type, **settings: object) -> Selector:
        common = {"evaluations": scale.evaluations, "evaluator": evaluator}
        common["warm_start"] = name == OURS  # the paper has none
        return TrainingSelector(algorithm, *policy, name=name, **common, **settings)  # type: ignore[arg-type]

    rows = [row(BY_THE_PAPER, PPO, **PAPERS_PPO)]
    for controller, policy in CONTROLLERS.items():
        for algorithm, (kind, settings) in ALGORITHMS.items():
            name = f"{controller}-{algorithm}"
            if table == "cervical" or name == "Transformer-PPO":
                rows.append(row(name, kind, policy, **settings))
    return [*rows, row(OURS, CreditPPO, device="cpu")]


def controls_of(scale: Scale, table: str, evaluator: str | Evaluator | None) -> list[Selector]:
    """Return the rows that have to be beaten.

    On cervical these are the paper's and those that know the truth. On PCam they are all that the
    evaluator allows.
    """
    if table == "cervical":
        return [SELECTORS[name]() for name in ON_CERVICAL]
    asked = {"evaluator": evaluator, "evaluations": scale.evaluations}
    kinds = [kind for name, kind in SELECTORS.items() if name not in ELSEWHERE]
    if scale.rewarded_by == "classifier":
        kinds.remove(CreditSelector)  # a retraining has no derivative
    return [kind(**asked) if issubclass(kind, SearchSelector) else kind() for kind in kinds]


def classifier_of(bank: FeatureBank, scale: Scale, augmentation: str | None = None) -> Evaluator:
    """Return the classifier that is trained on each selection."""
    if scale.config is None:
        return LinearProbeEvaluator(bank)
    config = scale.config.for_images(*bank.train.image_size)
    config = replace(config, augmentation=augmentation or config.augmentation)
    return RetrainEvaluator(bank, config=config, scored_epochs=LAST_EPOCHS)


def rows_of(
    scale: Scale, table: str, evaluator: str | Evaluator | None = None
) -> dict[str, Selector | str]:
    """Return the rows of a table by name, in the paper's order.

    Rows of other augmentations select nothing. A linear probe sees no images, so it has none.
    """
    rows: dict[str, Selector | str] = {}
    if scale.config is not None:
        rows |= dict.fromkeys(AUGMENTED, "none")
    selectors = (*controls_of(scale, table, evaluator), *agents_of(scale, table, evaluator))
    return rows | {selector.name: selector for selector in selectors}


def unseen(bank: FeatureBank, data: Path) -> Dataset:
    """Return the images of a train split that the bank does not hold.

    Classifiers are tested on them. Their features are blank, as the network that made the bank's is
    not at hand. Only a linear probe would look at them.
    """
    found = read_class_folders(data, "train", tuple(bank.classes))
    held = {name for split in bank.splits.values() for name in split.ids or ()}
    rest = found.subset(np.flatnonzero([name not in held for name in found.ids]))
    if not len(rest):
        raise ValueError(f"{bank.source} holds all train images of {data}; none is left to test on")
    images = EncodedImages.encode(iter(rest.pixels()), QUALITY)
    features = np.zeros((len(rest), bank.n_features), np.float32)
    return Dataset(features, rest.labels, images=images, ids=rest.ids)


def table_of(
    name: str, bank: FeatureBank, scale: Scale, root: Path, workers: int, wanted: Sequence[str]
) -> tuple[FeatureBank, Comparison]:
    """Compare the wanted rows on one bank, in the paper's order."""
    if scale.every > 1:
        members = np.arange(0, len(bank.candidates), scale.every)
        bank = replace(bank, candidates=bank.candidates.subset(members), retrainings=None)
    start, outcomes = time.perf_counter(), []

    def report(row: Outcome) -> None:
        minutes = (time.perf_counter() - start) / 60
        accuracy = f"test accuracy {row.test['accuracy']:.4f}"
        print(
            f"{name}, {minutes:.0f} min: round {row.round}, {row.selector}: {accuracy}", flush=True
        )

    with ExitStack() as stack:
        # what rewards agents and searches
        evaluator: str | Evaluator | None = scale.rewarded_by
        if evaluator == "classifier":
            rewarding = ParallelEvaluator(classifier_of(bank.sealed, scale), workers)
            evaluator = CachedEvaluator(stack.enter_context(rewarding), root / name / "rewards")
        known = rows_of(scale, name, evaluator)
        chosen = {row: selector for row, selector in known.items() if row in wanted}

        # rows of other augmentations first, each with a classifier of its own
        for title, augmentation in zip((*AUGMENTED, None), ("none", "traditional", None)):
            own = [title] if title else [row for row in chosen if row not in AUGMENTED]
            rows = [chosen[row] for row in own if row in chosen]
            if not rows:
                continue
            judge = classifier_of(bank, scale, augmentation)
            if scale.config is not None:
                judge = stack.enter_context(ParallelEvaluator(judge, min(workers, len(rows))))
            directory = root / name / (augmentation or "all")
            part = compare(bank, rows, scale.rounds, judge, directory=directory, on_outcome=report)
            outcomes += [replace(o, selector=title or o.selector) for o in part.outcomes]
    return bank, replace(part, outcomes=tuple(outcomes))


def of_rows(comparison: Comparison, names: Sequence[str]) -> Comparison:
    """Return a comparison of some of the selectors."""
    outcomes = tuple(o for o in comparison.outcomes if o.selector in names)
    return replace(comparison, outcomes=outcomes)


def with_published(markdown: str, published: dict[str, str]) -> str:
    """Return a Markdown table with the published accuracy as its second column."""
    lines = []
    for i, line in enumerate(markdown.splitlines()):
        first, rest = line[2:].split(" | ", 1)
        cell = ("published accuracy", "---:")[i] if i < 2 else published.get(first, "")
        lines.append(f"| {first} | {cell} | {rest}")
    return "\n".join(lines)


def make_tables(args: argparse.Namespace, scale: Scale, rows: dict[str, Sequence[str]]) -> None:
    """Compare, print the tables, and write them where asked."""
    root = Path("runs/paper-tables") / args.scale
    tables: dict[str, tuple[str, str, Comparison]] = {}  # file name to title, table and content
    differences: dict[str, str] = {}
    for name in args.tables:
        # the bank, and what it is tested on
        bank = resolve_bank(args.pcam if name == "pcam" else name)
        if name == "pcam" and args.test:
            bank = replace(bank, test=unseen(bank, args.test))
            held = f"{len(bank.test):,} images of {args.test.name} that the bank does not hold"
            print(f"test split: {held}", flush=True)
        differences[name] = DIFFERENCES[name].format(real=len(bank.train), test=len(bank.test))

        # one comparison makes Table 2, another Tables 1 and 3
        bank, comparison = table_of(name, bank, scale, root, args.workers, rows[name])
        if name == "pcam":
            tables["table2-pcam"] = "Table 2, PCam", name, comparison
            if args.out is not None and OURS in comparison.selectors:
                own = [s for s in comparison.selectors if s not in AUGMENTED]
                write_report(args.out / "report.html", bank, of_rows(comparison, own), OURS)
            continue
        grid = [
            f"{controller}-{algorithm}" for controller in CONTROLLERS for algorithm in ALGORITHMS
        ]
        first = of_rows(comparison, [s for s in comparison.selectors if s not in grid[:-1]])
        third = of_rows(comparison, ["none", *grid, BY_THE_PAPER])
        tables["table1-cervical"] = "Table 1, cervical", name, first
        title = "Table 3, controllers and algorithms on cervical"
        tables["table3-ablation"] = title, name, third

    # print and write
    for stem, (title, name, part) in sorted(tables.items()):
        table = with_published(comparison_markdown(part), PUBLISHED[name])
        spread = f"{scale.rounds} rounds, mean ± standard deviation"
        print(f"\n## {title}\n\n{differences[name]}\nClassifier: {part.classifier}; {spread}.")
        print(f"\n{table}", flush=True)
        if args.out is not None:
            part.save(args.out / f"{stem}.csv")
            for suffix, text in (("md", table), ("tex", comparison_latex(part))):
                with atomic_write(args.out / f"{stem}.{suffix}") as path:
                    path.write_text(f"{text}\n", encoding="utf-8")


def print_headroom(name: str, classifiers: Sequence[str], rounds: int, workers: int) -> None:
    """Print what there is to win on a bank, by classifier."""
    bank = resolve_bank(name)
    selectors = ["none", "all", "random", "centroid"]
    if bank.candidates.flaw is not None:
        selectors.append("oracle")
    print(f"\n{bank.describe()}", flush=True)
    for classifier in classifiers:
        config = HEADROOM_CLASSIFIERS[classifier]
        if config is None:
            table = comparison_table(compare(bank, selectors, rounds, LinearProbeEvaluator(bank)))
            print(f"\nlinear probe\n{table}", flush=True)
            continue
        config = config.for_images(*bank.train.image_size)
        evaluator = RetrainEvaluator(bank, config=config)
        with ParallelEvaluator(evaluator, workers) as parallel:
            cached = CachedEvaluator(parallel, RETRAINED)
            table = comparison_table(compare(bank, selectors, rounds, cached))
        size = "×".join(map(str, evaluator.config.size))
        print(f"\nretrained: {evaluator.config.architecture} at {size} pixels\n{table}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--scale", choices=SCALES, default="smoke")
    both = ("pcam", "cervical")
    add("--tables", nargs="+", default=["cervical", "pcam"], choices=both)
    add("--pcam", default="pcam", metavar="BANK", help="file of a bank with retrainings")
    add("--test", type=Path, metavar="DATA", help="class folders whose patches judge Table 2")
    add("--rows", nargs="+", metavar="ROW", help="these rows only, e.g. none all CreditPPO")
    add("--rounds", type=int, help="default: the scale's; 3 for --headroom")
    add("--out", type=Path, help="directory for the tables and the report")
    add("--headroom", nargs="+", metavar="BANK", help="print what there is to win on these banks")
    kinds = list(HEADROOM_CLASSIFIERS)
    add("--classifiers", nargs="+", default=kinds[:2], choices=kinds, help="of --headroom")
    add_worker_arguments(parser)
    args = parser.parse_args()
    begin, machine = time.perf_counter(), f"{describe_machine()}; {args.workers} processes"
    if args.headroom:
        rounds = args.rounds or 3
        print(f"{machine}; {rounds} rounds", flush=True)
        for name in args.headroom:
            print_headroom(name, args.classifiers, rounds, args.workers)
    else:
        # check the arguments
        scale = SCALES[args.scale]
        known = {name: list(rows_of(scale, name)) for name in args.tables}
        for name, rows in known.items():
            if args.rows is not None and (unknown := set(args.rows) - set(rows)):
                parser.error(
                    f"--rows: {name} has no {', '.join(sorted(unknown))} at scale {args.scale}; "
                    f"its rows are {', '.join(rows)}"
                )
        if args.test and scale.config is None:
            parser.error(
                f"--test: scale {args.scale} judges by a linear probe, which needs features; "
                "choose one that retrains"
            )
        scale = replace(scale, rounds=args.rounds or scale.rounds)
        print(f"{machine}; scale {args.scale}: {scale}; reward {DEFAULT_REWARD}\n", flush=True)
        make_tables(args, scale, {name: args.rows or rows for name, rows in known.items()})
    print(f"\n{(time.perf_counter() - begin) / 60:.0f} min in all")
