"""FeatureBank: features of real images and candidates, and how a bank is built and stored."""

from synthselect_env.bank.batching import N_BATCHES
from synthselect_env.bank.embedded import EMBEDDED, load_bank, resolve_bank
from synthselect_env.bank.feature_bank import SPLITS, FeatureBank
from synthselect_env.bank.retrainings import Retrainings
from synthselect_env.bank.selection import Selection

__all__ = [
    "EMBEDDED",
    "N_BATCHES",
    "SPLITS",
    "FeatureBank",
    "Retrainings",
    "Selection",
    "load_bank",
    "resolve_bank",
]
