"""``synthselect select``: keep the candidates that a selector or a trained run keeps.

synthselect select --bank mine.h5 --by confidence@2 --out selection.csv
synthselect select --bank new.h5 --by runs/mine --out selection.csv
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.cli.common import Command, Facts
from agents.runs import load_policy
from agents.selectors import SELECTORS, Selector, make_selector
from synthselect_env.bank import resolve_bank


@dataclass(frozen=True, kw_only=True)
class Select(Command):
    """Keep the candidates of a bank that a selector, or the policy of a run, keeps.

    :param bank: file, or name of an embedded bank
    :param by: name of a selector, or directory of a run. A size may follow a name: confidence@2
        keeps two synthetic images per real training image, confidence@50% half of the pool
    :param out: CSV file to write
    :param seed: random seed
    """

    bank: str
    by: str
    out: Path
    seed: int = 0

    def run(self) -> Facts:
        """Select, and write the selection."""
        bank = resolve_bank(self.bank)
        selection = find_selector(self.by).select(bank.sealed, self.seed)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        selection.save(self.out)
        print(f"{selection.source} keeps {selection.count:,} of {len(selection):,}: {self.out}")
        return {
            "selection": str(self.out),
            "kept": selection.count,
            "candidates": len(selection),
        }


def find_selector(name: str) -> Selector:
    """Return a selector by name, or the policy of a run.

    :param name: name of a selector, with or without a size, or directory of a run
    :raises ValueError: if there is neither, or a size makes no sense
    """
    if name not in SELECTORS and Path(name).is_dir():
        return load_policy(name)
    return make_selector(name)
