"""The selectors that learn nothing: none, all, random, centroid distance."""

from __future__ import annotations

import numpy as np

from agents.selectors.base import RatioSelector, Selector
from synthselect_env import FeatureBank, Selection


class NoneSelector(Selector):
    """Adds no candidate: the classifier of the real images alone."""

    name = "none"

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Keep nothing."""
        n = len(bank.candidates)
        return Selection.of(bank, np.zeros(n, bool), np.zeros(n), self.name)


class AllSelector(Selector):
    """Adds every candidate."""

    name = "all"

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Keep everything."""
        n = len(bank.candidates)
        return Selection.of(bank, np.ones(n, bool), np.ones(n), self.name)


class OracleSelector(Selector):
    """Adds every sound candidate and no other: what is to be reached on a bank of known truth, and no method."""

    name = "oracle"
    knows_truth = True

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Keep what is known to be sound.

        :raises ValueError: when the bank does not know the truth
        """
        if bank.candidates.flaw is None:
            raise ValueError(
                f"{bank.source}: candidates/flaw is missing; the oracle needs a bank of known truth, e.g. load_bank('pcam-planted')"
            )
        sound = bank.candidates.flaw == 0
        return Selection.of(bank, sound, sound.astype(float), self.name)


class RandomSelector(RatioSelector):
    """Adds a random share of each class."""

    name = "random"

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Uniform random numbers."""
        return np.random.default_rng(seed).random(len(bank.candidates))


class CentroidSelector(RatioSelector):
    """Adds the candidates nearest to their class centroid, by cosine distance of features (the paper's best baseline)."""

    name = "centroid"

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Minus the cosine distance."""
        return -bank.centroid_distances
