"""Measure whether a cheap reward means what a full retraining says.

    python benchmarks/probe_fidelity.py --bank pcam-planted
    python benchmarks/probe_fidelity.py --bank pcam
    python benchmarks/probe_fidelity.py --bank pcam-planted --parts ranking

Time on two cores: one to two hours, or about a quarter of an hour for the ranking. A rerun takes
minutes, as finished work is kept in runs/.

* random: rank correlation of each proxy with the retrained test log-likelihood, over random
  selections
* optimised: gains that a proxy promises to selections that an optimiser found on it, and the gains
  that retraining finds
* ranking: on a bank of known truth, how well scores tell sound candidates from others, and the gain
  of the better half of each class

Every selection is retrained in full by the small network.
"promised" is the proxy's gain over no candidates on the validation split, "real" is retraining's.
A promise is "kept" if the mean real gain on the test split is at least half of it. The datamodel is
the embedded one. It is fitted to the bank's own retrainings, which are of other selections.

Results: fidelity.md, fidelity_probe_settings.md and ranking.md in benchmarks/results/
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
from learning import CREDIT_SETTINGS, PPO_SETTINGS
from machine import (
    add_worker_arguments,
    describe_machine,
    digest,
    markdown_row,
    markdown_table,
    score_on,
)
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import roc_auc_score
from stable_baselines3 import PPO

from agents import CreditPPO
from agents.report import save_figure
from agents.report.plotting import KEPT, panels
from agents.runs import RETRAINED
from agents.selectors import SELECTORS, CreditSelector, RandomSearchSelector, TrainingSelector
from agents.selectors.base import best_of_each_class
from synthselect_env import FeatureBank
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
    candidate_scores,
    draw_design,
    with_retrainings,
)
from synthselect_env.metrics import METRICS, more_is_better
from synthselect_env.storage import atomic_write
from synthselect_env.training.classifier import Classifier
from synthselect_env.training.config import SMALL, TrainingConfig, default_config

RIDGES, DIMENSIONS = (0.01, 0.1, 1.0, 10.0, 100.0), (8, 16, 32, 64, 128)
FOLDS = 4
CLIMBED: dict[str, list[tuple[float, int, bool]]] = {
    "the bank's": [(0.1, 32, False), (1, 32, False), (10, 32, False), (100, 128, False)],
    "four folds": [(1, 32, False), (10, 32, False), (10, 32, True), (30, 64, False)],
}
"""Probes whose credit is climbed, by view.

