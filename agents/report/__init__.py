"""Tables and pictures."""

from agents.report.pictures import centroid_histogram, kept_and_discarded, save_figure
from agents.report.tables import comparison_table, verdict

__all__ = ["centroid_histogram", "comparison_table", "kept_and_discarded", "save_figure", "verdict"]
