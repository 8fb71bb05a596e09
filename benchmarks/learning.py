"""Measure who finds the sound candidates, and in how many evaluations.

    python benchmarks/learning.py

Time on two cores: about two hours in float32, half of it for the retrainings; less with --arms,
--seeds and --retrained. With --classifier resnet34, use a GPU.

The bank is of known truth: candidates are real PCam patches, and half of them are spoilt. Every arm
has the same number of evaluations of the same evaluator, the environment's default.

* promised: gain in validation log-likelihood over no candidates, as that evaluator sees it
* AUC: of the arm's scores against the truth
* sound: share of sound candidates in the selection

Then the selections of the first seeds are retrained in full. They are compared with the oracle,
which takes all sound candidates and no other. Finished work is kept in runs/ until the library is
edited.

Results: benchmarks/results/learning.md
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from machine import (
    add_worker_arguments,
    describe_machine,
    digest,
    markdown_row,
    markdown_table,
    score_on,
)
from sklearn.metrics import roc_auc_score
from stable_baselines3 import PPO

from agents import REINFORCE, CreditPPO, GRUPolicy
from agents.evaluation.bootstrap import half_interval
from agents.evaluation.selecting import select_once
from agents.report import save_figure
from agents.report.plotting import panels
from agents.runs import RETRAINED
from agents.selectors import SELECTORS, SearchSelector, Selector, TrainingSelector
from synthselect_env import FeatureBank, Selection
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.evaluators import (
    CachedEvaluator,
    Evaluator,
    ParallelEvaluator,
    RetrainEvaluator,
    make_evaluator,
)
from synthselect_env.training.config import default_config

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
    "PPO, features alone": (PPO, PPO_SETTINGS, {"observation": "features"}),
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
    "CreditPPO, features alone": (CreditPPO, CREDIT_SETTINGS, {"observation": "features"}),
    "CreditPPO, joint ratio": (CreditPPO, {**CREDIT_SETTINGS, "ratio": "joint"}, {}),
}
SEARCHES = [name for name, selector in SELECTORS.items() if issubclass(selector, SearchSelector)]
UNSEARCHED = ["centroid", "label fit + realism"]
ARMS = [*UNSEARCHED, *SEARCHES, *AGENTS]
METRICS = {"accuracy": ("+.1f", 100), "auc": ("+.1f", 100), "log_likelihood": ("+.3f", 1)}
"""Metrics of retrainings, each with the format and the unit of its gain."""


def arm(name: str, evaluations: int) -> Selector:
    """Return the selector of that name with its number of evaluations."""
    if name in SEARCHES:
        return SELECTORS[name](evaluations=evaluations)  # type: ignore[call-arg]
    if name not in AGENTS:
        return SELECTORS[name]()
    algorithm, settings, more = AGENTS[name]
    n_envs = min(16, evaluations // 16)  # at least two updates
    settings = dict(settings)
    if evaluations < 256 and "n_epochs" in settings:
        settings["n_epochs"] = 10  # fewer rollouts, used more often
    if "batch_size" in settings:
        settings["batch_size"] = min(settings["batch_size"], n_envs * settings["n_steps"])
    # A warm start takes evaluations of its own.
    more = {"warm_start": False, **more}
    return TrainingSelector(
        algorithm, evaluations=evaluations, n_envs=n_envs, name=name, **settings, **more
    )


def selected(
    bank: FeatureBank, name: str, evaluations: int, seed: int, root: Path
) -> tuple[Selection, float]:
    """Return an arm's selection and its seconds, from disk where known."""
    once = select_once(arm(name, evaluations), bank, seed, root)
    return once.selection, once.seconds


def interval(values: np.ndarray, form: str = ".3f") -> str:
    """Return the mean and its 95 % confidence interval."""
    mean = format(values.mean(), form)
    if len(values) < 2:
        return mean
    return f"{mean} ± {format(half_interval(values), form.replace('+', ''))}"