Each is (ridge, components, whether the least of several probes is taken instead of their mean).
"""
COLUMNS = ("features", "components", "ridge", "metric", "spearman", "kendall")
DESIGN_SEED = 1
"""Random seed of the selections on a bank without known truth; its own retrainings have 0."""

Views = dict[str, list[FeatureBank]]
"""One bank, or several whose probes are averaged, by the network that made the features."""


PARTS = ("random", "optimised", "ranking")
VIEWS = ("the bank's", "small network", "four folds")


def views(bank: FeatureBank, config: TrainingConfig, root: Path, names: Sequence[str]) -> Views:
    """Return the bank with features of its own extractor, and of smaller ones.

    "four folds" are four banks. Each has a network of its own, and its real training split is the
    part that this network has not seen.
    """

    def seen(name: str, make: Callable[[], FeatureBank]) -> FeatureBank:
        file = root / f"view-{name}.h5"
        if not file.exists():
            make().save(file)
        return FeatureBank.load(file)

    splits, fold = bank.splits, np.random.default_rng(0).permutation(len(bank.train)) % FOLDS
    train = splits["train"]

    @cache
    def whole() -> Classifier:
        return train_extractor(train, splits["valid"], 0, config)

    def of_fold(i: int) -> FeatureBank:
        network = train_extractor(train.subset(fold != i), splits["valid"], 0, config)
        return extract_bank({**splits, "train": train.subset(fold == i)}, network)

    makers: dict[str, Callable[[], list[FeatureBank]]] = {
        "the bank's": lambda: [bank],
        "small network": lambda: [seen("whole", lambda: extract_bank(splits, whole()))],
        "four folds": lambda: [seen(f"fold{i}", partial(of_fold, i)) for i in range(FOLDS)],
    }
    return {name: make() for name, make in makers.items() if name in names}


def random_selections(bank: FeatureBank, k: int) -> np.ndarray:
    """Draw selections of all sizes.

    Where flaws are known, each is kept with odds of its own.
    """
    flaw = bank.candidates.flaw
    if flaw is None:
        # a design begins with none and all, as the bank's own retrainings do
        return draw_design(bank, k + 2, DESIGN_SEED)[2:]
    rng, masks = np.random.default_rng(0), []
    for _ in range(k):
        rate, bonus = rng.uniform(-2.5, 2), rng.uniform(-1.5, 2.5)
        log_odds = rate + bonus * (flaw == 0)
        log_odds = log_odds + rng.normal(0, 1) * (flaw == 1) + rng.normal(0, 1) * (flaw > 1)
        masks.append(rng.random(len(flaw)) < 1 / (1 + np.exp(-log_odds)))
    return np.stack(masks)


def correlation(
    ours: np.ndarray, truth: np.ndarray, measure: Callable = spearmanr
) -> tuple[float, float, float]:
    """Return the rank correlation and its 95 % bootstrap interval over the selections."""
    rng, n = np.random.default_rng(0), len(truth)
    samples = [measure(ours[i], truth[i])[0] for i in rng.integers(0, n, (1000, n))]
    return measure(ours, truth)[0], *np.nanquantile(samples, [0.025, 0.975])


class Agreement(Evaluator):
    """Combine several evaluators of the same candidates into one that can be climbed.

    :param name: name in the table
    :param evaluators: evaluators, one per view of the images
    :param least: whether to take the evaluator with the least log-likelihood, not the mean of all
    """

    def __init__(self, name: str, evaluators: list[Evaluator], least: bool = False) -> None:
        super().__init__(evaluators[0].bank)
        self.name, self.evaluators, self.least = name, evaluators, least

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        each = [e.evaluate(selections, seed) for e in self.evaluators]
        values = {m: np.stack([getattr(e, m) for e in each]) for m in METRICS}  # (evaluators, k)
        worst = values["log_likelihood"].argmin(0), np.arange(len(selections))
        together = {m: v[worst] if self.least else v.mean(0) for m, v in values.items()}
        return Evaluations.from_metrics(together)

    def credit(self, selections: np.ndarray, seed: int) -> np.ndarray:
        # (evaluators, k, n)
        credits = np.stack([e.credit(selections, seed) for e in self.evaluators])
        if not self.least:
            return credits.mean(0)
        values = np.stack([e.evaluate(selections, seed).log_likelihood for e in self.evaluators])
        return credits[values.argmin(0), np.arange(len(selections))]

    def promised(self, mask: np.ndarray) -> float:
        """Return the gain in log-likelihood over no candidates."""
        none, selected = self.evaluate(np.stack([np.zeros_like(mask), mask]), 0).log_likelihood
        return float(selected - none)


def learn(
    algorithm: type[PPO] | type[CreditPPO], evaluator: Evaluator, bank: FeatureBank
) -> np.ndarray:
    """Return the selection of a transformer policy that was trained on an evaluator.

    Settings are those of learning.py, with 1,024 evaluations.
    """
    settings = PPO_SETTINGS if algorithm is PPO else CREDIT_SETTINGS
    selector = TrainingSelector(algorithm, evaluator=evaluator, warm_start=False, **settings)
    return selector.select(bank, 0).mask


def print_probe_correlations(seen: Views, masks: np.ndarray, truth: np.ndarray, file: Path) -> None:
    """Print rank correlations of probes by setting, and write all to a CSV."""
    table: list[dict[str, object]] = []
    for view in seen:
        # correlate each metric of each probe with the retrained log-likelihood
        rows: list[dict[str, object]] = []
        for d in DIMENSIONS:
            for ridge in RIDGES:
                options = {"n_components": d, "ridge": ridge}
                several = [LinearProbeEvaluator(b, **options) for b in seen[view]]
                probes = [probe.evaluate(masks, 0) for probe in several]
                for metric in METRICS:
                    values = more_is_better(
                        metric, np.mean([getattr(p, metric) for p in probes], 0)
                    )
                    varied = bool(np.ptp(values))
                    measures = (spearmanr, kendalltau)
                    agree = [m(values, truth)[0] if varied else np.nan for m in measures]
                    rows.append(dict(zip(COLUMNS, (view, d, ridge, metric, *agree))))
        table += rows

        # log-likelihood by components and ridge, then the best of each metric
        print(
            f"\nSpearman, features of {view}, validation log-likelihood against "
            "retrained test log-likelihood"
        )
        print(markdown_table(["components", *(f"ridge {r:g}" for r in RIDGES)]))
        likelihoods = [r for r in rows if r["metric"] == "log_likelihood"]
        for d in DIMENSIONS:
            cells = [f"{r['spearman']:.2f}" for r in likelihoods if r["components"] == d]
            print(markdown_row([str(d), *cells]))
        best = []
        for metric in METRICS:
            of_metric = [r for r in rows if r["metric"] == metric]
            top = max(of_metric, key=lambda r: np.nan_to_num(r["spearman"], nan=-1.0))
            best.append(f"{metric} {top['spearman']:.2f} ({top['components']}, {top['ridge']:g})")
        print("best of each metric: " + "; ".join(best))
    with atomic_write(file) as path, path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(table)


def random_part(
    bank: FeatureBank,
    retrain: CachedEvaluator,
    seen: Views,
    n: int,
    root: Path,
    figure: Path | None,
) -> None:
    """Print rank correlations of each proxy with the retrained test log-likelihood."""
    masks = random_selections(bank, n)
    valid, test = score_on(retrain, masks, 0, bank.valid, bank.test)
    truth = test.log_likelihood
    print_probe_correlations(seen, masks, truth, root / "random.csv")

    # the three proxies at their defaults
    proxies = {
        "linear probe (its defaults)": LinearProbeEvaluator(bank).evaluate(masks, 0),
        "datamodel (its defaults)": DatamodelEvaluator(bank).evaluate(masks, 0),
        "the retrainings' own validation": valid,
    }
    print(
        "\nSpearman and Kendall [95 % bootstrap interval] with the retrained test log-likelihood, "
        f"n = {len(masks)}"
    )
    print(markdown_table(["validation log-likelihood by", "Spearman", "Kendall"]))
    for name, evaluations in proxies.items():
        cells = []
        for measure in (spearmanr, kendalltau):
            v, low, high = correlation(evaluations.log_likelihood, truth, measure)
            cells.append(f"{v:.3f} [{low:.3f}, {high:.3f}]")
        print(markdown_row([name, *cells]), flush=True)
    if figure:
        draw_scatter(proxies, truth, figure)


def draw_scatter(proxies: dict[str, Evaluations], truth: np.ndarray, path: Path) -> None:
    """Draw each proxy's log-likelihood against the retrained one."""
    figure, axes = panels(len(proxies), 3.6, 3.6, columns=3)
    for panel, (name, evaluations) in zip(axes, proxies.items()):
        values = evaluations.log_likelihood
        panel.plot(values, truth, "o", ms=4, alpha=0.7, color=KEPT)
        panel.set_title(f"{name}\nSpearman {spearmanr(values, truth)[0]:.2f}", fontsize=9)
        panel.set(xlabel="validation log-likelihood", ylabel="retrained, test log-likelihood")
        panel.locator_params(axis="x", nbins=4)
    save_figure(figure, path)


