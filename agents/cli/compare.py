"""``synthselect compare``: compare selectors and trained runs by retraining, on the test split.

synthselect compare --bank mine.h5 --by none all confidence runs/mine --out comparison
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.cli.common import Facts, SeededCommand
from agents.cli.select import find_selector
from agents.evaluation.outcomes import defaults, has_few_images
from agents.report import comparison_table, recommendation
from agents.runs import RunConfig, RunSelector, compare_by, stored_config
from agents.selectors import PolicySelector, Selector
from synthselect_env import FeatureBank
from synthselect_env.bank import resolve_bank
from synthselect_env.training.config import SMALL


@dataclass(frozen=True, kw_only=True)
class Compare(SeededCommand):
    """Compare selectors and trained runs by what a classifier gains from what they keep.

    :param bank: file, or name of an embedded bank
    :param by: names of selectors, or directories of runs; sizes as in ``select``, e.g. random@2
    :param out: directory of the results, with which an interrupted comparison goes on
    :param judge: classifier: small_cnn, resnet34 or linear_probe
    :param rounds: trainings of the classifier on each selection, with a seed each
    :param folds: folds of the real images by which validation scores are taken; those of the bank's
        retrainings unless given, and 0 for none
    :param workers: processes; one per core unless given, on a GPU one
    """

    bank: str
    by: tuple[str, ...]
    out: Path
    judge: str = SMALL.architecture
    rounds: int = 3
    folds: int | None = None
    workers: int | None = None

    def run(self) -> Facts:
        """Compare, and print the table."""
        bank = resolve_bank(self.bank)
        names = dict.fromkeys((*reversed(defaults(has_few_images(bank))), *self.by))
        contenders = [self._contender(name, bank) for name in names]
        folds = self.folds
        if bank.retrainings is not None:
            theirs = bank.retrainings.folds
            if folds is not None and (folds or None) != theirs:
                way = f"{theirs} folds" if theirs else "the validation split"
                raise ValueError(
                    f"--folds {folds}: the retrainings of {bank.source} were scored by {way}, and say "
                    f"nothing without a fold; leave it out, or: synthselect retrain --folds {folds} "
                    "--discard-existing"
                )
            folds = theirs
        config = RunConfig(
            folds=folds or None, rounds=self.rounds, seed=self.seed, device=self.device
        )
        comparison = compare_by(config, bank, self.judge, contenders, self.out, self.workers)
        print(f"{comparison_table(comparison)}\n\n{recommendation(comparison)[1]}")
        gains = {name: comparison.gain(name) for name in comparison.selectors}
        return {
            "comparison": str(self.out / "comparison.csv"),
            "recommended": comparison.recommended(),
            "gain_in_test_accuracy": {
                name: {"mean": mean, "low": low, "high": high}
                for name, (mean, low, high) in gains.items()
            },
        }

    def _contender(self, name: str, bank: FeatureBank) -> Selector:
        """Return a selector, or the agent of a run on this bank or another."""
        selector = find_selector(name)
        if not isinstance(selector, PolicySelector):
            return selector
        config = stored_config(name)
        if Path(config.bank).resolve() != Path(self.bank).resolve():
            return selector
        return RunSelector(config, selector, bank)
