"""Does a cheap reward mean what a full retraining would say?  On random selections, and on those that an optimiser finds.

    python benchmarks/probe_fidelity.py --bank pcam-planted
    python benchmarks/probe_fidelity.py --bank pcam

Every selection is retrained in full (ResNet18, shorter side at 32 pixels, 400 steps of 32). "promised" is what the reward says of a
selection on the validation split, "real" what retraining says, both as the gain over no candidates; "kept" asks for half of a promised
gain, in the mean, whatever its spread. The datamodel is the embedded one: it is fitted to the bank's own retrainings, which are of other selections.
Finished work is kept in runs/; a rerun takes minutes.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from learning import CREDIT_SETTINGS, PPO_SETTINGS
from machine import add_worker_arguments, describe_machine, digest
from scipy.stats import kendalltau, spearmanr
from stable_baselines3 import PPO

from agents import CreditPPO
from agents.report import save_figure
from agents.report.plotting import KEPT, panels
from agents.selectors import SELECTORS, CreditSelector, RandomSearchSelector, TrainingSelector
from synthselect_env import FeatureBank, Dataset
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.bank.extraction import extract_bank, train_extractor
from synthselect_env.data.flaws import FLAWS
from synthselect_env.evaluators import (
    CachedEvaluator,
    DatamodelEvaluator,
    Evaluations,
    Evaluator,
    LinearProbeEvaluator,
    ParallelEvaluator,
    RetrainEvaluator,
    with_retrainings,
)
from synthselect_env.evaluators.candidate_scores import draw_design
from synthselect_env.metrics import METRICS, more_is_better
from synthselect_env.storage import atomic_write
from synthselect_env.training.classifier import QUICK, TrainingConfig

RIDGES, DIMENSIONS = (0.01, 0.1, 1.0, 10.0, 100.0), (8, 16, 32, 64, 128)
FOLDS = 4
CLIMBED: dict[str, list[tuple[float, int, bool]]] = {
    "the bank's": [(0.1, 32, False), (1, 32, False), (10, 32, False), (100, 128, False)],
    "four folds": [(1, 32, False), (10, 32, False), (10, 32, True), (30, 64, False)],
}
"""Probes whose credit is climbed, by view: ridge, components, and whether the least of several probes is taken in the place of their mean."""
COLUMNS = ("features", "components", "ridge", "metric", "spearman", "kendall")
DESIGN_SEED = 1
"""Of the random selections on a bank without known truth; the bank's own retrainings were drawn with 0."""

Views = dict[str, list[FeatureBank]]
"""By what the features are of: one bank, or several whose probes are averaged."""


VIEWS = ("the bank's", "ResNet18", "four folds")


def views(bank: FeatureBank, config: TrainingConfig, root: Path, names: Sequence[str]) -> Views:
    """The bank through its own extractor and through smaller ones, trained on all real patches or without those that they then see.

    "four folds" are four banks: each has a network, and as its real training split the part that this network has not seen.
    """

    def seen(name: str, make: Callable[[], FeatureBank]) -> FeatureBank:
        file = root / f"view-{name}.h5"
        if not file.exists():
            make().save(file)
        return FeatureBank.load(file)

    pictures, fold = bank.pictures, np.random.default_rng(0).permutation(len(bank.train)) % FOLDS
    train = pictures["train"]

    def whole() -> FeatureBank:
        return extract_bank(pictures, train_extractor(train, pictures["valid"], 0, config))

    def of_fold(i: int) -> FeatureBank:
        network = train_extractor(train.subset(fold != i), pictures["valid"], 0, config)
        return extract_bank({**pictures, "train": train.subset(fold == i)}, network)

    makers: dict[str, Callable[[], list[FeatureBank]]] = {
        "the bank's": lambda: [bank],
        "ResNet18": lambda: [seen("whole", whole)],
        "four folds": lambda: [seen(f"fold{i}", partial(of_fold, i)) for i in range(FOLDS)],
    }
    return {name: make() for name, make in makers.items() if name in names}


def random_selections(bank: FeatureBank, k: int) -> np.ndarray:
    """Selections of all sizes and qualities: each flaw is kept or discarded with odds of its own, where flaws are known."""
    flaw = bank.candidates.flaw
    if flaw is None:
        return draw_design(bank, k + 2, DESIGN_SEED)[
            2:
        ]  # it begins with none and all, as the bank's own retrainings do
    rng, masks = np.random.default_rng(0), []
    for _ in range(k):
        rate, bonus = rng.uniform(-2.5, 2), rng.uniform(-1.5, 2.5)
        log_odds = (
            rate
            + bonus * (flaw == 0)
            + rng.normal(0, 1) * (flaw == 1)
            + rng.normal(0, 1) * (flaw > 1)
        )
        masks.append(rng.random(len(flaw)) < 1 / (1 + np.exp(-log_odds)))
    return np.stack(masks)


