"""Which reward selects better?  Judged by full retraining on validation pictures that the reward did not see.

    python benchmarks/reward_choice.py

The validation split is cut into two stratified halves. For each half and reward, examples/train_ppo.py selects with one half
as its validation split; ResNet34 is retrained on real + its selection and scored on the other. "none" and "centroid" stand beside. The test split
is not read. Finished retrainings are kept in runs/, so that an interrupted run goes on where it stopped.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine, digest

from agents.selectors import SELECTORS
from synthselect_env import FeatureBank, Selection, Split
from synthselect_env.embedded import resolve_bank
from synthselect_env.evaluators import RetrainEvaluator
from synthselect_env.files import atomic_write

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "train_ppo.py"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bank", default="pcam")
parser.add_argument("--rewards", nargs="+", default=["paper", "log_likelihood_gain"])
parser.add_argument("--seeds", type=int, default=1)
parser.add_argument("--arguments", nargs=argparse.REMAINDER, default=[], help="passed on to examples/train_ppo.py")
args = parser.parse_args()
torch.set_num_threads(2)
print(describe_machine())


def part(split: Split, positions: np.ndarray) -> Split:
    return Split(split.features[positions], split.labels[positions], images=split.images[positions])


def select(name: str, bank: FeatureBank, seed: int) -> Selection:
    if name in SELECTORS:
        return SELECTORS[name]().select(bank, seed)
    bank.save(cache / "half.h5")
    run = cache / f"{name}-{bank.source}-seed{seed}"
    command = [sys.executable, EXAMPLE, "--bank", cache / "half.h5", "--reward", name, "--seed", seed, "--run", run, "--evaluate"]
    subprocess.run([*map(str, command), *args.arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return Selection.load(run / "selection.csv")


bank = resolve_bank(args.bank)
cache = Path("runs") / f"reward_choice-{digest(bank, args.arguments)}"
order = np.random.default_rng(0).permutation(len(bank.valid))
order = order[np.argsort(bank.valid.labels[order], kind="stable")]
halves = [order[0::2], order[1::2]]
names = ["none", "centroid", *args.rewards]
results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
for fold in (0, 1):
    seen, held_out = (part(bank.valid, np.sort(halves[i])) for i in (fold, 1 - fold))
    half = replace(bank, valid=seen, source=f"fold{fold}")
    for seed in range(args.seeds):
        for name in names:
            file = cache / f"{name}-fold{fold}-seed{seed}.json"
            if not file.exists():
                selection = select(name, half, seed)
                figures = RetrainEvaluator(half).evaluate_on(selection.mask[None], seed, held_out)[0]
                with atomic_write(file) as path:
                    path.write_text(
                        json.dumps(
                            {
                                "selected": selection.count,
                                "accuracy": figures.accuracy[0],
                                "log_likelihood": figures.log_likelihood[0],
                                "auc": figures.auc[0],
                            }
                        )
                    )
            results[name].append(json.loads(file.read_text()))
            print(f"fold {fold}, seed {seed}, {name}: {results[name][-1]}", flush=True)

print(
    f"\nResNet34 retrained, scored on the held-out half of validation; n = {2 * args.seeds} a row (2 halves × {args.seeds} seeds), mean (min to max)"
)
for name, rows in results.items():
    cells = [
        f"{m} {np.mean(v):.4f} ({min(v):.4f} to {max(v):.4f})"
        for m in ("accuracy", "auc", "log_likelihood")
        for v in [[r[m] for r in rows]]
    ]
    print(f"{name:<22} {np.mean([r['selected'] for r in rows]):>6,.0f} selected  " + "  ".join(cells))
