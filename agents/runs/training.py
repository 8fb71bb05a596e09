"""A training run, from a bank to a report."""

from __future__ import annotations

import importlib.util
import json
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import gymnasium
import stable_baselines3
import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.evaluation import Comparison, compare
from agents.policies import TransformerPolicy
from agents.progress import HAS_TRAINING_BAR, progress_bar, training_bar
from agents.report import comparison_table, read_history, recommendation, write_report
from agents.runs.config import RETRAINING, RunConfig
from agents.runs.recording import SelectionMetrics, run_logger
from agents.selectors import PolicySelector, Selector
from agents.warm_start import EVALUATIONS as RATE_EVALUATIONS
from agents.warm_start import best_random_rate
from synthselect_env import FeatureBank, Selection, SelectionVecEnv
from synthselect_env.bank import resolve_bank
from synthselect_env.evaluators import (
    CachedEvaluator,
    Evaluator,
    default_evaluator,
    make_evaluator,
    spread,
)
from synthselect_env.storage import atomic_write, exclusive
from synthselect_env.training.device import check_device, has_bfloat16, pick_device

RETRAINED = Path("runs/retrained")
"""Directory of finished retrainings, which all runs share."""

ORDERS = ("centroid", "triplet", "label fit + realism")
"""Orders of the candidates that a run's policy is compared with."""

SELECTION, RECOMMENDED, DECISION = "selection.csv", "recommended.csv", "recommendation.json"
"""Files of a run: the policy's selection, the recommended one, and what the test images say of it."""


def train_run(config: RunConfig) -> Path:
    """Train a policy, select with it, judge the selection, and write a report.

    The run directory holds ``config.json`` (with versions), ``metrics.csv``, ``model.zip``,
    ``policy`` (the same without pickle), ``selection.csv``, one folder per judge,
    ``recommended.csv``, ``recommendation.json``, and the report with its tables and figures. The
    annotated images say, under the last judge, what is recommended: the policy's selection, a
    simple order's, all or none; see :meth:`~agents.evaluation.Comparison.recommended`.

    A run that was killed is repeated by the same configuration. On the CPU it comes to the same
    selection, to the bit; finished retrainings are not made again.

    .. code-block:: python

        train_run(RunConfig(bank="toy", judges=("linear_probe",), timesteps=256))

    :param config: settings of the run
    :return: the run directory
    :raises FileNotFoundError: if there is no such bank
    :raises ValueError: if a judge or the evaluator cannot score the bank, the device is not there, or
        the run directory is another run's
    """
    start = time.perf_counter()
    check_device(config.device)
    bank = resolve_bank(config.bank)
    print(bank.describe())
    _check_judges(config, bank)
    directory = _run_directory(config)
    with exclusive(directory):
        _write_config(config, directory)
        _run(config, bank, directory)
    seconds = time.perf_counter() - start
    print(f"{seconds:.0f} s in all; everything is in {directory}")
    file = RECOMMENDED if config.judges else SELECTION
    print(f"to use a selection, add the images with selected = 1 in {directory / file}")
    return directory


def _run(config: RunConfig, bank: FeatureBank, directory: Path) -> None:
    """Train, select, judge and report."""
    # Learn and select. The agent sees the bank without its test split.
    model = _train_agent(config, bank, directory)
    policy = PolicySelector(model)
    policy.save(
        directory / "policy",
        {
            "bank": bank.source,
            "features": bank.extractor,
            "classes": ", ".join(bank.classes),
            "algorithm": f"{config.algorithm}, {config.timesteps:,} steps, seed {config.seed}",
            "reward": f"{config.reward} by {config.reward_evaluator or default_evaluator(bank)}",
        },
    )
    selection = policy.select(bank.sealed, config.seed)
    selection.save(directory / SELECTION)

    # The test split is opened from here on, after everything has been decided.
    comparisons = []
    agent = RunSelector(config, policy, bank)
    for judge in config.judges:
        comparison = _compare(config, bank, judge, agent, directory)
        print(f"\n{comparison_table(comparison)}\n\n{recommendation(comparison)[1]}")
        comparisons.append(comparison)
    _report(config, bank, comparisons, directory)


def load_policy(directory: str | Path) -> PolicySelector:
    """Return the policy of a run, as a selector.

    :param directory: run directory
    :raises ValueError: if it is no directory of a finished run
    """
    config, policy = stored_config(directory), Path(directory) / "policy"
    if not policy.is_dir():
        raise ValueError(f"{directory} has no policy; the run has not finished its training")
    return PolicySelector.load(policy, config.device)


def report_run(directory: str | Path) -> Path:
    """Write the report of a run again, and return its file.

    Selections and retrainings that the run has stored are not made again, unless another version of
    this library made them.

    :param directory: run directory
    :raises ValueError: if it is no directory of a finished run, or its bank is another one now
    """
    directory = Path(directory)
    config = stored_config(directory)
    bank = resolve_bank(config.bank)
    _check_judges(config, bank)
    policy = load_policy(directory)
    selection = Selection.load(directory / SELECTION)
    if (policy.select(bank.sealed, config.seed).mask != selection.mask).any():
        raise ValueError(
            f"{config.bank} is another bank now than that of the run {directory}, or another version "
            "of this library scores its candidates in another way; train again"
        )
    agent = RunSelector(config, policy, bank)
    comparisons = [_compare(config, bank, judge, agent, directory) for judge in config.judges]
    _report(config, bank, comparisons, directory)
    return directory / "report.html"