def correlation(
    ours: np.ndarray, truth: np.ndarray, measure: Callable = spearmanr
) -> tuple[float, float, float]:
    """Rank correlation with the 95 % interval of 1,000 bootstrap samples of the selections."""
    rng, n = np.random.default_rng(0), len(truth)
    samples = [measure(ours[i], truth[i])[0] for i in rng.integers(0, n, (1000, n))]
    return measure(ours, truth)[0], *np.nanquantile(samples, [0.025, 0.975])


class Agreement(Evaluator):
    """What several evaluators of the same candidates say together: what an optimiser climbs.

    :param name: in the table
    :param evaluators: on as many views of the images
    :param least: take the evaluator with the least log-likelihood in the place of the mean of all
    """

    has_credit = True
    can_score_any_split = False

    def __init__(self, name: str, evaluators: list[Evaluator], least: bool = False) -> None:
        super().__init__(evaluators[0].bank)
        self.name, self.evaluators, self.least = name, evaluators, least

    def evaluate_on(self, selections: np.ndarray, seed: int, *splits: Dataset) -> list[Evaluations]:
        if not all(self.is_valid(split) for split in splits):
            raise ValueError("several banks have no common split but their own validation pictures")
        each = [e.evaluate(selections, seed) for e in self.evaluators]
        figures = {m: np.stack([getattr(e, m) for e in each]) for m in METRICS}  # (evaluators, k)
        worst = figures["log_likelihood"].argmin(0), np.arange(len(selections))
        together = {m: (v[worst] if self.least else v.mean(0))[:, None] for m, v in figures.items()}
        return [Evaluations.from_epochs(together) for _ in splits]

    def credit(self, selections: np.ndarray, seed: int, split: Dataset | None = None) -> np.ndarray:
        credits = np.stack(
            [e.credit(selections, seed) for e in self.evaluators]
        )  # (evaluators, k, n)
        if not self.least:
            return credits.mean(0)
        figures = np.stack([e.evaluate(selections, seed).log_likelihood for e in self.evaluators])
        return credits[figures.argmin(0), np.arange(len(selections))]

    def promised(self, mask: np.ndarray) -> float:
        """The gain in log-likelihood over no candidates."""
        none, selected = self.evaluate(np.stack([np.zeros_like(mask), mask]), 0).log_likelihood
        return float(selected - none)


def learn(
    algorithm: type[PPO] | type[CreditPPO], evaluator: Evaluator, bank: FeatureBank
) -> np.ndarray:
    """What a transformer policy keeps that was trained with the settings of examples/train_ppo.py, by 1,024 evaluations."""
    settings = PPO_SETTINGS if algorithm is PPO else CREDIT_SETTINGS
    return TrainingSelector(algorithm, evaluator=evaluator, **settings).select(bank, 0).mask


