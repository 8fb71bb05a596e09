"""Which reward selects better?  Judged by full retraining on validation images that the reward did not see.

    python benchmarks/reward_choice.py

The validation split is cut into two stratified halves. For each half and reward, examples/train_ppo.py selects with one half
as its validation split; ResNet34 is retrained on real + its selection and scored on the other half. Beside it stand "none", and
"half real": half of the real patches and no candidates, which tells whether the classifier's recipe gains from more data at all.
The test split is not read. Finished tasks are kept in runs/, so that an interrupted run goes on where it stopped.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine, digest

from agents.selectors import SELECTORS
from synthselect_env import FeatureBank, Selection, Dataset
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.data import draw_per_class
from synthselect_env.evaluators import RetrainEvaluator
from synthselect_env.storage import atomic_write
from synthselect_env.training.device import available_cores

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "train_ppo.py"
METRICS = ("accuracy", "auc", "log_likelihood")


def fold_of(bank: FeatureBank, fold: int) -> tuple[FeatureBank, Dataset]:
    """The bank with one half of its validation split, and the other half."""
    order = np.random.default_rng(0).permutation(len(bank.valid))
    order = order[np.argsort(bank.valid.labels[order], kind="stable")]
    # what was retrained was scored on the whole split: both halves' rewards come from the linear probe
    half = replace(bank, valid=bank.valid.subset(np.sort(order[fold::2])), retrainings=None)
    return half, bank.valid.subset(np.sort(order[1 - fold :: 2]))


def judge(
    bank_name: str, name: str, fold: int, file: Path, threads: int, arguments: list[str]
) -> None:
    """Select by one reward with one half, retrain, score on the other half, write the figures."""
    torch.set_num_threads(threads)
    bank, held_out = fold_of(resolve_bank(bank_name), fold)
    if name == "half real":
        counts = np.bincount(bank.train.labels) // 2
        bank, name = (
            replace(
                bank, train=bank.train.subset(draw_per_class(bank.train.labels, counts, seed=0))
            ),
            "none",
        )
    if name in SELECTORS:
        selection = SELECTORS[name]().select(bank, seed=0)
    else:
        run = file.with_suffix("")
        bank.save(run / "bank.h5")
        command = [
            sys.executable,
            EXAMPLE,
            "--bank",
            run / "bank.h5",
            "--reward",
            name,
            "--run",
            run,
            "--evaluate",
            *arguments,
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run(
            list(map(str, command)),
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        selection = Selection.load(run / "selection.csv")
    figures = RetrainEvaluator(bank).evaluate_on(selection.mask[None], 0, held_out)[0]
    with atomic_write(file) as path:
        path.write_text(
            json.dumps(
                {"selected": selection.count, **{m: getattr(figures, m)[0] for m in METRICS}}
            )
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank", default="pcam")
    parser.add_argument("--rewards", nargs="+", default=["paper", "log_likelihood_gain"])
    parser.add_argument("--workers", type=int, default=2, help="processes; they share the cores")
    parser.add_argument(
        "--arguments",
        nargs=argparse.REMAINDER,
        default=[],
        help="passed on to examples/train_ppo.py",
    )
    args = parser.parse_args()
    threads = max(1, available_cores() // args.workers)
    print(f"{describe_machine()}; {args.workers} processes of {threads} threads", flush=True)
    root = Path("runs") / f"reward_choice-{digest(resolve_bank(args.bank), args.arguments)}"
    names = [*args.rewards, "none", "half real"]
    files = {
        (name, fold): root / f"{name.replace(' ', '_')}-fold{fold}.json"
        for name in names
        for fold in (0, 1)
    }
    with ProcessPoolExecutor(
        args.workers, multiprocessing.get_context("spawn")
    ) as pool:  # CUDA does not survive a fork
        tasks = [
            pool.submit(judge, args.bank, *key, file, threads, args.arguments)
            for key, file in files.items()
            if not file.exists()
        ]
        for task in tasks:
            task.result()
    print(
        "ResNet34 retrained, scored on the half of validation that the reward did not see; mean of the two halves (each)"
    )
    for name in names:
        rows = [json.loads(files[name, fold].read_text()) for fold in (0, 1)]
        cells = [
            f"{m} {np.mean([r[m] for r in rows]):.4f} ({rows[0][m]:.4f}, {rows[1][m]:.4f})"
            for m in METRICS
        ]
        print(
            f"{name:<20} {rows[0]['selected']:>5,} / {rows[1]['selected']:>5,} selected  "
            + "  ".join(cells)
        )
