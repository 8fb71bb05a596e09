"""Find the share of candidates at which a policy begins."""

from __future__ import annotations

import numpy as np

from synthselect_env import FeatureBank
from synthselect_env.envs.rewards import DEFAULT_REWARD, Reward, resolve_reward
from synthselect_env.evaluators import Evaluator
from synthselect_env.evaluators.design import SMALLEST

N_SIZES, N_DRAWS = 8, 4
"""Sizes that are tried, from the smallest of a design up, and random selections of each."""

RATES = (0.1, 0.9)
"""Range of the rate. A policy that keeps or discards fewer learns slowly which, and may not at all."""

EVALUATIONS = N_SIZES * N_DRAWS
"""Evaluations that :func:`best_random_rate` spends."""


def best_random_rate(
    bank: FeatureBank,
    evaluator: Evaluator,
    reward: str | Reward | dict[str, object] = DEFAULT_REWARD,
    seed: int = 0,
) -> float:
    """Return the share of candidates of which a random selection scores best.

    How many candidates are added matters as much as which, and a policy that begins far from the
    best number learns little else. What it gains is on the results page of
    ``benchmarks/recommendation.py``.

    .. code-block:: python

        env = SelectionVecEnv("toy", n_envs=16)
        start = {"initial_rate": best_random_rate(env.bank, env.evaluator)}
        PPO(TransformerPolicy, env, policy_kwargs=start, **PPO_DEFAULTS).learn(1024)

    :param bank: feature bank
    :param evaluator: evaluator of the reward
    :param reward: reward, whose metric decides
    :param seed: random seed of the selections and the evaluations
    """
    n = len(bank.candidates)
    smallest = min(max(SMALLEST * len(bank.train), 1), n)
    sizes = np.unique(np.geomspace(smallest, n, N_SIZES).round().astype(int))
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n) for _ in range(N_DRAWS)]
    masks = np.zeros((len(sizes), N_DRAWS, n), bool)
    for i, size in enumerate(sizes):
        for j, order in enumerate(orders):
            masks[i, j, order[:size]] = True
    evaluations = evaluator.evaluate(masks.reshape(-1, n), seed)
    values = resolve_reward(reward).value(evaluations).reshape(len(sizes), N_DRAWS)
    return float(np.clip(sizes[values.mean(1).argmax()] / n, *RATES))
