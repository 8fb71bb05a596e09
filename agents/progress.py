"""Progress bars where tqdm is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HAS_TQDM = importlib.util.find_spec("tqdm") is not None
"""Whether bars are drawn."""

HAS_TRAINING_BAR = HAS_TQDM and importlib.util.find_spec("rich") is not None
"""Whether SB3 can draw its own bar."""


_hidden = False


@contextmanager
def hidden() -> Iterator[None]:
    """Draw no bars inside the block."""
    global _hidden
    before, _hidden = _hidden, True
    try:
        yield
    finally:
        _hidden = before


def training_bar() -> bool:
    """Return whether SB3 is to draw its own bar."""
    return HAS_TRAINING_BAR and not _hidden


class SilentBar:
    """A stand-in for a bar of tqdm that counts and draws nothing.

    :param initial: number of units done before
    """

    def __init__(self, initial: int = 0) -> None:
        self.n = initial

    def __enter__(self) -> SilentBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        """Count n units."""
        self.n += n

    def set_postfix(self, *_: object, **__: object) -> None:
        """Draw nothing."""


def progress_bar(
    total: int, unit: str, description: str | None = None, initial: int = 0, shown: bool = True
) -> Any:
    """Return a bar of tqdm, or one that draws nothing where tqdm is missing.

    :param total: number of units in all
    :param unit: name of a unit
    :param description: text before the bar
    :param initial: number of units done before
    :param shown: whether to draw the bar
    """
    if not HAS_TQDM or _hidden or not shown:
        return SilentBar(initial)
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, desc=description, initial=initial)
