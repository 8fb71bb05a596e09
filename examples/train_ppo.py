"""Train the transformer policy, select candidates, and say on the test split whether it was worth it.

python examples/train_ppo.py                              # embedded PCam bank; some four minutes on two cores
python examples/train_ppo.py --algorithm CreditPPO        # told what each decision was worth
python examples/train_ppo.py --evaluate linear_probe      # half a minute: the final table without a retraining
python examples/train_ppo.py --evaluate resnet34          # by the paper's network; a quarter of an hour with bf16 instructions
python examples/train_ppo.py --bank mine.h5 --reward paper
"""

import argparse
import importlib.util
import json
import platform
import time
from contextlib import ExitStack
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path

import gymnasium
import stable_baselines3
import torch
from stable_baselines3 import PPO

from agents import CreditPPO, TransformerPolicy
from agents.evaluation.comparison import compare
from agents.report import comparison_table, read_history, recommendation, write_report
from agents.runs import SelectionMetrics, run_logger
from agents.selectors import PolicySelector
from synthselect_env import SelectionVecEnv
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.envs.rewards import DEFAULT_REWARD, REWARDS
from synthselect_env.evaluators import (
    EVALUATORS,
    CachedEvaluator,
    RetrainEvaluator,
    default_evaluator,
    make_evaluator,
)
from synthselect_env.storage import atomic_write
from synthselect_env.training.augmentation import AUGMENTATIONS
from synthselect_env.training.classifier import TrainingConfig
from synthselect_env.training.device import has_bfloat16, pick_device

ALGORITHMS = {
    "PPO": (
        PPO,
        {"learning_rate": 1e-3, "batch_size": 64, "n_epochs": 4, "gamma": 0.0},
    ),  # SB3's do not fit 512 decisions an action
    "CreditPPO": (
        CreditPPO,
        {"learning_rate": 1e-3, "batch_size": 32, "n_epochs": 10, "gamma": 1.0},
    ),  # its defaults
}
JUDGES = [name for name, evaluator in EVALUATORS.items() if evaluator.can_score_any_split]
RETRAINED = [
    name for name, evaluator in EVALUATORS.items() if issubclass(evaluator, RetrainEvaluator)
]


@dataclass
class Args:
    bank: str = field(
        default="pcam",
        metadata={"help": "an embedded bank (pcam, cervical, pcam-planted, toy) or a file"},
    )
    reward: str = field(default=DEFAULT_REWARD, metadata={"help": f"one of {', '.join(REWARDS)}"})
    evaluator: str = field(
        default="",
        metadata={
            "help": f"what rewards, one of {', '.join(EVALUATORS)}; default: the datamodel where the bank has retrainings"
        },
    )
    evaluate: list[str] = field(
        default_factory=lambda: ["linear_probe", "resnet18"],
        metadata={"help": f"classifiers of the final tables: {', '.join(JUDGES)}", "nargs": "*"},
    )
    size: list[int] | None = field(
        default=None,
        metadata={
            "type": int,
            "nargs": 2,
            "help": "height and width at which a classifier is retrained; default: its own, 32 or 48 on the shorter side",
        },
    )
    rounds: int = field(
        default=1,
        metadata={
            "help": "trainings of a classifier on each selection, with a seed each; default: %(default)s"
        },
    )
    augmentation: str = field(
        default=TrainingConfig.augmentation,
        metadata={
            "help": f"of training pictures where a classifier is retrained: {', '.join(AUGMENTATIONS)}; default: %(default)s"
        },
    )
    algorithm: str = field(default="PPO", metadata={"help": f"one of {', '.join(ALGORITHMS)}"})
    timesteps: int = field(default=1024, metadata={"help": "environment steps, an evaluation each"})
    n_envs: int = field(default=16, metadata={"help": "selections evaluated at once"})
    seed: int = 0
    device: str = "auto"
    run: str = field(
        default="", metadata={"help": "run directory (default: runs/TIME-BANK-seedSEED)"}
    )
    learning_rate: float | None = field(
        default=None,
        metadata={"type": float, "help": "default: the algorithm's, as the next three"},
    )
    batch_size: int | None = field(
        default=None, metadata={"type": int, "help": "actions an update"}
    )
    n_epochs: int | None = field(
        default=None, metadata={"type": int, "help": "passes over a rollout"}
    )
    gamma: float | None = field(default=None, metadata={"type": float, "help": "discount"})
    clip_range: float = 0.2
    width: int = 64


parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
for f in fields(Args):
    many = f.metadata.get("nargs")
    default = f.default_factory() if f.default is MISSING else f.default
    parser.add_argument(
        f"--{f.name.replace('_', '-')}",
        type=f.metadata.get("type", str if many else type(default)),
        default=default,
        nargs=many,
        help=f.metadata.get("help", "default: %(default)s"),
    )
args = Args(**vars(parser.parse_args()))
unknown = sorted(set(args.evaluate) - set(JUDGES))
if unknown:
    parser.error(f"--evaluate: unknown classifier {', '.join(unknown)}; one of {', '.join(JUDGES)}")
if args.augmentation not in AUGMENTATIONS:
    parser.error(
        f"--augmentation: unknown augmentation {args.augmentation}; one of {', '.join(AUGMENTATIONS)}"
    )
if args.rounds < 1:
    parser.error(f"--rounds must be at least 1, got {args.rounds}")
