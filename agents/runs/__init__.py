"""Training runs: their configuration, what they record, and all their steps in one call."""

from agents.runs.config import ALGORITHMS, JUDGES, RunConfig
from agents.runs.recording import MetricsCSV, SelectionMetrics, run_logger
from agents.runs.training import (
    DECISION,
    RECOMMENDED,
    RETRAINED,
    SELECTION,
    RunSelector,
    compare_by,
    load_policy,
    report_run,
    stored_config,
    train_run,
)

__all__ = [
    "ALGORITHMS",
    "DECISION",
    "JUDGES",
    "RECOMMENDED",
    "RETRAINED",
    "SELECTION",
    "MetricsCSV",
    "RunConfig",
    "RunSelector",
    "SelectionMetrics",
    "compare_by",
    "load_policy",
    "report_run",
    "run_logger",
    "stored_config",
    "train_run",
]
