"""Write an evaluator, and train PPO on its rewards.

python examples/custom_evaluator.py
"""

import numpy as np
from stable_baselines3 import PPO

from agents import PPO_DEFAULTS, TransformerPolicy
from agents.selectors import PolicySelector
from synthselect_env import SelectionVecEnv, load_bank
from synthselect_env.envs.rewards import Reward
from synthselect_env.evaluators import Evaluations, Evaluator

BANK = "toy"
TIMESTEPS = 2048


class NearestCentroidEvaluator(Evaluator):
    """Label each validation image by the nearest class mean of real and selected images."""

    def evaluate(self, selections, seed):
        """Return the validation metrics of k selections.  bool (k, n)"""
        return Evaluations.from_metrics({"accuracy": [self.accuracy(s) for s in selections]})

    def accuracy(self, selection):
        train, candidates, valid = self.bank.train, self.bank.candidates, self.bank.valid
        features = np.concatenate([train.features, candidates.features[selection]])
        labels = np.concatenate([train.labels, candidates.labels[selection]])
        classes = range(len(self.bank.classes))
        means = np.stack([features[labels == c].mean(0) for c in classes])  # (c, d)
        distances = ((valid.features[:, None] - means) ** 2).sum(2)  # (m, c)
        return (distances.argmin(1) == valid.labels).mean()


def main(bank=BANK, timesteps=TIMESTEPS, seed=0):
    bank = load_bank(bank)
    evaluator = NearestCentroidEvaluator(bank)
    reward = Reward("accuracy", reference="previous", scale=100.0)
    env = SelectionVecEnv(bank, n_envs=16, evaluator=evaluator, reward=reward)
    env.seed(seed)
    model = PPO(TransformerPolicy, env, seed=seed, **PPO_DEFAULTS).learn(timesteps)

    selection = PolicySelector(model).select(bank, seed)
    masks = np.stack([np.zeros_like(selection.mask), selection.mask])
    nothing, selected = evaluator.evaluate(masks, seed).accuracy
    print(f"validation accuracy: {nothing:.3f} without candidates")
    print(f"{selected:.3f} with the {selection.count} of {len(selection)} that PPO keeps")
    return selection


if __name__ == "__main__":
    main()
