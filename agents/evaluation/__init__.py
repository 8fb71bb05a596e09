"""Evaluation of selectors: the comparison protocol and confidence intervals."""

from agents.evaluation.bootstrap import half_interval, paired_bootstrap
from agents.evaluation.comparison import compare
from agents.evaluation.outcomes import Comparison, Outcome

__all__ = ["Comparison", "Outcome", "compare", "half_interval", "paired_bootstrap"]
