"""Train any Stable-Baselines3 algorithm on the environment, and select with it.

python examples/plug_in_any_algorithm.py SAC      # some need: pip install "synthselect[contrib]"
"""

import pkgutil
import sys

import gymnasium as gym

from agents.extractors import CandidateProjection
from agents.policies import SelectionPolicy
from agents.selectors import PolicySelector, mask_of_episode
from synthselect_env import Selection
from synthselect_env.envs.wrappers import BoxThresholdWrapper, PerCandidateWrapper

OURS = {"policy": "agents:TransformerPolicy", "n_steps": 8}
SMALL = {"features_extractor_class": CandidateProjection, "net_arch": [64]}
THEIRS = {"policy": "MlpPolicy", "policy_kwargs": SMALL, "batch_size": 8}
RECURRENT = {**THEIRS, "policy": "agents.recurrent:RecurrentBinaryPolicy", "n_steps": 8}
# REAL: a number per candidate; its buffer holds whole batches. SINGLE: one candidate per step.
REAL = {**THEIRS, "batch_size": 16, "buffer_size": 512, "learning_starts": 16}
SINGLE = {**REAL, "batch_size": 64, "buffer_size": 32_768, "target_update_interval": 1024}
ALGORITHMS = {  # class, settings, wrapper of the environment
    "PPO": ("stable_baselines3:PPO", {**OURS, "batch_size": 8}, None),
    "A2C": ("stable_baselines3:A2C", OURS, None),
    "REINFORCE": ("agents:REINFORCE", {**OURS, "baseline": "moving_average"}, None),
    "TRPO": ("sb3_contrib:TRPO", {**OURS, "n_steps": 128, "cg_max_steps": 5}, None),
    "MaskablePPO": ("sb3_contrib:MaskablePPO", {**THEIRS, "n_steps": 8}, None),
    "RecurrentPPO": ("sb3_contrib:RecurrentPPO", RECURRENT, None),
    "SAC": ("stable_baselines3:SAC", REAL, BoxThresholdWrapper),
    "TD3": ("stable_baselines3:TD3", REAL, BoxThresholdWrapper),
    "TQC": ("sb3_contrib:TQC", REAL, BoxThresholdWrapper),
    "CrossQ": ("sb3_contrib:CrossQ", REAL, BoxThresholdWrapper),
    "DQN": ("stable_baselines3:DQN", SINGLE, PerCandidateWrapper),
    "QRDQN": ("sb3_contrib:QRDQN", SINGLE, PerCandidateWrapper),
}


def main(name="PPO", timesteps=512, env="synthselect_env:SynthSelect-Toy-v0", out="runs/plug-in"):
    algorithm, settings, wrapper = ALGORITHMS[name]
    if ":" in (policy := settings["policy"]):
        policy = pkgutil.resolve_name(policy)
    env = wrapper(gym.make(env)) if wrapper else gym.make(env)
    model = pkgutil.resolve_name(algorithm)(env=env, seed=0, **{**settings, "policy": policy})
    model.learn(timesteps)
    if isinstance(model.policy, SelectionPolicy):
        selection = PolicySelector(model).select(env.unwrapped.bank, seed=0)
    else:  # by the most probable actions of an episode
        mask = mask_of_episode(model, env, seed=0)
        selection = Selection.of(env.unwrapped.bank, mask, mask.astype(float), name)
    selection.save(f"{out}/{name}.csv")
    model.save(f"{out}/{name}.zip")
    print(f"{name} keeps {selection.count} of {len(selection)} candidates; saved in {out}")
    return model, env, selection


if __name__ == "__main__":
    main(*sys.argv[1:2])