Selected = tuple[str, np.ndarray, "float | None"]
"""Row name, selection, and promised gain if anything promised one."""


def find_optimised(
    bank: FeatureBank, seen: Views, retrain: CachedEvaluator, corrections: int
) -> list[Selected]:
    """Return the controls, and what each optimiser finds on each proxy."""
    n, flaw = len(bank.candidates), bank.candidates.flaw
    found: list[Selected] = [("none", np.zeros(n, bool), None), ("all", np.ones(n, bool), None)]
    for name in ("random", "centroid", "label fit + realism"):
        found.append((name, SELECTORS[name]().select(bank, 0).mask, None))
    if flaw is not None:
        found.append(("every sound candidate and no other", flaw == 0, None))

    def take(name: str, proxy: Agreement, mask: np.ndarray) -> None:
        found.append((f"{name}: {proxy.name}", mask, proxy.promised(mask)))

    def climb(proxy: Agreement) -> np.ndarray:
        return CreditSelector(proxy, evaluations=600).select(bank, 0).mask

    def search(proxy: Agreement) -> np.ndarray:
        return RandomSearchSelector(proxy, evaluations=4096).select(bank, 0).mask

    def probes(view: str, ridge: float, components: int, least: bool = False) -> Agreement:
        several = "least of " if least else "mean of " if len(seen[view]) > 1 else ""
        name = f"probe, {several}{view}, ridge {ridge:g}, {components} components"
        options = {"n_components": components, "ridge": ridge}
        return Agreement(name, [LinearProbeEvaluator(b, **options) for b in seen[view]], least)

    # linear probes
    for view, settings in CLIMBED.items():
        for proxy in (probes(view, *setting) for setting in settings if view in seen):
            take("climbed", proxy, climb(proxy))
    weak = probes("the bank's", 1, 32)
    take("best of 4,096", weak, search(weak))
    for algorithm in (PPO, CreditPPO):
        take(algorithm.__name__, weak, learn(algorithm, weak.evaluators[0], bank))

    # the datamodel, corrected by retraining what was found on it
    datamodel = DatamodelEvaluator(bank)
    for i in range(corrections + 1):
        proxy = Agreement("datamodel" + (f", corrected {i}×" if i else ""), [datamodel])
        fresh = {
            "climbed": climb(proxy),
            "CreditPPO": learn(CreditPPO, datamodel, datamodel.bank),
        }
        if not i:
            take("best of 4,096", proxy, search(proxy))
            take("PPO", proxy, learn(PPO, datamodel, datamodel.bank))
        for name, mask in fresh.items():
            take(name, proxy, mask)
        if i < corrections:
            new = with_retrainings(datamodel.bank, retrain, np.stack(list(fresh.values())))
            datamodel = DatamodelEvaluator(new)
    return found


