from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.evaluation import Comparison
from agents.report import (
    discovery,
    discovery_curve,
    feature_map,
    flaw_detection_metrics,
    gap_chart,
    learning_curves,
    read_history,
    save_figure,
    selection_rates,
)
from agents.report.charts import principal_plane
from synthselect_env import FeatureBank, Selection

pytest.importorskip("matplotlib")

HISTORY = """\
rollout/selected,train/entropy_loss,time/total_timesteps,note
32,-3,8,a
,-2,16,
16,,24,b
"""


def test_history_is_read_with_its_gaps(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(HISTORY)
    history = read_history(tmp_path / "metrics.csv")
    assert history["rollout/selected"] == pytest.approx([32, np.nan, 16], nan_ok=True)
    assert np.isnan(history["note"]).all()

    rate, entropy = learning_curves(history, 64).axes
    assert rate.lines[0].get_xdata() == pytest.approx([8, 24])
    assert rate.lines[0].get_ydata() == pytest.approx([0.5, 0.25])
    assert entropy.lines[0].get_ydata() == pytest.approx([3, 2])


def test_learning_curves_show_the_entropy_of_credit_ppo() -> None:
    entropies = np.array([0.6, 0.5])
    (panel,) = learning_curves({"train/entropy_of_a_decision": entropies}, 64).axes
    assert panel.get_title(loc="left") == "entropy of a decision, nats"
    assert panel.lines[0].get_ydata() == pytest.approx(entropies)


def test_learning_curves_need_a_known_column() -> None:
    with pytest.raises(ValueError, match="is it a metrics.csv"):
        learning_curves({"note": np.ones(3)}, 64)


def test_gap_chart_shows_validation_minus_test(toy_comparison: Comparison) -> None:
    (axes,) = gap_chart(toy_comparison).axes
    gaps = [float(text.get_text().replace("−", "-")) for text in axes.texts]
    for name, gap in zip(toy_comparison.selectors, gaps):
        expected = np.mean([100 * outcome.gap for outcome in toy_comparison.of(name)])
        assert gap == pytest.approx(expected, abs=0.051)


def test_bars_are_selection_rates(toy: FeatureBank, toy_comparison: Comparison) -> None:
    bars = [bar.get_width() for bar in selection_rates(toy, toy_comparison).axes[0].patches]
    expected = []
    for label in (0, 1):  # the bars of a class, one per selector
        members = toy.candidates.labels == label
        for name in toy_comparison.selectors:
            masks = [outcome.selection.mask for outcome in toy_comparison.of(name)]
            expected.append(np.mean([100 * mask[members].mean() for mask in masks]))
    assert bars == pytest.approx(expected)


def test_legends_have_all_names(toy: FeatureBank, toy_comparison: Comparison) -> None:
    """matplotlib leaves out names with a leading underscore; long ones must fit the page."""
    bank = replace(toy, classes=("_left", "high-grade squamous intraepithelial lesion"))
    figure = selection_rates(bank, toy_comparison)
    (legend,) = figure.legends
    names = [text.get_text().lstrip("\u200b") for text in legend.get_texts()]
    assert names == list(bank.classes)

    figure.draw_without_rendering()
    box, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 and box.x1 <= page.x1


def test_map_has_a_panel_for_kept_and_one_for_discarded(
    toy: FeatureBank, toy_comparison: Comparison
) -> None:
    selection = toy_comparison.of("centroid")[0].selection
    titles = [axes.get_title() for axes in feature_map(toy, selection).axes]
    assert titles == [f"kept ({selection.count})", f"discarded ({64 - selection.count})"]


def test_plane_is_that_of_a_singular_value_decomposition() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1]
    plane, shares = principal_plane(rows)
    _, singular, axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    assert np.abs(plane.T @ axes[:2].T) == pytest.approx(np.eye(2), abs=1e-9)
    assert shares == pytest.approx((singular**2 / (singular**2).sum())[:2])


def test_discovery_curve_has_a_dot_at_what_was_kept() -> None:
    rng = np.random.default_rng(0)
    flaw = (rng.random(40) < 0.6).astype(np.int8)
    scores = rng.normal(size=40)
    selection = Selection(scores > 0.3, scores, range(40), range(40), "x")
    (axes,) = discovery_curve({"x": selection}, flaw).axes
    assert axes.lines[2].get_ydata() == pytest.approx(discovery(scores, flaw == 0))
    recall = flaw_detection_metrics(selection, flaw)["recall"]
    assert list(axes.collections[0].get_offsets()[0]) == pytest.approx([selection.count, recall])


def test_saving_needs_a_suffix(toy_comparison: Comparison, tmp_path: Path) -> None:
    figure = gap_chart(toy_comparison)
    save_figure(figure, tmp_path / "gap.png")
    assert (tmp_path / "gap.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="name the plot's format by a suffix"):
        save_figure(figure, tmp_path / "gap")
