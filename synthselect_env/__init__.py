"""An environment for choosing which synthetic medical images are worth adding to a training set.

Importing the package registers ``SynthSelect-PCam-v0``, ``SynthSelect-Cervical-v0``, ``SynthSelect-PCamPlanted-v0`` and
``SynthSelect-Toy-v0`` with Gymnasium.
"""

from synthselect_env.bank import FeatureBank
from synthselect_env.bank.embedded import load_bank
from synthselect_env.bank.selection import Selection
from synthselect_env.data.dataset import Retrainings, Split
from synthselect_env.envs.selection_env import SyntheticSelectionEnv
from synthselect_env.envs.vec_env import SelectionVecEnv
from synthselect_env.registration import register_envs

register_envs()

__all__ = ["FeatureBank", "Retrainings", "Selection", "SelectionVecEnv", "Split", "SyntheticSelectionEnv", "load_bank", "register_envs"]