def optimised_part(
    bank: FeatureBank, retrain: CachedEvaluator, seen: Views, seeds: int, corrections: int
) -> None:
    """Print what proxies promise of optimised selections, and what retraining says."""
    flaw, found = bank.candidates.flaw, find_optimised(bank, seen, retrain, corrections)
    masks = np.stack([mask for _, mask, _ in found])
    results = [score_on(retrain, masks, seed, bank.valid, bank.test) for seed in range(seeds)]
    print(
        f"\n{retrain}\n\nGains over no candidates; real: retrained, mean ± standard error over "
        f"{seeds} seeds of the differences"
    )
    known = ["sound", "right label"] if flaw is not None else []
    header = ["selection", "selected", *known, "promised log-likelihood", "real, validation"]
    more = ["real, test", "kept", "real test accuracy, points", "validation − test accuracy"]
    print(markdown_table([*header, *more]))

    def gain(split: int, metric: str, i: int) -> np.ndarray:  # (seeds,)
        values = np.stack([getattr(result[split], metric) for result in results])
        return values[:, i] - values[:, 0]

    def cell(values: np.ndarray, form: str) -> str:
        return f"{values.mean():+{form}} ± {values.std(ddof=1) / len(values) ** 0.5:{form}}"

    for i, (name, mask, promised) in enumerate(found):
        real = gain(1, "log_likelihood", i)
        kept = ""
        if promised is not None and promised > 0:
            kept = "yes" if real.mean() >= promised / 2 else "no"
        gap = np.mean([v.accuracy[i] - t.accuracy[i] for v, t in results])
        cells = [
            name,
            *composition(mask, flaw),
            "" if promised is None else f"{promised:+.4f}",
            cell(gain(0, "log_likelihood", i), ".4f"),
            cell(real, ".4f"),
            kept,
            cell(100 * gain(1, "accuracy", i), ".1f"),
            f"{100 * gap:+.1f}",
        ]
        print(markdown_row(cells), flush=True)


def composition(mask: np.ndarray, flaw: np.ndarray | None) -> list[str]:
    """Return the number selected and, where known, the shares sound and rightly labelled."""
    if flaw is None:
        return [f"{mask.sum():,}"]
    kinds = (flaw == 0, flaw != FLAWS.index("wrong label"))
    shares = [f"{share[mask].mean():.0%}" if mask.any() else "" for share in kinds]
    return [f"{mask.sum():,}", *shares]


def ranking_scores(bank: FeatureBank) -> dict[str, np.ndarray]:
    """Return the scores that order candidates, by name.  (n,) each"""
    known = candidate_scores(bank)
    realism = known.realism
    if bank.candidates.flaw is None or realism is None:
        raise ValueError(
            f"{bank.source} must know the truth and the image statistics; pcam-planted and "
            "cervical do"
        )
    fits = {"probe": known.probe_label_fit}
    if bank.retrainings is not None and bank.retrainings.own_log_probability is not None:
        fits["out of bag"] = known.label_fit
    scores = {"realism": realism}
    for name, fit in fits.items():
        for more, weight in (("", 0), (" + realism", 1), (" + realism / 2", 0.5)):
            scores[f"fit, {name}{more}"] = fit + weight * realism
    return scores