def stored_config(directory: str | Path) -> RunConfig:
    """Return the configuration of a run.

    :param directory: run directory
    :raises ValueError: if it is none
    """
    file = Path(directory) / "config.json"
    if not file.is_file():
        raise ValueError(f"{directory} is no directory of a run; it has no config.json")
    try:
        return RunConfig(**json.loads(file.read_text(encoding="utf-8"))["arguments"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no configuration of a run ({error})") from error


def _check_judges(config: RunConfig, bank: FeatureBank) -> None:
    """Refuse a bank that cannot be judged, before the training and not after it."""
    if config.judges and "test" not in bank.splits:
        raise ValueError(
            f"{config.bank} has no test split to compare on; give it one, or no judges "
            "(--judges without a name) for the selection alone"
        )
    for judge in config.judges:
        make_evaluator(judge, bank, **config.evaluator_settings(judge))


def _run_directory(config: RunConfig) -> Path:
    """Return the run directory that is asked for, or one by time and bank."""
    now = time.strftime("%Y%m%d-%H%M%S")
    return Path(config.out or f"runs/{now}-{Path(config.bank).stem}-seed{config.seed}")


def _write_config(config: RunConfig, directory: Path) -> None:
    """Write the configuration and versions into the run directory.

    :raises ValueError: if it holds a run of another configuration
    """
    file = directory / "config.json"
    arguments = json.loads(json.dumps(asdict(config.resolved())))
    if file.exists():
        theirs = json.loads(file.read_text(encoding="utf-8"))["arguments"]
        differing = [
            f"{name}: {theirs.get(name)} → {value}"
            for name, value in arguments.items()
            if theirs.get(name) != value and name != "out"
        ]
        if differing:
            raise ValueError(
                f"{directory} holds a run of another configuration (theirs → yours: "
                f"{', '.join(differing)}); give another --out"
            )
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gymnasium": gymnasium.__version__,
        "stable_baselines3": stable_baselines3.__version__,
    }
    with atomic_write(file) as path:
        path.write_text(json.dumps({"arguments": arguments, "versions": versions}, indent=2))


def _train_agent(config: RunConfig, bank: FeatureBank, directory: Path) -> OnPolicyAlgorithm:
    """Train the agent, and write its metrics and ``model.zip``."""
    name = config.reward_evaluator or default_evaluator(bank)
    with _rewarding(config, bank, name) as evaluator:
        return _learn(config, bank, name, evaluator, directory)


def _learn(
    config: RunConfig, bank: FeatureBank, name: str, evaluator: Evaluator, directory: Path
) -> OnPolicyAlgorithm:
    """Train the agent with an evaluator of that name."""
    model, rate = _new_agent(config, bank, evaluator)
    model.set_logger(run_logger(directory))
    print(
        f"{config.algorithm} on {model.device}, {config.timesteps:,} steps, "
        f"reward {config.reward} by {name}, from {rate:.0%} of the candidates; "
        f"run directory {directory}"
    )
    if not HAS_TRAINING_BAR:
        print('no progress bar: pip install "synthselect[train]"')

    # Training. SelectionMetrics writes the log in the place of SB3.
    model.learn(
        config.timesteps,
        callback=SelectionMetrics(),
        log_interval=None,  # type: ignore[arg-type]
        progress_bar=training_bar(),
    )
    model.logger.close()
    with atomic_write(directory / "model.zip") as path:
        # The last observation is a batch of features per environment, no part of the policy.
        model.save(path, exclude=["_last_obs"])
    return model


def _new_agent(
    config: RunConfig, bank: FeatureBank, evaluator: Evaluator
) -> tuple[OnPolicyAlgorithm, float]:
    """Return an agent before its training, and the share of candidates that it begins with.

    That is the size of a random selection that scores best.
    """
    env = SelectionVecEnv(bank, config.n_envs, evaluator, config.reward)
    env.seed(config.seed)
    rate = best_random_rate(bank.sealed, evaluator, config.reward, config.seed)
    model = config.algorithm_class(
        TransformerPolicy,
        env,
        policy_kwargs={"width": config.width, "initial_rate": rate},
        seed=config.seed,
        device=config.device,
        **config.algorithm_settings,
    )
    return model, rate


class RunSelector(Selector):
    """The policy of a run; on another bank than the run's, one that is trained as it was.

    :param config: settings of the run
    :param policy: its policy
    :param bank: its bank
    """

    is_rl = True

    def __init__(self, config: RunConfig, policy: PolicySelector, bank: FeatureBank) -> None:
        self.config = config
        self.policy = policy
        self.name = policy.name
        self.evaluations = policy.evaluations
        self.evaluator = config.reward_evaluator
        self._made = {bank.digest: policy}

    def settings(self) -> dict[str, object]:
        """Return those of policy and run, and the kind of device: each draws other random numbers."""
        arguments = asdict(replace(self.config.resolved(), out=None))
        device = pick_device(self.config.device).type
        return {"policy": self.policy.settings(), "run": arguments, "device": device}

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Keep what the policy keeps, or one that is trained by the run's own seed."""
        if bank.digest not in self._made:
            name = self.evaluator or default_evaluator(bank)
            settings = self.config.evaluator_settings(name)
            model, _ = _new_agent(self.config, bank, make_evaluator(name, bank, **settings))
            model.learn(self.config.timesteps)
            self._made[bank.digest] = PolicySelector(model)
        return self._made[bank.digest].select(bank, seed)


@contextmanager
def _rewarding(config: RunConfig, bank: FeatureBank, name: str) -> Iterator[Evaluator]:
    """Yield the evaluator that rewards. One that retrains is cached, and spread over the cores."""
    evaluator = make_evaluator(name, bank.sealed, **config.evaluator_settings(name))
    if name not in RETRAINING:
        yield evaluator
        return
    most = (config.timesteps + RATE_EVALUATIONS) * (config.folds or 1)
    print(
        f"{most:,} retrainings at most; finished ones are kept in "
        f"{RETRAINED}. After an interruption, the same command continues with them"
    )
    with spread(evaluator) as parallel:
        yield CachedEvaluator(parallel, RETRAINED)


def _compare(
    config: RunConfig, bank: FeatureBank, judge: str, agent: RunSelector, directory: Path
) -> Comparison:
    """Compare the agent with the baselines under one judge."""
    contenders: list[str | Selector] = [*_baselines(config, bank), agent]
    if judge in RETRAINING:
        print(f"\nretraining {judge} on each of {len(contenders)} selections", end="")
        print(_slowness(config.device, judge), flush=True)

    return compare_by(config, bank, judge, contenders, directory / judge)


def _baselines(config: RunConfig, bank: FeatureBank) -> list[str]:
    """Return the selectors that a run's policy is compared with."""
    random = ["random@2"]
    if len(bank.candidates) < 3 * len(bank.train):
        random = ["random"]
    elif config.folds:
        random = ["random@1", "random@2", "random@4"]
    return ["none", "all", *random, *ORDERS]


def compare_by(
    config: RunConfig,
    bank: FeatureBank,
    judge: str,
    contenders: Sequence[str | Selector],
    directory: Path,
    workers: int | None = None,
) -> Comparison:
    """Compare selectors under one judge. Retrainings are spread over the cores, with bars.

    :param config: settings of the judge, the rounds and the seed
    :param bank: bank with a test split
    :param judge: name of the classifier
    :param contenders: selectors, or their names
    :param directory: folder of the results, with which an interrupted comparison goes on
    :param workers: number of processes; None for one per core, or one on a GPU
    """
    retrains = judge in RETRAINING
    evaluator = make_evaluator(judge, bank.sealed, **config.evaluator_settings(judge))
    n_selections = config.rounds * len(contenders)
    with (
        spread(evaluator, workers) if retrains else nullcontext(evaluator) as classifier,
        progress_bar(n_selections, "selection", "selecting", shown=retrains) as selecting,
        progress_bar(n_selections, "selection", "retraining", shown=retrains) as bar,
    ):
        return compare(
            bank,
            contenders,
            config.rounds,
            classifier,
            seed=config.seed,
            directory=directory,
            on_outcome=lambda _: bar.update(),
            on_selection=lambda _: selecting.update(),
        )


def _slowness(device: str, judge: str) -> str:
    """Return a warning where retraining takes long, else nothing."""
    if judge != "resnet34" or has_bfloat16(pick_device(device)):
        return ""
    return (
        "; without bf16 instructions, several minutes each. "
        "The judge small_cnn (--judges small_cnn) needs seconds"
    )


def _report(
    config: RunConfig,
    bank: FeatureBank,
    comparisons: Sequence[Comparison],
    directory: Path,
) -> None:
    """Write what is recommended, and the report about the last judge's comparison."""
    if comparisons:
        last = comparisons[-1]
        last.of(last.recommended())[0].selection.save(directory / RECOMMENDED)
        decision, sentence = recommendation(last)
        with atomic_write(directory / DECISION) as path:
            path.write_text(json.dumps({"decision": decision, "sentence": sentence}, indent=2))
    if config.judges == ("linear_probe",):
        print(
            "\nThat is the word of a linear probe. Full retraining does not always agree; "
            "the judge small_cnn (--judges small_cnn) retrains."
        )
    if not comparisons:
        return
    if importlib.util.find_spec("matplotlib") is None:
        print('\nno report: pip install "synthselect[report]"')
        return
    report = write_report(
        directory,
        bank,
        comparisons[-1],
        history=read_history(directory / "metrics.csv"),
        configuration=json.loads((directory / "config.json").read_text()),
        others=comparisons[:-1],
        seed=config.seed,
    )
    print(f"\nreport with images: {report}")
