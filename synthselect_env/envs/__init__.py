"""Selection -> reward: observations, episodes, the environment and its wrappers."""

from synthselect_env.envs.selection_env import SyntheticSelectionEnv
from synthselect_env.envs.vec_env import SelectionVecEnv

__all__ = ["SelectionVecEnv", "SyntheticSelectionEnv"]
