"""Figures of a selection: kept and discarded images, and centroid distances."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.report import centroid_histogram, kept_and_discarded, save_figure
from agents.selectors import OracleSelector
from synthselect_env import FeatureBank


def test_images(toy: FeatureBank, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    selection = OracleSelector().select(toy, 0)
    figure = kept_and_discarded(toy, selection)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    kept = [int((selection.mask & (toy.candidates.labels == i)).sum()) for i in (0, 1)]
    assert titles == [
        f"left, kept: {kept[0]}",
        f"left, discarded: {32 - kept[0]}",
        f"right, kept: {kept[1]}",
        f"right, discarded: {32 - kept[1]}",
    ]
    save_figure(figure, tmp_path / "kept.png")
    histogram = centroid_histogram(toy, {"oracle": selection})
    pool = histogram.axes[0].patches[:40]
    assert sum(bar.get_height() for bar in pool) == 32
    save_figure(histogram, tmp_path / "distances.svg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["distances.svg", "kept.png"]
    with pytest.raises(ValueError, match="nothing to plot"):
        kept_and_discarded(replace(toy, candidates=replace(toy.candidates, images=None)), selection)
