"""Write a selector, and compare it with others on the test split.

python examples/custom_selector.py
"""

from agents.evaluation import compare
from agents.report import comparison_table
from agents.selectors import RatioSelector
from synthselect_env import load_bank

BANK = "toy"  # pcam, cervical and pcam-planted take seconds, too
ROUNDS = 3


class NearestRealSelector(RatioSelector):
    """Keep the half of each class that is most similar to a real image of its class."""

    name = "nearest real"

    def score(self, bank, seed):
        """Return one score per candidate; the highest of each class are kept."""
        real, candidates = bank.train, bank.candidates
        similarity = unit(candidates.features) @ unit(real.features).T  # (n, m)
        other_class = candidates.labels[:, None] != real.labels
        similarity[other_class] = -1
        return similarity.max(1)


def unit(features):
    """Return rows of length 1."""
    return features / (features**2).sum(1, keepdims=True) ** 0.5


def main(bank=BANK, rounds=ROUNDS):
    selectors = ["none", "random", "centroid", NearestRealSelector(ratio=0.5)]
    comparison = compare(load_bank(bank), selectors, rounds, classifier="linear_probe")
    print(comparison_table(comparison))


if __name__ == "__main__":
    main()
