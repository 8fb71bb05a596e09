"""How well are sound candidates told from others, and what is the better half worth when it is retrained?

    python benchmarks/ranking.py --bank pcam-planted

On a bank of known truth, for each way to rank candidates: the area under the curve of its score against the truth, over all flaws and for
each; the share of sound ones in the better half of each class; and that half's gain over no candidates on the test split, ResNet18 with the
shorter side at 32 pixels, one retraining a seed. Finished retrainings are kept in runs/.
"""

import argparse

import numpy as np
from machine import add_worker_arguments, describe_machine
from sklearn.metrics import roc_auc_score

from agents.selectors.base import best_of_each_class
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.data.flaws import FLAWS
from synthselect_env.evaluators import CachedEvaluator, ParallelEvaluator, RetrainEvaluator
from synthselect_env.evaluators.candidate_scores import candidate_fit, label_fit, looks
from synthselect_env.training.classifier import QUICK

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank", default="pcam-planted")
    parser.add_argument("--seeds", type=int, default=3)
    add_worker_arguments(parser)
    args = parser.parse_args()
    bank = resolve_bank(args.bank)
    flaw, labels, nothing = (
        bank.candidates.flaw,
        bank.candidates.labels,
        np.zeros(len(bank.candidates), bool),
    )
    likeness = looks(bank)
    if flaw is None or likeness is None:
        parser.error(
            f"{args.bank} must know the truth and how its pictures look; pcam-planted and cervical do"
        )
    fits = {"probe": label_fit(bank)}
    if bank.retrainings is not None and bank.retrainings.own_log_probability is not None:
        fits["out of bag"] = candidate_fit(bank)
    scores = {"looks": likeness} | {
        f"fit, {name}{more}": fit + weight * likeness
        for name, fit in fits.items()
        for more, weight in (("", 0), (" + looks", 1), (" + looks / 2", 0.5))
    }
    halves = {
        name: best_of_each_class(score, labels, np.bincount(labels) / 2)
        for name, score in scores.items()
    }
    print(f"{describe_machine()}\n{bank.describe()}\n", flush=True)

    masks = np.stack([nothing, flaw == 0, *halves.values()])
    with ParallelEvaluator(
        RetrainEvaluator(bank, config=QUICK.for_images(*bank.train.image_size)), args.workers
    ) as parallel:
        cached = CachedEvaluator(parallel, "runs/retrained")
        tests = [
            cached.evaluate_on(masks, seed, bank.valid, bank.test)[1] for seed in range(args.seeds)
        ]
    gains = [
        np.stack([getattr(t, m) - getattr(t, m)[0] for t in tests])
        for m in ("accuracy", "log_likelihood")
    ]  # (seeds, rows)
    kinds = [i for i in range(1, len(FLAWS)) if (flaw == i).any()]
    print(
        f"gains over none, mean ± standard deviation over {args.seeds} seeds\n| ranked by | AUC | "
        + " | ".join(FLAWS[i] for i in kinds)
        + " | sound in the better half | gain in points | gain in log-likelihood |\n|---"
        + "|---" * (len(kinds) + 4)
        + "|"
    )
    for row, name in enumerate(("every sound one and no other", *scores), start=1):
        cells = [""] * (len(kinds) + 2)
        if name in scores:
            score = scores[name]
            some = [(flaw == 0) | (flaw == i) for i in kinds]
            areas = [
                roc_auc_score(flaw[part] == 0, score[part])
                for part in (np.ones_like(nothing), *some)
            ]
            cells = [*(f"{area:.3f}" for area in areas), f"{(flaw[halves[name]] == 0).mean():.0%}"]
        points, nats = (gain[:, row] * scale for gain, scale in zip(gains, (100, 1)))
        cells += [
            f"{points.mean():+.1f} ± {points.std(ddof=1):.1f}",
            f"{nats.mean():+.3f} ± {nats.std(ddof=1):.3f}",
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
