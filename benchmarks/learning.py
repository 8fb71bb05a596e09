"""Who finds the sound candidates, with how many evaluations, and is it worth anything when it is retrained?

    python benchmarks/learning.py

The bank is of known truth: candidates are real PCam patches, of which half are spoilt. Every arm gets the same number of evaluations of
the same evaluator, the environment's default. "promised": the gain in validation log-likelihood as that evaluator sees it; "AUC": of
the arm's scores against the truth; "sound": share of what it keeps. Then the first seeds' selections are retrained in full, and compared
with the oracle, all sound candidates and no other. Finished work is kept in runs/, and done again after an edit of the library.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
from machine import add_worker_arguments, describe_machine, digest
from sklearn.metrics import roc_auc_score
from stable_baselines3 import PPO

from agents import REINFORCE, CreditPPO, GRUPolicy
from agents.evaluation.bootstrap import half_interval
from agents.report import save_figure
from agents.report.plotting import panels
from agents.selectors import SELECTORS, SearchSelector, Selector, TrainingSelector
from synthselect_env import FeatureBank, Selection
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.evaluators import (
    CachedEvaluator,
    ParallelEvaluator,
    RetrainEvaluator,
    make_evaluator,
)
from synthselect_env.storage import atomic_write
from synthselect_env.training.classifier import QUICK, TrainingConfig

DEFAULT = {"n_steps": 8, "device": "cpu", "gamma": 0.0}
PPO_SETTINGS = {**DEFAULT, "batch_size": 64, "n_epochs": 4, "learning_rate": 1e-3}
CREDIT_SETTINGS = {"n_steps": 8, "device": "cpu"}  # beside its own defaults
AGENTS = {
    "PPO as in the paper": (
        PPO,
        {**PPO_SETTINGS, "learning_rate": 2.5e-4, "gamma": 0.99},
        {"reward": "paper"},
    ),
    "PPO, paper's reward": (PPO, PPO_SETTINGS, {"reward": "paper"}),
    "PPO": (PPO, PPO_SETTINGS, {}),
    "PPO, features alone": (PPO, PPO_SETTINGS, {"context": False}),
    "PPO, GRU": (PPO, PPO_SETTINGS, {"policy": GRUPolicy}),
    "REINFORCE": (REINFORCE, {**DEFAULT, "learning_rate": 1e-3}, {}),
    "REINFORCE, moving average": (
        REINFORCE,
        {**DEFAULT, "learning_rate": 1e-3, "baseline": "moving_average"},
        {},
    ),
    "CreditPPO": (CreditPPO, CREDIT_SETTINGS, {}),
    "CreditPPO, each step's own credit": (CreditPPO, {**CREDIT_SETTINGS, "gamma": 0.0}, {}),
    "CreditPPO, control variate": (
        CreditPPO,
        {**CREDIT_SETTINGS, "gamma": 0.0, "credit": "control_variate"},
        {},
    ),
    "CreditPPO, no credit": (CreditPPO, {**CREDIT_SETTINGS, "gamma": 0.0, "credit": "none"}, {}),
    "CreditPPO, no credit, no group": (
        CreditPPO,
        {**CREDIT_SETTINGS, "gamma": 0.0, "credit": "none", "group_baseline": False},
        {},
    ),
    "CreditPPO, features alone": (CreditPPO, CREDIT_SETTINGS, {"context": False}),
    "CreditPPO, joint ratio": (CreditPPO, {**CREDIT_SETTINGS, "ratio": "joint"}, {}),
}
SEARCHES = [name for name, selector in SELECTORS.items() if issubclass(selector, SearchSelector)]
UNSEARCHED = ["centroid", "fit and looks"]
ARMS = [*UNSEARCHED, *SEARCHES, *AGENTS]


def arm(name: str, evaluations: int) -> Selector:
    """The selector of that name, with so many evaluations to spend."""
    if name in AGENTS:
        algorithm, settings, more = AGENTS[name]
        n_envs = min(16, evaluations // 16)  # at least two updates
        if evaluations < 256 and "n_epochs" in settings:
            settings = {**settings, "n_epochs": 10}  # fewer rollouts, used more often
        if "batch_size" in settings:
            settings = {
                **settings,
                "batch_size": min(settings["batch_size"], n_envs * settings["n_steps"]),
            }
        return TrainingSelector(
            algorithm, evaluations=evaluations, n_envs=n_envs, name=name, **settings, **more
        )
    return SELECTORS[name](evaluations=evaluations) if name in SEARCHES else SELECTORS[name]()  # type: ignore[call-arg]


def selected(
    bank: FeatureBank, name: str, evaluations: int, seed: int, root: Path
) -> tuple[Selection, float]:
    """What an arm selects, and the seconds that it took; from disk where it is known."""
    key = hashlib.sha256(f"{name} {seed} {arm(name, evaluations).settings()}".encode()).hexdigest()[
        :16
    ]
    file = root / f"{key}.csv"
    clock = file.with_suffix(".txt")
    if not clock.exists():
        start = time.perf_counter()
        selection = arm(name, evaluations).select(bank, seed)
        seconds = time.perf_counter() - start
        selection.save(file)
        with atomic_write(clock) as path:
            path.write_text(f"{seconds:.2f}")
    return Selection.load(file), float(clock.read_text())


def interval(values: np.ndarray, form: str = ".3f") -> str:
    """Mean and 95 % confidence interval."""
    if len(values) < 2:
        return format(values.mean(), form)
    return f"{format(values.mean(), form)} ± {format(half_interval(values), form.replace('+', ''))}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank", default="pcam-planted", help="a bank of known truth")
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--retrained",
        type=int,
        default=3,
        help="seeds whose selections are retrained, with the seed of their arm",
    )
    parser.add_argument(
        "--classifier",
        choices=("quick", "resnet34"),
        default="quick",
        help="what is retrained: ResNet18 at 32 px, or the default",
    )
    parser.add_argument(
        "--against",
        metavar="ARM",
        help="one of the arms, at the most evaluations: differences to it, seed by seed",
    )
    parser.add_argument(
        "--figure", type=Path, help="where to write the learning curves of these arms"
    )
    add_worker_arguments(parser)
    args = parser.parse_args()
    args.retrained = min(args.retrained, args.seeds)
    if args.against and args.against not in args.arms:
        parser.error(
            f"--against: {args.against} is none of the arms that are run, {', '.join(args.arms)}"
        )
    bank = resolve_bank(args.bank)
    truth, evaluator = bank.candidates.flaw == 0, make_evaluator(None, bank)
    root = Path("runs") / f"learning-{digest(bank)}"
    root.mkdir(parents=True, exist_ok=True)
    most = max(args.evaluations)
    print(
        f"{describe_machine()}\n{bank.describe()}\nevaluator {type(evaluator).__name__}, {args.seeds} seeds",
        flush=True,
    )

    nothing = np.zeros_like(truth)
    reference = evaluator.evaluate(np.stack([nothing, truth]), 0).log_likelihood
    print(
        f"\noracle: {truth.sum():,} sound candidates, promised {reference[1] - reference[0]:+.4f}\n"
    )
    print(
        "mean ± 95 % interval over seeds\n| arm | evaluations | promised | AUC | selected | sound | seconds |\n|---|---|---|---|---|---|---|"
    )
    curves: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}  # evaluations, promised, AUC
    finals: dict[str, list[np.ndarray]] = {}  # those that are retrained
    for name in args.arms:
        for evaluations in args.evaluations if name not in UNSEARCHED else [most]:
            runs = [selected(bank, name, evaluations, seed, root) for seed in range(args.seeds)]
            masks, seconds = np.stack([s.mask for s, _ in runs]), np.array([s for _, s in runs])
            promised = evaluator.evaluate(masks, 0).log_likelihood - reference[0]
            auc = np.array([roc_auc_score(truth, s.scores) for s, _ in runs])
            sound = np.array([truth[m].mean() if m.any() else 0.0 for m in masks])
            curves.setdefault(name, []).append((evaluations, promised, auc))
            if evaluations == most or name == "CreditPPO":  # with credit, few evaluations should do
                finals[f"{name}, {evaluations:,}"] = list(masks[: args.retrained])
            cells = [
                interval(promised, "+.4f"),
                interval(auc),
                f"{masks.sum(1).mean():,.0f}",
                f"{sound.mean():.0%}",
                interval(seconds, ".1f"),
            ]
            print(f"| {name} | {evaluations:,} | " + " | ".join(cells) + " |", flush=True)

    if args.retrained:
        config = (QUICK if args.classifier == "quick" else TrainingConfig()).for_images(
            *bank.train.image_size
        )
        kept = {
            "none": [nothing] * args.retrained,
            "oracle": [truth] * args.retrained,
            "all": [~nothing] * args.retrained,
        }
        kept |= finals
        with ParallelEvaluator(RetrainEvaluator(bank, config=config), args.workers) as parallel:
            cached = CachedEvaluator(parallel, "runs/retrained")
            per_seed = [
                cached.evaluate_on(
                    np.stack([m[s] for m in kept.values()]), s, bank.valid, bank.test
                )
                for s in range(args.retrained)
            ]
        valid, test = (
            {
                m: np.stack([getattr(parts[i], m) for parts in per_seed])
                for m in ("accuracy", "auc", "log_likelihood")
            }
            for i in (0, 1)
        )  # (seeds, arms)
        gain, seen = ({m: part[m] - part[m][:, :1] for m in part} for part in (test, valid))
        steps = config.epochs * (config.steps_per_epoch or 0)
        print(
            f"\nretrained ({config.architecture}, {config.size[0]} px, {steps} steps of {config.batch_size})"
        )
        print(
            f"mean ± 95 % interval over {args.retrained} seeds; gains over none on the test split, shares of the oracle's in brackets; "
            "gaps: validation − test"
        )
        print(
            "| arm | test accuracy | gain in points | gain in AUC, points | gain in log-likelihood | the same on validation | "
            "gap in accuracy, points |\n|---|---|---|---|---|---|---|"
        )
        forms = {
            "accuracy": ("+.1f", 100),
            "auc": ("+.1f", 100),
            "log_likelihood": ("+.3f", 1),
        }  # format and unit
        for i, name in enumerate(kept):
            cells = [
                interval(test["accuracy"][:, i], ".4f"),
                *(
                    f"{interval(scale * gain[m][:, i], form)} ({gain[m][:, i].mean() / gain[m][:, 1].mean():.0%})"
                    for m, (form, scale) in forms.items()
                ),
                interval(seen["log_likelihood"][:, i], "+.3f"),
                interval(100 * (valid["accuracy"] - test["accuracy"])[:, i], "+.1f"),
            ]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        if args.against:
            i = list(kept).index(f"{args.against}, {most:,}")
            print(
                f"\n{args.against} minus another arm, on the test split, seed by seed\n| arm | accuracy, points | AUC, points | log-likelihood |"
            )
            print("|---|---|---|---|")
            for j, name in enumerate(kept):
                if j != i:
                    cells = [
                        interval(scale * (test[m][:, i] - test[m][:, j]), form)
                        for m, (form, scale) in forms.items()
                    ]
                    print(f"| {name} | {' | '.join(cells)} |", flush=True)

    if args.figure:
        from matplotlib import colormaps

        figure, both = panels(2, 5.25, 4.2)
        titles = ("promised gain in log-likelihood", "area under the curve of score against truth")
        for axes, title, chance, column in zip(both, titles, (0.0, 0.5), (1, 2)):
            for i, (name, points) in enumerate(curves.items()):
                if len(points) == 1:
                    axes.axhline(
                        points[0][column].mean(),
                        label=name,
                        color="black",
                        linestyle=":" if i else "-.",
                        linewidth=1,
                    )
                    continue
                x = np.array([p[0] for p in points]) * (
                    1 + 0.012 * (i - len(curves) / 2)
                )  # beside each other, so that all bars are seen
                y = np.array([p[column].mean() for p in points])
                spread = np.array([half_interval(p[column]) for p in points])
                style = {
                    "color": colormaps["tab20"](i % 20),
                    "linestyle": "-" if name in AGENTS else "--",
                    "marker": "o" if name in AGENTS else "s",
                }
                axes.errorbar(x, y, spread, label=name, capsize=2, markersize=4, **style)
            axes.axhline(chance, color="#999999", linewidth=0.8)
            axes.set(xscale="log", xlabel="evaluations", title=title)
            axes.title.set_fontsize(10)
            axes.minorticks_off()
            axes.set_xticks(args.evaluations, [f"{n:,}" for n in args.evaluations])
        both[1].legend(frameon=False, fontsize=8, bbox_to_anchor=(1, 1), loc="upper left")
        save_figure(figure, args.figure)