def ranking_part(
    bank: FeatureBank, retrain: CachedEvaluator, scores: dict[str, np.ndarray], seeds: int
) -> None:
    """Print how well scores tell sound candidates, and the gain of the better half."""
    flaw, labels = bank.candidates.flaw, bank.candidates.labels
    counts = np.bincount(labels) / 2
    halves = {name: best_of_each_class(score, labels, counts) for name, score in scores.items()}

    # retrain none, the oracle, and each better half
    masks = np.stack([np.zeros(len(flaw), bool), flaw == 0, *halves.values()])
    tests = [score_on(retrain, masks, seed, bank.valid, bank.test)[1] for seed in range(seeds)]
    values = {
        m: np.stack([getattr(t, m) for t in tests]) for m in ("accuracy", "log_likelihood")
    }  # (seeds, rows)
    gains = {m: v - v[:, :1] for m, v in values.items()}

    # print the table
    kinds = [i for i in range(1, len(FLAWS)) if (flaw == i).any()]
    print(f"\ngains over none on the test split, mean ± standard deviation over {seeds} seeds")
    header = ["ranked by", "AUC", *(FLAWS[i] for i in kinds), "sound in the better half"]
    print(markdown_table([*header, "gain in points", "gain in log-likelihood"]))
    for row, name in enumerate(("every sound one and no other", *scores), start=1):
        cells = [""] * (len(kinds) + 2)
        if name in scores:
            pools = [np.ones(len(flaw), bool), *((flaw == 0) | (flaw == i) for i in kinds)]
            areas = [roc_auc_score(flaw[pool] == 0, scores[name][pool]) for pool in pools]
            cells = [*(f"{area:.3f}" for area in areas), f"{(flaw[halves[name]] == 0).mean():.0%}"]
        points, nats = 100 * gains["accuracy"][:, row], gains["log_likelihood"][:, row]
        cells.append(f"{points.mean():+.1f} ± {points.std(ddof=1):.1f}")
        cells.append(f"{nats.mean():+.3f} ± {nats.std(ddof=1):.3f}")
        print(markdown_row([name, *cells]), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--bank", default="pcam-planted", help="a bank with images and retrainings")
    add("--parts", nargs="+", choices=PARTS, default=PARTS[:2])
    add("--random", type=int, default=48, help="random selections to judge proxies by")
    add(
        "--seeds",
        type=int,
        default=3,
        help="retrainings per optimised selection or half, 2 or more",
    )
    add("--views", nargs="+", default=VIEWS, choices=VIEWS, help="features of the probes")
    add("--corrections", type=int, default=2, help="rounds of correction of the datamodel")
    add("--figure", type=Path, help="where to write the scatter plot")
    add_worker_arguments(parser)
    args = parser.parse_args()
    if VIEWS[0] not in args.views:
        parser.error(
            f"--views: {VIEWS[0]!r} must be among them, as the others are compared with it"
        )
    bank = resolve_bank(args.bank)
    scores: dict[str, np.ndarray] = {}
    if "ranking" in args.parts:
        try:
            scores = ranking_scores(bank)
        except ValueError as error:
            parser.error(str(error))
    root = Path("runs") / f"probe_fidelity-{digest(bank)}"
    root.mkdir(parents=True, exist_ok=True)
    print(f"{describe_machine()}; {args.workers} processes\n{bank.describe()}", flush=True)

    config = default_config(SMALL.architecture, len(bank.train)).for_images(*bank.train.image_size)
    seen: Views = {}
    if {"random", "optimised"} & set(args.parts):
        # views are made first: their networks are trained in this process
        seen = views(bank, config, root, args.views)
        datamodel = DatamodelEvaluator(bank)
        left_out = spearmanr(datamodel.leave_one_out(), datamodel.metrics.log_likelihood)[0]
        print(
            f"datamodel: {len(datamodel.selections)} retrainings, Spearman with their validation "
            f"when left out {left_out:.3f}",
            flush=True,
        )
    with ParallelEvaluator(RetrainEvaluator(bank, config=config), args.workers) as parallel:
        retrain = CachedEvaluator(parallel, RETRAINED)
        if "random" in args.parts:
            random_part(bank, retrain, seen, args.random, root, args.figure)
        if "optimised" in args.parts:
            optimised_part(bank, retrain, seen, args.seeds, args.corrections)
        if "ranking" in args.parts:
            ranking_part(bank, retrain, scores, args.seeds)
