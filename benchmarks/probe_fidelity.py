"""Does a cheap reward mean what a full retraining would say?  On random selections, and on those that an optimiser finds.

    python benchmarks/probe_fidelity.py --data pcam.zip

The bank: 256 real patches, and 2,048 other real patches as candidates, 30 % with the wrong label, 10 % blurred, 10 % with a wrong
stain. Every selection is retrained in full (ResNet18, 32×32 pixels, 400 steps of 32). "promised" is what the reward says of a
selection on the validation split, "real" what retraining says on the test split, both as the gain over no candidates.
With --bank pcam the pool is that of the embedded bank, HistoGAN's. Finished work is kept in runs/; a rerun takes minutes.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from machine import add_worker_arguments, describe_machine
from scipy.stats import kendalltau, spearmanr
from stable_baselines3 import PPO

from agents import TransformerPolicy
from agents.selectors import PolicySelector
from synthselect_env import FeatureBank, SelectionVecEnv, Split
from synthselect_env.classifier import QUICK, train_classifier
from synthselect_env.data import decode, draw_per_class, read_class_folders
from synthselect_env.data.flaws import FLAWS, plan_flaws
from synthselect_env.embedded import resolve_bank
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
from synthselect_env.evaluators.ranking import draw_design
from synthselect_env.files import atomic_write
from synthselect_env.metrics import METRICS

SHARES = {"wrong label": 0.3, "blur and noise": 0.1, "wrong stain": 0.1}
RIDGES, DIMENSIONS = (0.01, 0.1, 1.0, 10.0, 100.0), (8, 16, 32, 64, 128)
FOLDS = 4
ROUNDS = 3


def planted_bank(data: Path, n_real: int, n_candidates: int, seed: int) -> FeatureBank:
    """Real patches as candidates, half of them flawed; features are still to be extracted (zeros)."""
    parts = {name: read_class_folders(data, name) for name in ("train", "valid", "test")}
    labels = parts["train"].labels
    share = np.bincount(labels) / len(labels)
    drawn = draw_per_class(labels, np.round((n_real + n_candidates) * share).astype(int), seed)
    real = np.sort(drawn[draw_per_class(labels[drawn], np.round(n_real * share).astype(int), seed)])
    pool = np.setdiff1d(drawn, real)
    plan = plan_flaws(labels[pool], len(share), SHARES, seed)
    spoilt = plan.spoil(np.arange(len(pool)), parts["train"].subset(pool[plan.source]).pixels())
    pictures = {name: (part.pixels(QUICK.size), part.labels) for name, part in parts.items() if name != "train"}
    pictures["train"] = parts["train"].subset(real).pixels(QUICK.size), labels[real]
    splits = {name: Split(np.zeros((len(y), 1), np.float32), y, images=x) for name, (x, y) in pictures.items()}
    candidates = Split(np.zeros((len(pool), 1), np.float32), plan.labels, images=decode(spoilt, QUICK.size), flaw=plan.flaw)
    return FeatureBank(**splits, candidates=candidates, classes=parts["train"].classes, source="planted")


def seen_by(bank: FeatureBank, seed: int, fold: int | None = None) -> FeatureBank:
    """The bank with the features of one extractor, trained on its real training split.

    :param fold: train without this part of the real split, and return a bank that has this part alone as its real split: features
        of pictures that a network was trained on are cleaner than those of the candidates (cross-fitting)
    """
    train = bank.train
    assert isinstance(train.images, np.ndarray)
    seen = np.ones(len(train), bool) if fold is None else np.random.default_rng(seed).permutation(len(train)) % FOLDS != fold
    extractor = train_classifier(
        train.images[seen], train.labels[seen], bank.valid.images, bank.valid.labels, len(bank.classes), seed, QUICK
    )
    splits = {
        n: replace(s, features=extractor.features(s.images))
        for n, s in ((n, getattr(bank, n)) for n in ("train", "valid", "test", "candidates"))
    }
    if fold is not None:
        splits["train"] = splits["train"].subset(~seen)
    return replace(bank, **splits)


def views(bank: FeatureBank, root: Path) -> list[FeatureBank]:
    """The bank by an extractor trained on all real patches, and by one for each fold."""
    banks = []
    for name, seed, fold in [("whole", 0, None), *((f"fold{i}", 10, i) for i in range(FOLDS))]:
        file = root / f"view-{name}.h5"
        if not file.exists():
            seen_by(bank, seed, fold).save(file)
        banks.append(FeatureBank.load(file))
    return banks


def random_selections(bank: FeatureBank, k: int, seed: int) -> np.ndarray:
    """Selections of all sizes and qualities: each flaw is kept or discarded with odds of its own."""
    rng, masks = np.random.default_rng(seed), []
    flaw = bank.candidates.flaw
    for _ in range(k):
        rate, bonus = rng.uniform(-2.5, 2), rng.uniform(-1.5, 2.5)
        log_odds = rate + bonus * (flaw == 0) + rng.normal(0, 1) * (flaw == 1) + rng.normal(0, 1) * (flaw > 1)
        masks.append(rng.random(len(flaw)) < 1 / (1 + np.exp(-log_odds)))
    return np.stack(masks)


def correlation(ours: np.ndarray, truth: np.ndarray, measure: Callable = spearmanr) -> tuple[float, float, float]:
    """Rank correlation with the 95 % interval of 1,000 bootstrap samples of the selections."""
    rng, n = np.random.default_rng(0), len(truth)
    samples = [measure(ours[i], truth[i])[0] for i in rng.integers(0, n, (1000, n))]
    return measure(ours, truth)[0], *np.nanquantile(samples, [0.025, 0.975])


@dataclass
class Proxy:
    """What an optimiser climbs: the validation log-likelihood by one evaluator, or the mean over several that should agree."""

    name: str
    evaluators: list[Evaluator]

    def figures(self, masks: np.ndarray) -> np.ndarray:
        return np.mean([e.evaluate(masks, 0).log_likelihood for e in self.evaluators], axis=0)

    def promised(self, masks: np.ndarray) -> np.ndarray:
        return self.figures(masks) - self.figures(np.zeros_like(masks[:1]))

    def credit(self, masks: np.ndarray) -> np.ndarray:
        return np.mean([e.credit(masks, 0) for e in self.evaluators], axis=0)  # type: ignore[attr-defined]


def climb(proxy: Proxy, n: int, steps: int = 150, k: int = 4, seed: int = 0) -> np.ndarray:
    """Gradient ascent on the log-odds of each candidate (Adam), by the exact credit of k selections a step."""
    rng = np.random.default_rng(seed)
    log_odds = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_odds], lr=0.15)
    for _ in range(steps):
        p = log_odds.sigmoid()
        masks = rng.random((k, n)) < p.detach().numpy()
        optimizer.zero_grad()
        (-(p * torch.from_numpy(proxy.credit(masks).mean(0))).sum()).backward()
        optimizer.step()
    return (log_odds > 0).numpy()


def search(proxy: Proxy, n: int, trials: int = 4096, seed: int = 0) -> np.ndarray:
    """The best of many random selections."""
    rng = np.random.default_rng(seed)
    masks = rng.random((trials, n)) < rng.random((trials, 1))
    return masks[np.concatenate([proxy.figures(part) for part in np.split(masks, trials // 64)]).argmax()]


def train_policy(proxy: Proxy, bank: FeatureBank, root: Path, seed: int = 0) -> np.ndarray:
    """A transformer policy trained by PPO, with the settings of examples/train_ppo.py."""
    file = root / f"policy-{proxy.evaluators[0].fingerprint[:12]}.npy"
    if not file.exists():
        env = SelectionVecEnv(bank, n_envs=32, evaluator=proxy.evaluators[0])
        settings = {"n_steps": 8, "batch_size": 256, "n_epochs": 2, "learning_rate": 1e-3, "gamma": 0.0}
        model = PPO(TransformerPolicy, env, **settings, policy_kwargs={"width": 64}, seed=seed, device="cpu")
        mask = PolicySelector(model.learn(16_384)).select(bank, seed).mask
        with atomic_write(file) as path:
            np.save(path, mask)
    return np.load(file)


def composition(mask: np.ndarray, flaw: np.ndarray | None) -> str:
    """Columns: candidates selected, and where the truth is known the shares of sound and of rightly labelled ones."""
    if flaw is None:
        return f"{mask.sum():,}"
    shares = [f"{share[mask].mean():.0%}" if mask.any() else "" for share in (flaw == 0, flaw != FLAWS.index("wrong label"))]
    return f"{mask.sum():,} | {' | '.join(shares)}"


def random_half(
    banks: list[FeatureBank], masks: np.ndarray, test: Evaluations, valid: Evaluations, datamodel: DatamodelEvaluator, root: Path
) -> None:
    """Print rank correlations between each proxy's validation figures and the retrainings' test log-likelihood."""
    truth = test.log_likelihood
    table: list[dict[str, object]] = []
    for head in ("ridge", "logistic"):
        for kind, group in (("whole", banks[:1]), ("cross-fitted", banks[1:])):
            if not group or (head == "logistic" and kind != "whole"):
                continue
            for d in DIMENSIONS:
                for ridge in RIDGES:
                    probes = [LinearProbeEvaluator(b, head=head, n_components=d, ridge=ridge).evaluate(masks, 0) for b in group]
                    for metric in METRICS:
                        values = np.mean([getattr(p, metric) for p in probes], 0) * (-1 if metric == "brier" else 1)
                        table.append(
                            {
                                "head": head,
                                "features": kind,
                                "components": d,
                                "ridge": ridge,
                                "metric": metric,
                                "spearman": spearmanr(values, truth)[0] if np.ptp(values) else np.nan,
                                "kendall": kendalltau(values, truth)[0] if np.ptp(values) else np.nan,
                            }
                        )
    with atomic_write(root / "random.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    for head, kind in sorted({(row["head"], row["features"]) for row in table}, reverse=True):
        own = [row for row in table if (row["head"], row["features"]) == (head, kind)]
        print(f"\nSpearman, {head} head, {kind} features, validation log-likelihood against retrained test log-likelihood")
        print("| components | " + " | ".join(f"ridge {r:g}" for r in RIDGES) + " |\n|---" + "|---" * len(RIDGES) + "|")
        for d in DIMENSIONS:
            cells = [r["spearman"] for r in own if r["components"] == d and r["metric"] == "log_likelihood"]
            print(f"| {d} | " + " | ".join(f"{c:.2f}" for c in cells) + " |")
        best = [max((r for r in own if r["metric"] == m), key=lambda r: np.nan_to_num(r["spearman"], nan=-1.0)) for m in METRICS]
        print("best of each metric: " + "; ".join(f"{r['metric']} {r['spearman']:.2f} ({r['components']}, {r['ridge']:g})" for r in best))

    default = LinearProbeEvaluator(banks[0])
    rows = {
        "linear probe (its defaults)": default.evaluate(masks, 0),
        "datamodel (its defaults)": datamodel.evaluate(masks, 0),
        "the retrainings' own validation": valid,
    }
    print(f"\nSpearman and Kendall [95 % bootstrap interval] with the retrained test log-likelihood, n = {len(masks)}")
    print("| validation log-likelihood by | Spearman | Kendall |\n|---|---|---|")
    for name, figures in rows.items():
        cells = [
            f"{v:.3f} [{low:.3f}, {high:.3f}]"
            for v, low, high in (correlation(figures.log_likelihood, truth, m) for m in (spearmanr, kendalltau))
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    scatter({name: figures.log_likelihood for name, figures in rows.items()}, truth, root / "random.png")


def scatter(columns: dict[str, np.ndarray], truth: np.ndarray, file: Path) -> None:
    """A panel a proxy: what it says against what retraining says."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(columns), 3.6), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(columns)), columns.items()):
        axes.plot(values, truth, "o", ms=4, alpha=0.7)
        axes.set(
            title=f"{name}\nSpearman {spearmanr(values, truth)[0]:.2f}",
            xlabel="validation log-likelihood",
            ylabel="retrained, test log-likelihood",
        )
        axes.title.set_fontsize(9)
    with atomic_write(file) as path:
        figure.savefig(path, dpi=110)