@dataclass
class Found:
    """Results of all arms.

    :param curves: by arm, a tuple (evaluations, promised gains, AUCs) per number of evaluations
    :param finals: by row, the selections to retrain, one per seed
    """

    curves: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = field(default_factory=dict)
    finals: dict[str, list[np.ndarray]] = field(default_factory=dict)


def select_all(
    args: argparse.Namespace, bank: FeatureBank, evaluator: Evaluator, root: Path
) -> Found:
    """Let every arm select, and print what it is promised and what it found."""
    truth = bank.candidates.flaw == 0
    nothing = np.zeros_like(truth)
    reference = evaluator.evaluate(np.stack([nothing, truth]), 0).log_likelihood
    gain = reference[1] - reference[0]
    print(f"\noracle: {truth.sum():,} sound candidates, promised {gain:+.4f}")
    print(f"\nmean ± 95 % interval over {args.seeds} seeds")
    header = ("arm", "evaluations", "promised", "AUC", "selected", "sound", "seconds")
    print(markdown_table(header))

    found, most = Found(), max(args.evaluations)
    for name in args.arms:
        for evaluations in [most] if name in UNSEARCHED else args.evaluations:
            # select, once per seed
            runs = [selected(bank, name, evaluations, seed, root) for seed in range(args.seeds)]
            masks, seconds = np.stack([s.mask for s, _ in runs]), np.array([s for _, s in runs])

            # compare with the evaluator's promise and with the truth
            promised = evaluator.evaluate(masks, 0).log_likelihood - reference[0]
            auc = np.array([roc_auc_score(truth, s.scores) for s, _ in runs])
            sound = np.array([truth[m].mean() if m.any() else 0.0 for m in masks])

            found.curves.setdefault(name, []).append((evaluations, promised, auc))
            if evaluations == most or name == "CreditPPO":  # with credit, few should do
                found.finals[f"{name}, {evaluations:,}"] = list(masks[: args.retrained])
            cells = [name, f"{evaluations:,}", interval(promised, "+.4f"), interval(auc)]
            cells += [f"{masks.sum(1).mean():,.0f}", f"{sound.mean():.0%}"]
            print(markdown_row([*cells, interval(seconds, ".1f")]), flush=True)
    return found


def retrain_all(args: argparse.Namespace, bank: FeatureBank, found: Found) -> None:
    """Retrain none, the oracle, all and the arms' selections, and print their gains."""
    truth, n = bank.candidates.flaw == 0, args.retrained
    config = default_config(args.classifier, len(bank.train))
    config = config.for_images(*bank.train.image_size)
    controls = {"none": np.zeros_like(truth), "oracle": truth, "all": np.ones_like(truth)}
    kept = {name: [mask] * n for name, mask in controls.items()} | found.finals

    # retrain, with the seed of the arm
    with ParallelEvaluator(RetrainEvaluator(bank, config=config), args.workers) as parallel:
        cached = CachedEvaluator(parallel, RETRAINED)
        per_seed = [
            score_on(cached, np.stack([m[s] for m in kept.values()]), s, bank.valid, bank.test)
            for s in range(n)
        ]
    valid, test = (
        {m: np.stack([getattr(parts[i], m) for parts in per_seed]) for m in METRICS} for i in (0, 1)
    )  # (seeds, arms)
    gain, seen = ({m: part[m] - part[m][:, :1] for m in part} for part in (test, valid))

    # print the table
    steps = config.epochs * (config.steps_per_epoch or 0)
    print(
        f"\nretrained ({config.architecture}, {config.size[0]} px, {steps} steps of "
        f"{config.batch_size})\nmean ± 95 % interval over {n} seeds; gains over none on the test "
        "split, shares of the oracle's in brackets; gaps: validation − test"
    )
    gains = ("gain in points", "gain in AUC, points", "gain in log-likelihood")
    ends = ("the same on validation", "gap in accuracy, points")
    print(markdown_table(["arm", "test accuracy", *gains, *ends]))
    for i, name in enumerate(kept):
        cells = [name, interval(test["accuracy"][:, i], ".4f")]
        for m, (form, scale) in METRICS.items():
            share = gain[m][:, i].mean() / gain[m][:, 1].mean()
            cells.append(f"{interval(scale * gain[m][:, i], form)} ({share:.0%})")
        gap = 100 * (valid["accuracy"] - test["accuracy"])[:, i]
        cells += [interval(seen["log_likelihood"][:, i], "+.3f"), interval(gap, "+.1f")]
        print(markdown_row(cells), flush=True)
    if args.against:
        print_differences(args.against, max(args.evaluations), list(kept), test)


