"""What there is to win on a bank: test figures with no candidates, all, a random half, the nearer half, and the sound ones where known.

    python benchmarks/headroom.py --bank pcam-planted

By linear probe, and by full retraining: ResNet18 with the images' shorter side at 32 pixels ("quick", the network whose retrainings
the banks carry), or the default ResNet34. Round r has seed r for everything. Finished retrainings are kept in runs/.
"""

import argparse

from machine import add_worker_arguments, describe_machine

from agents.evaluation.comparison import compare
from agents.report import comparison_table
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.evaluators import (
    CachedEvaluator,
    LinearProbeEvaluator,
    ParallelEvaluator,
    RetrainEvaluator,
)
from synthselect_env.training.classifier import QUICK

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank", default="pcam-planted")
    parser.add_argument(
        "--classifiers",
        nargs="+",
        default=["probe", "quick"],
        choices=("probe", "quick", "resnet34"),
    )
    parser.add_argument("--rounds", type=int, default=3)
    add_worker_arguments(parser)
    args = parser.parse_args()
    bank = resolve_bank(args.bank)
    selectors = ["none", "all", "random", "centroid"] + ["oracle"] * (
        bank.candidates.flaw is not None
    )
    print(f"{describe_machine()}; {args.workers} processes\n{bank.describe()}", flush=True)
    for name in args.classifiers:
        if name == "probe":
            print(
                f"\nlinear probe\n{comparison_table(compare(bank, selectors, args.rounds, LinearProbeEvaluator(bank)))}",
                flush=True,
            )
            continue
        config = QUICK.for_images(*bank.train.image_size) if name == "quick" else None
        evaluator = RetrainEvaluator(bank, config=config)
        with ParallelEvaluator(evaluator, args.workers) as parallel:
            table = comparison_table(
                compare(bank, selectors, args.rounds, CachedEvaluator(parallel, "runs/retrained"))
            )
        size = "×".join(map(str, evaluator.config.size))
        print(f"\nretrained: {evaluator.config.architecture} at {size} pixels\n{table}", flush=True)
