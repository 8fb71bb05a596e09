"""An environment for choosing which synthetic medical images are worth adding to a training set.

Importing the package registers ``SynthSelect-PCam-v0``, ``SynthSelect-Cervical-v0``,
``SynthSelect-PCamPlanted-v0`` and ``SynthSelect-Toy-v0`` with Gymnasium.
"""

from synthselect_env import _former
from synthselect_env.bank import FeatureBank, Retrainings, Selection, load_bank
from synthselect_env.data import Dataset, Split
from synthselect_env.envs import SelectionVecEnv, SyntheticSelectionEnv
from synthselect_env.registration import register_envs

__version__ = "0.2.0"

register_envs()
_former.keep_former_modules(__name__, _former.MODULES, _former.NAMES)

__all__ = [
    "Dataset",
    "FeatureBank",
    "Retrainings",
    "Selection",
    "SelectionVecEnv",
    "Split",
    "SyntheticSelectionEnv",
    "__version__",
    "load_bank",
    "register_envs",
]
