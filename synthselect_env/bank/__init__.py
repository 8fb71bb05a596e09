"""FeatureBank: features of real images and candidates, and how a bank is built and stored."""

from synthselect_env.bank.feature_bank import N_BATCHES, SPLITS, FeatureBank

__all__ = ["N_BATCHES", "SPLITS", "FeatureBank"]
