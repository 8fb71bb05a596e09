"""Selectors that learn nothing: none, all, oracle, random and centroid distance."""

from __future__ import annotations

import numpy as np

from agents.selectors.base import RatioSelector, Selector
from synthselect_env import FeatureBank, Selection


class NoneSelector(Selector):
    """Add no candidate. The classifier trains on real images alone.

    .. code-block:: python

        NoneSelector().select(load_bank("toy"), seed=0)
    """

    name = "none"
    uses_labels = False

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Keep nothing."""
        n = len(bank.candidates)
        return Selection.of(bank, np.zeros(n, bool), np.zeros(n), self.name)


class AllSelector(Selector):
    """Add every candidate.

    .. code-block:: python

        AllSelector().select(load_bank("toy"), seed=0)
    """

    name = "all"
    uses_labels = False

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Keep everything."""
        n = len(bank.candidates)
        return Selection.of(bank, np.ones(n, bool), np.ones(n), self.name)


class OracleSelector(Selector):
    """Add exactly the sound candidates of a bank of known truth.

    This is the result to reach, and not a method: it reads ``bank.candidates.flaw``.

    .. code-block:: python

        bank = load_bank("pcam-planted")
        OracleSelector().select(bank, seed=0).count
    """

    name = "oracle"
    uses_labels = False
    knows_truth = True

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Keep the candidates that are known to be sound.

        :raises ValueError: if the bank does not know the truth
        """
        if bank.candidates.flaw is None:
            raise ValueError(
                f"{bank.source}: candidates/flaw is missing; "
                "the oracle needs a bank of known truth, e.g. load_bank('pcam-planted')"
            )
        sound = bank.candidates.flaw == 0
        return Selection.of(bank, sound, sound.astype(float), self.name)


class RandomSelector(RatioSelector):
    """Add a random share of each class.

    .. code-block:: python

        RandomSelector(ratio=0.3).select(load_bank("toy"), seed=0)

    :param ratio: see :class:`RatioSelector`
    """

    name = "random"
    uses_labels = False

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Return uniform random numbers.  (n,)"""
        return np.random.default_rng(seed).random(len(bank.candidates))


class CentroidSelector(RatioSelector):
    """Add the candidates nearest to their class centroid.

    Distances are cosine distances of features to the mean real feature of the class. This is the
    paper's best baseline.

    .. code-block:: python

        CentroidSelector(ratio=0.3).select(load_bank("toy"), seed=0)

    :param ratio: see :class:`RatioSelector`
    """

    name = "centroid"

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Return minus the cosine distance.  (n,)"""
        return -bank.centroid_distances
