"""Choose which real images to annotate next. Candidates are real images without labels.

python examples/active_learning.py
"""

import numpy as np
from stable_baselines3 import PPO

from agents import PPO_DEFAULTS, TransformerPolicy
from agents.selectors import PolicySelector
from synthselect_env import Dataset, FeatureBank, SelectionVecEnv, load_bank
from synthselect_env.training.config import SMALL
from synthselect_env.training.trainer import train_classifier

STRATEGIES = ("random", "entropy", "core-set", "BADGE", "PPO")


def spread_out(vectors, known, n, rng=None):
    """Take n vectors far from those known and from each other; with rng, by odds of the square."""
    distance = np.full(len(vectors), 1e12)
    taken = []
    for vector in known:
        distance = np.minimum(distance, ((vectors - vector) ** 2).sum(1))
    for _ in range(n):
        odds = distance / distance.sum()
        taken.append(odds.argmax() if rng is None else rng.choice(len(odds), p=odds))
        distance = np.minimum(distance, ((vectors - vectors[taken[-1]]) ** 2).sum(1))
    return np.array(taken)


def by_policy(annotated, labels, pool, predicted, classes, n, seed):
    """Take what a policy keeps that is rewarded for candidates with predicted labels."""
    train = np.random.default_rng(seed).permutation(len(annotated)) < len(annotated) // 2
    parts = [Dataset(annotated[part], labels[part]) for part in (train, ~train)]
    bank = FeatureBank(*parts, None, Dataset(pool, predicted), classes=classes)
    env = SelectionVecEnv(bank, n_envs=8, evaluator="linear_probe")
    model = PPO(TransformerPolicy, env, seed=seed, **PPO_DEFAULTS).learn(512)
    return np.argsort(-PolicySelector(model).select(bank, seed).scores)[:n]


def main(start=64, n=32, rounds=5, pool_size=1500, seeds=2, config=SMALL):
    pcam = load_bank("pcam")
    test = pcam.test.pixels(config.size), pcam.test.labels
    for strategy in STRATEGIES:
        curves = []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            pool = pcam.train.subset(rng.permutation(len(pcam.train))[:pool_size])
            images, labels, curve = pool.pixels(config.size), pool.labels, []
            own = np.arange(start)  # positions of the annotated images
            for _ in range(rounds + 1):
                now = images[own], labels[own], *test, 2, seed, config, "cpu"
                network = train_classifier(*now, scored_epochs=1)
                curve.append(network.history["accuracy"][-1])
                rest = np.setdiff1d(np.arange(pool_size), own)
                p = network.log_probabilities(images[rest]).exp().numpy()
                known, unknown = network.features(images[own]), network.features(images[rest])
                if strategy == "random":
                    chosen = rng.permutation(len(rest))[:n]
                elif strategy == "entropy":
                    chosen = (p * np.log(p + 1e-9)).sum(1).argsort()[:n]
                elif strategy == "core-set":
                    chosen = spread_out(unknown, known, n)
                elif strategy == "BADGE":  # gradients of the last layer, drawn as by k-means++
                    surprise = p - np.eye(2)[p.argmax(1)]
                    gradients = (surprise[:, :, None] * unknown[:, None]).reshape(len(rest), -1)
                    chosen = spread_out(gradients, [], n, rng)
                else:
                    answers = labels[own], unknown, p.argmax(1), pcam.classes
                    chosen = by_policy(known, *answers, n, seed)
                own = np.concatenate([own, rest[chosen]])  # their labels are revealed
            curves.append(curve)
        print(f"{strategy:9}", *(f"{value:.3f}" for value in np.mean(curves, 0)), flush=True)


if __name__ == "__main__":
    main()