if args.algorithm not in ALGORITHMS:
    parser.error(f"--algorithm: unknown algorithm {args.algorithm}; one of {', '.join(ALGORITHMS)}")
algorithm, settings = ALGORITHMS[args.algorithm]
for name, value in settings.items():
    if getattr(args, name) is None:
        setattr(args, name, value)

start = time.perf_counter()
run = Path(
    args.run or f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{Path(args.bank).stem}-seed{args.seed}"
)
run.mkdir(parents=True, exist_ok=True)
versions = {
    "python": platform.python_version(),
    "torch": torch.__version__,
    "gymnasium": gymnasium.__version__,
    "stable_baselines3": stable_baselines3.__version__,
}
with atomic_write(run / "config.json") as path:
    path.write_text(json.dumps({"arguments": asdict(args), "versions": versions}, indent=2))

# Environment: a batch of candidates a step; n_envs selections are scored by one call of the evaluator.
bank = resolve_bank(args.bank)
print(bank.describe())
if args.evaluate and "test" not in bank.splits:
    parser.error(
        f"--evaluate: {args.bank} has no test split to compare on; give it one, or nothing after --evaluate for the selection alone"
    )
recipe = {"augmentation": args.augmentation, **({"size": args.size} if args.size else {})}
recipes = {name: {"config": recipe, "device": args.device} for name in RETRAINED} | {
    "linear_probe": {"device": args.device}
}
for classifier in args.evaluate:
    make_evaluator(
        classifier, bank, **recipes.get(classifier, {})
    )  # a bank that it cannot score is refused now, not after the training
rewarded_by = args.evaluator or default_evaluator(bank)
evaluator = make_evaluator(rewarded_by, bank.sealed, **recipes.get(rewarded_by, {}))
if rewarded_by in RETRAINED:
    evaluator = CachedEvaluator(evaluator, "runs/retrained")
    print(
        f"{args.timesteps:,} retrainings at most; interrupted, the same command goes on with those that it has done, in runs/retrained"
    )
env = SelectionVecEnv(bank, args.n_envs, evaluator, args.reward)
env.seed(args.seed)

# Agent.
model = algorithm(
    TransformerPolicy,
    env,
    n_steps=8,
    learning_rate=args.learning_rate,
    batch_size=args.batch_size,
    n_epochs=args.n_epochs,
    gamma=args.gamma,
    clip_range=args.clip_range,
    policy_kwargs={"width": args.width},
    seed=args.seed,
    device=args.device,
)
model.set_logger(run_logger(run))
print(
    f"{args.algorithm} on {model.device}, {args.timesteps:,} steps, reward {args.reward} by {rewarded_by}; run directory {run}"
)
has_bar = all(importlib.util.find_spec(name) for name in ("tqdm", "rich"))
if has_bar:
    from tqdm import tqdm
else:
    print('no progress bar: pip install "synthselect[train]"')
model.learn(args.timesteps, callback=SelectionMetrics(), log_interval=None, progress_bar=has_bar)
model.logger.close()
with atomic_write(run / "model.zip") as path:
    model.save(path, exclude=["_last_obs"])  # a batch of features for each environment, 17 MB

# Selection.
policy = PolicySelector(model)
selection = policy.select(bank, args.seed)
selection.save(run / "selection.csv")

# The test split is opened here, once, after everything has been decided.
contenders = ["none", "all", "random", "centroid", policy]
comparisons = []
for classifier in args.evaluate:
    with ExitStack() as stack:
        options = {**recipes.get(classifier, {})}
        if classifier in RETRAINED:
            slowly = ""
            if not has_bfloat16(pick_device(args.device)):
                slowly = f"; without bf16 instructions, {'several minutes' if classifier == 'resnet34' else 'a minute'} each. --evaluate linear_probe is done at once"
            print(
                f"\nretraining {classifier} on each of {len(contenders)} selections{slowly}",
                flush=True,
            )
            if has_bar:
                bar = stack.enter_context(
                    tqdm(total=args.rounds * len(contenders) * TrainingConfig.epochs, unit="epoch")
                )
                options["on_epoch"] = lambda done, epoch, metrics, bar=bar: bar.update()
        comparison = compare(
            bank,
            contenders,
            args.rounds,
            classifier,
            seed=args.seed,
            directory=run / classifier,
            **options,
        )
    comparisons.append(comparison)
    print(
        f"\n{comparison_table(comparison)}\n\n{recommendation(comparison, policy.name, selection)[1]}"
    )

if args.evaluate == ["linear_probe"]:
    print(
        "\nThat is a linear probe's word, which full retraining does not always share; --evaluate resnet18 retrains."
    )

# Report: what is retrained counts more than a probe, and the last classifier is what the recommendation is about.
if comparisons and importlib.util.find_spec("matplotlib"):
    report = write_report(
        run,
        bank,
        comparisons[-1],
        policy.name,
        selection=selection,
        history=read_history(run / "metrics.csv"),
        configuration=json.loads((run / "config.json").read_text()),
        others=comparisons[:-1],
        seed=args.seed,
    )
    print(f"\nreport with pictures: {report}")
elif comparisons:
    print('\nno report: pip install "synthselect[report]"')
print(f"{time.perf_counter() - start:.0f} s in all; everything is in {run}")