def print_differences(
    against: str, evaluations: int, names: list[str], test: dict[str, np.ndarray]
) -> None:
    """Print one arm's test metrics minus those of every other row, seed by seed."""
    i = names.index(f"{against}, {evaluations:,}")
    print(f"\n{against} minus another arm, on the test split, seed by seed")
    print(markdown_table(["arm", "accuracy, points", "AUC, points", "log-likelihood"]))
    for j, name in enumerate(names):
        if j != i:
            pairs = [(test[m][:, i] - test[m][:, j], *METRICS[m]) for m in METRICS]
            cells = [interval(scale * values, form) for values, form, scale in pairs]
            print(markdown_row([name, *cells]), flush=True)


def draw_curves(found: Found, evaluations: list[int], path: Path) -> None:
    """Draw promised gain and AUC against evaluations, with 95 % intervals."""
    from matplotlib import colormaps

    figure, both = panels(2, 5.25, 4.2)
    titles = (
        "promised gain in log-likelihood",
        "area under the curve of score against truth",
    )
    for axes, title, chance, column in zip(both, titles, (0.0, 0.5), (1, 2)):
        for i, (name, points) in enumerate(found.curves.items()):
            # without a search: one level
            if len(points) == 1:
                style = {"color": "black", "linestyle": ":" if i else "-.", "linewidth": 1}
                axes.axhline(points[0][column].mean(), label=name, **style)
                continue
            # beside each other, so that all bars are seen
            x = np.array([p[0] for p in points]) * (1 + 0.012 * (i - len(found.curves) / 2))
            y = np.array([p[column].mean() for p in points])
            spread = np.array([half_interval(p[column]) for p in points])
            line, marker = ("-", "o") if name in AGENTS else ("--", "s")
            style = {"color": colormaps["tab20"](i % 20), "linestyle": line, "marker": marker}
            axes.errorbar(x, y, spread, label=name, capsize=2, markersize=4, **style)
        axes.axhline(chance, color="#999999", linewidth=0.8)
        axes.set(xscale="log", xlabel="evaluations", title=title)
        axes.title.set_fontsize(10)
        axes.minorticks_off()
        axes.set_xticks(evaluations, [f"{n:,}" for n in evaluations])
    both[1].legend(frameon=False, fontsize=8, bbox_to_anchor=(1, 1), loc="upper left")
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank", default="pcam-planted", help="a bank of known truth")
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--retrained", type=int, default=3, help="seeds that are retrained")
    parser.add_argument(
        "--classifier",
        choices=("small_cnn", "resnet34"),
        default="small_cnn",
        help="network that is retrained",
    )
    parser.add_argument(
        "--against", metavar="ARM", help="print its differences to the others, seed by seed"
    )
    parser.add_argument("--figure", type=Path, help="where to write the learning curves")
    add_worker_arguments(parser)
    args = parser.parse_args()
    args.retrained = min(args.retrained, args.seeds)
    if args.against and args.against not in args.arms:
        known = ", ".join(args.arms)
        parser.error(f"--against: {args.against} is none of the arms that are run, {known}")

    bank = resolve_bank(args.bank)
    evaluator = make_evaluator(None, bank)
    root = Path("runs") / f"learning-{digest(bank)}"
    root.mkdir(parents=True, exist_ok=True)
    print(f"{describe_machine()}; {args.workers} processes\n{bank.describe()}")
    print(f"evaluator {type(evaluator).__name__}, {args.seeds} seeds", flush=True)
    found = select_all(args, bank, evaluator, root)
    if args.retrained:
        retrain_all(args, bank, found)
    if args.figure:
        draw_curves(found, args.evaluations, args.figure)