def optimised_half(
    bank: FeatureBank, banks: list[FeatureBank], datamodel: DatamodelEvaluator, retrain: CachedEvaluator, seeds: int, root: Path
) -> None:
    """Print what each proxy promises of the selection that climbs it, and what retraining says of it."""
    n, flaw = len(bank.candidates), bank.candidates.flaw
    found: list[tuple[str, np.ndarray, float | None]] = [("none", np.zeros(n, bool), None), ("all", np.ones(n, bool), None)]
    found.append(("random half", np.random.default_rng(0).random(n) < 0.5, None))
    nearest = np.argsort(banks[0].centroid_distances, kind="stable")
    found.append(("nearest half by centroid", np.isin(np.arange(n), nearest[: n // 2]), None))
    if flaw is not None:
        found += [("every sound candidate and no other", flaw == 0, None)]

    def take(name: str, proxy: Proxy, mask: np.ndarray) -> None:
        found.append((name, mask, float(proxy.promised(mask[None])[0])))

    whole = [
        Proxy(f"ridge {r:g}, {d} components", [LinearProbeEvaluator(banks[0], n_components=d, ridge=r)])
        for d, r in ((32, 0.1), (32, 1), (32, 10), (128, 100))
    ]
    crossed = [
        Proxy(
            f"mean of {FOLDS} cross-fitted, ridge {r:g}, {d} components",
            [LinearProbeEvaluator(b, n_components=d, ridge=r) for b in banks[1:]],
        )
        for d, r in ((32, 1), (32, 10), (64, 30))
    ]
    for proxy in [*whole, *(crossed if len(banks) > 1 else [])]:
        take(f"climbed: {proxy.name}", proxy, climb(proxy, n))
    default = Proxy("linear probe, ridge 1, 32 components", [LinearProbeEvaluator(banks[0], n_components=32, ridge=1.0)])
    take(f"best of 4,096: {default.name}", default, search(default, n))
    take(f"PPO: {default.name}", default, train_policy(default, banks[0], root))
    model = datamodel
    for i in range(ROUNDS):  # two time scales: learn on the proxy, correct it by retraining what was found
        proxy = Proxy("datamodel", [model])
        mask = climb(proxy, n)
        if i == 0:
            take("best of 4,096: datamodel", proxy, search(proxy, n))
        policy = train_policy(proxy, banks[0], root)
        suffix = f", corrected {i}×" if i else ""
        take(f"climbed: datamodel{suffix}", proxy, mask)
        take(f"PPO: datamodel{suffix}", proxy, policy)
        both = np.stack([mask, policy])
        model = DatamodelEvaluator(with_retrainings(model.bank, retrain, both))

    masks = np.stack([mask for _, mask, _ in found])
    results = [retrain.evaluate_on(masks, seed, bank.valid, bank.test) for seed in range(seeds)]
    print(f"\n{retrain}")
    print(f"\nGains over no candidates; real: retrained, mean ± standard error over {seeds} seeds of the differences")
    known = " | sound | right label" if flaw is not None else ""
    print(
        f"| selection | selected{known} | promised log-likelihood | real, validation | real, test | kept | real test accuracy, points | "
        "validation − test accuracy |"
    )
    print("|---|---" + "|---|---" * (flaw is not None) + "|---|---|---|---|---|---|")

    def gain(split: int, metric: str, i: int) -> np.ndarray:  # (seeds,)
        return np.array([getattr(result[split], metric)[i] - getattr(result[split], metric)[0] for result in results])

    def cell(values: np.ndarray, form: str) -> str:
        return f"{values.mean():+{form}} ± {values.std(ddof=1) / len(values) ** 0.5:{form}}"

    for i, (name, mask, promised) in enumerate(found):
        real = gain(1, "log_likelihood", i)
        kept = "" if promised is None else "yes" if real.mean() * promised > 0 and abs(real.mean()) >= abs(promised) / 2 else "no"
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="directory or zip with train/, valid/ and test/")
    source.add_argument("--bank", help="a bank with pictures, e.g. pcam")
    parser.add_argument("--random", type=int, default=48, help="random selections to judge proxies by")
    parser.add_argument("--design", type=int, default=48, help="retrainings that the datamodel is fitted to")
    parser.add_argument("--seeds", type=int, default=3, help="retrainings of each optimised selection")
    add_worker_arguments(parser)
    args = parser.parse_args()
    root = Path("runs/probe_fidelity")
    print(f"{describe_machine()}; {args.workers} processes", flush=True)
    if args.data:
        if not (root / "bank.h5").exists():
            planted_bank(args.data, 256, 2048, seed=0).save(root / "bank.h5")
        bank = FeatureBank.load(root / "bank.h5")
        banks = views(bank, root)
        masks = random_selections(bank, args.random, seed=0)
    else:
        bank = resolve_bank(args.bank)
        root, banks, masks = root / f"bank-{Path(args.bank).stem}", [bank], draw_design(bank, args.random, seed=1)
    with ParallelEvaluator(RetrainEvaluator(bank, config=QUICK), args.workers) as parallel:
        retrain = CachedEvaluator(parallel, "runs/retrained")
        valid, test = retrain.evaluate_on(masks, 0, bank.valid, bank.test)
        design = draw_design(banks[0], args.design, seed=0)
        datamodel = DatamodelEvaluator(with_retrainings(replace(banks[0], retrainings=None), retrain, design))
        left_out = correlation(datamodel.leave_one_out(), datamodel.figures.log_likelihood)
        print(
            f"datamodel: {args.design} retrainings, Spearman of its leave-one-out predictions with their validation {left_out[0]:.3f}",
            flush=True,
        )
        random_half(banks, masks, test, valid, datamodel, root)
        optimised_half(bank, banks, datamodel, retrain, args.seeds, root)