def random_half(
    seen: Views,
    masks: np.ndarray,
    test: Evaluations,
    valid: Evaluations,
    datamodel: DatamodelEvaluator,
    root: Path,
    figure: Path | None,
) -> None:
    """Print rank correlations between each proxy's validation figures and the retrainings' test log-likelihood."""
    truth = test.log_likelihood
    table: list[dict[str, object]] = []
    for view in seen:
        rows: list[dict[str, object]] = []
        for d in DIMENSIONS:
            for ridge in RIDGES:
                probes = [
                    LinearProbeEvaluator(b, n_components=d, ridge=ridge).evaluate(masks, 0)
                    for b in seen[view]
                ]
                for metric in METRICS:
                    values = more_is_better(
                        metric, np.mean([getattr(p, metric) for p in probes], 0)
                    )
                    agree = [
                        m(values, truth)[0] if np.ptp(values) else np.nan
                        for m in (spearmanr, kendalltau)
                    ]
                    rows.append(dict(zip(COLUMNS, (view, d, ridge, metric, *agree))))
        table += rows
        print(
            f"\nSpearman, features of {view}, validation log-likelihood against retrained test log-likelihood"
        )
        print(
            "| components | "
            + " | ".join(f"ridge {r:g}" for r in RIDGES)
            + " |\n|---"
            + "|---" * len(RIDGES)
            + "|"
        )
        for d in DIMENSIONS:
            cells = [
                r["spearman"]
                for r in rows
                if r["components"] == d and r["metric"] == "log_likelihood"
            ]
            print(f"| {d} | " + " | ".join(f"{c:.2f}" for c in cells) + " |")
        best = [
            max(
                (r for r in rows if r["metric"] == m),
                key=lambda r: np.nan_to_num(r["spearman"], nan=-1.0),
            )
            for m in METRICS
        ]
        print(
            "best of each metric: "
            + "; ".join(
                f"{r['metric']} {r['spearman']:.2f} ({r['components']}, {r['ridge']:g})"
                for r in best
            )
        )
    with atomic_write(root / "random.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)

    proxies = {
        "linear probe (its defaults)": LinearProbeEvaluator(datamodel.bank).evaluate(masks, 0),
        "datamodel (its defaults)": datamodel.evaluate(masks, 0),
        "the retrainings' own validation": valid,
    }
    print(
        f"\nSpearman and Kendall [95 % bootstrap interval] with the retrained test log-likelihood, n = {len(masks)}"
    )
    print("| validation log-likelihood by | Spearman | Kendall |\n|---|---|---|")
    for name, evaluations in proxies.items():
        cells = [
            f"{v:.3f} [{low:.3f}, {high:.3f}]"
            for v, low, high in (
                correlation(evaluations.log_likelihood, truth, m) for m in (spearmanr, kendalltau)
            )
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    if figure:
        picture, axes = panels(len(proxies), 3.6, 3.6, columns=3)
        for panel, (name, evaluations) in zip(axes, proxies.items()):
            values = evaluations.log_likelihood
            panel.plot(values, truth, "o", ms=4, alpha=0.7, color=KEPT)
            panel.set_title(f"{name}\nSpearman {spearmanr(values, truth)[0]:.2f}", fontsize=9)
            panel.set(xlabel="validation log-likelihood", ylabel="retrained, test log-likelihood")
            panel.locator_params(axis="x", nbins=4)
        save_figure(picture, figure)


def optimised_half(
    bank: FeatureBank,
    seen: Views,
    datamodel: DatamodelEvaluator,
    retrain: CachedEvaluator,
    seeds: int,
    corrections: int,
) -> None:
    """Print what each proxy promises of the selection that climbs it, and what retraining says of it."""
    n, flaw = len(bank.candidates), bank.candidates.flaw
    found: list[tuple[str, np.ndarray, float | None]] = [
        ("none", np.zeros(n, bool), None),
        ("all", np.ones(n, bool), None),
    ]
    found += [
        (name, SELECTORS[name]().select(bank, 0).mask, None)
        for name in ("random", "centroid", "fit and looks")
    ]
    if flaw is not None:
        found += [("every sound candidate and no other", flaw == 0, None)]

    def take(name: str, proxy: Agreement, mask: np.ndarray) -> None:
        found.append((f"{name}: {proxy.name}", mask, proxy.promised(mask)))

    def climb(proxy: Agreement) -> np.ndarray:
        return CreditSelector(proxy, evaluations=600).select(bank, 0).mask

    def search(proxy: Agreement) -> np.ndarray:
        return RandomSearchSelector(proxy, evaluations=4096).select(bank, 0).mask

    def probes(view: str, ridge: float, components: int, least: bool = False) -> Agreement:
        several = "least of " if least else "mean of " if len(seen[view]) > 1 else ""
        name = f"probe, {several}{view}, ridge {ridge:g}, {components} components"
        return Agreement(
            name,
            [LinearProbeEvaluator(b, n_components=components, ridge=ridge) for b in seen[view]],
            least,
        )

    for view, settings in CLIMBED.items():
        for proxy in (probes(view, *setting) for setting in settings if view in seen):
            take("climbed", proxy, climb(proxy))
    weak = probes("the bank's", 1, 32)
    take("best of 4,096", weak, search(weak))
    for algorithm in (PPO, CreditPPO):
        take(algorithm.__name__, weak, learn(algorithm, weak.evaluators[0], bank))
    for i in range(
        corrections + 1
    ):  # two time scales: learn on the proxy, correct it by retraining what was found
        proxy = Agreement("datamodel" + (f", corrected {i}×" if i else ""), [datamodel])
        fresh = {"climbed": climb(proxy), "CreditPPO": learn(CreditPPO, datamodel, datamodel.bank)}
        if not i:
            take("best of 4,096", proxy, search(proxy))
            take("PPO", proxy, learn(PPO, datamodel, datamodel.bank))
        for name, mask in fresh.items():
            take(name, proxy, mask)
        if i < corrections:
            datamodel = DatamodelEvaluator(
                with_retrainings(datamodel.bank, retrain, np.stack(list(fresh.values())))
            )

    masks = np.stack([mask for _, mask, _ in found])
    results = [retrain.evaluate_on(masks, seed, bank.valid, bank.test) for seed in range(seeds)]
    print(f"\n{retrain}")
    print(
        f"\nGains over no candidates; real: retrained, mean ± standard error over {seeds} seeds of the differences"
    )
    known = " | sound | right label" if flaw is not None else ""
    print(
        f"| selection | selected{known} | promised log-likelihood | real, validation | real, test | kept | real test accuracy, points | "
        "validation − test accuracy |"
    )
    print("|---|---" + "|---|---" * (flaw is not None) + "|---|---|---|---|---|---|")

    def gain(split: int, metric: str, i: int) -> np.ndarray:  # (seeds,)
        return np.array(
            [
                getattr(result[split], metric)[i] - getattr(result[split], metric)[0]
                for result in results
            ]
        )

    def cell(values: np.ndarray, form: str) -> str:
        return f"{values.mean():+{form}} ± {values.std(ddof=1) / len(values) ** 0.5:{form}}"

    for i, (name, mask, promised) in enumerate(found):
        real = gain(1, "log_likelihood", i)
        kept = (
            ""
            if promised is None or promised <= 0
            else "yes"
            if real.mean() >= promised / 2
            else "no"
        )
        cells = [
            name,
            composition(mask, flaw),
            "" if promised is None else f"{promised:+.4f}",
            cell(gain(0, "log_likelihood", i), ".4f"),
            cell(real, ".4f"),
            kept,
            cell(100 * gain(1, "accuracy", i), ".1f"),
            f"{100 * np.mean([v.accuracy[i] - t.accuracy[i] for v, t in results]):+.1f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def composition(mask: np.ndarray, flaw: np.ndarray | None) -> str:
    """Columns: candidates selected, and where the truth is known the shares of sound and of rightly labelled ones."""
    if flaw is None:
        return f"{mask.sum():,}"
    shares = [
        f"{share[mask].mean():.0%}" if mask.any() else ""
        for share in (flaw == 0, flaw != FLAWS.index("wrong label"))
    ]
    return f"{mask.sum():,} | {' | '.join(shares)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bank", default="pcam-planted", help="a bank with pictures and retrainings"
    )
    parser.add_argument(
        "--random", type=int, default=48, help="random selections to judge proxies by"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="retrainings of each optimised selection, 2 or more"
    )
    parser.add_argument(
        "--views",
        nargs="+",
        default=VIEWS,
        choices=VIEWS,
        help="features that probes are tried on; the bank's must be among them",
    )
    parser.add_argument(
        "--corrections",
        type=int,
        default=2,
        help="how often the datamodel is corrected by retraining what was found on it",
    )
    parser.add_argument("--figure", type=Path, help="where to write the scatter plot")
    add_worker_arguments(parser)
    args = parser.parse_args()
    if VIEWS[0] not in args.views:
        parser.error(
            f"--views: {VIEWS[0]!r} must be among them, the probes of other views are compared with it"
        )
    bank = resolve_bank(args.bank)
    root = Path("runs") / f"probe_fidelity-{digest(bank)}"
    root.mkdir(parents=True, exist_ok=True)
    print(f"{describe_machine()}; {args.workers} processes\n{bank.describe()}", flush=True)
    config = QUICK.for_images(*bank.train.image_size)
    datamodel, masks, seen = (
        DatamodelEvaluator(bank),
        random_selections(bank, args.random),
        views(bank, config, root, args.views),
    )
    left_out = spearmanr(datamodel.leave_one_out(), datamodel.figures.log_likelihood)[0]
    print(
        f"datamodel: {len(datamodel.selections)} retrainings, Spearman with their validation when left out {left_out:.3f}",
        flush=True,
    )
    with ParallelEvaluator(RetrainEvaluator(bank, config=config), args.workers) as parallel:
        retrain = CachedEvaluator(parallel, "runs/retrained")
        valid, test = retrain.evaluate_on(masks, 0, bank.valid, bank.test)
        random_half(seen, masks, test, valid, datamodel, root, args.figure)
        optimised_half(bank, seen, datamodel, retrain, args.seeds, args.corrections)
