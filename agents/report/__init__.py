"""Tables, charts and images of comparisons, and one HTML file with all of them."""

from agents.report.charts import (
    centroid_histogram,
    discovery_curve,
    feature_map,
    gap_chart,
    learning_curves,
    read_history,
    selection_rates,
)
from agents.report.flaw_detection import discovery, flaw_detection_metrics
from agents.report.html import write_report
from agents.report.image_rows import kept_and_discarded, most_and_least_wanted, real_and_candidates
from agents.report.plotting import save_figure
from agents.report.tables import (
    comparison_latex,
    comparison_markdown,
    comparison_table,
    recommendation,
)

truth_figures = flaw_detection_metrics
"""Name in 0.1."""

__all__ = [
    "centroid_histogram",
    "comparison_latex",
    "comparison_markdown",
    "comparison_table",
    "discovery",
    "discovery_curve",
    "feature_map",
    "flaw_detection_metrics",
    "gap_chart",
    "kept_and_discarded",
    "learning_curves",
    "most_and_least_wanted",
    "read_history",
    "real_and_candidates",
    "recommendation",
    "save_figure",
    "selection_rates",
    "write_report",
]
