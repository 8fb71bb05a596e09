"""``synthselect select``: keep the candidates that a selector or a trained run keeps.

synthselect select --bank mine.h5 --by confidence --out selection.csv
synthselect select --bank new.h5 --by runs/mine --out selection.csv
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.cli.common import Command, Facts
from agents.runs import load_policy
from agents.selectors import SELECTORS, RatioSelector, Selector
from synthselect_env.bank import resolve_bank


@dataclass(frozen=True, kw_only=True)
class Select(Command):
    """Keep the candidates of a bank that a selector, or the policy of a run, keeps.

    :param bank: file, or name of an embedded bank
    :param by: name of a selector, or directory of a run
    :param out: CSV file to write
    :param ratio: share of each class to keep, for selectors that order candidates
    :param seed: random seed
    """

    bank: str
    by: str
    out: Path
    ratio: float | None = None
    seed: int = 0

    def run(self) -> Facts:
        """Select, and write the selection."""
        bank = resolve_bank(self.bank)
        selection = find_selector(self.by, self.ratio).select(bank.sealed, self.seed)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        selection.save(self.out)
        print(f"{selection.source} keeps {selection.count:,} of {len(selection):,}: {self.out}")
        return {
            "selection": str(self.out),
            "kept": selection.count,
            "candidates": len(selection),
        }


def find_selector(name: str, ratio: float | None = None) -> Selector:
    """Return a selector by name, or the policy of a run.

    :param name: name of a selector, or directory of a run
    :param ratio: share of each class to keep; None for the selector's own
    :raises ValueError: if there is neither, or the selector has no ratio
    """
    if name not in SELECTORS and Path(name).is_dir():
        if ratio is not None:
            raise ValueError("a trained policy keeps as many as it learned to; leave --ratio out")
        return load_policy(name)
    if name not in SELECTORS:
        raise ValueError(
            f"{name!r} is neither the directory of a run nor a selector ({', '.join(SELECTORS)})"
        )
    kind = SELECTORS[name]
    if ratio is None:
        return kind()
    if not issubclass(kind, RatioSelector):
        raise ValueError(f"{name} decides on its own how many to keep; leave --ratio out")
    return kind(ratio)
