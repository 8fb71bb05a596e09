"""Policies, algorithms and selectors, and the protocol that compares them."""

from agents.credit_ppo import CreditPPO
from agents.defaults import CREDIT_PPO_DEFAULTS, PPO_DEFAULTS
from agents.policies import GRUAttentionPolicy, GRUPolicy, TransformerPolicy
from agents.reinforce import REINFORCE
from agents.warm_start import best_random_rate
from synthselect_env._former import keep_former_modules

keep_former_modules(
    __name__,
    {
        "callbacks": ["runs"],
        "compare": ["evaluation.comparison"],
        "intervals": ["evaluation.bootstrap"],
        "report.figure": ["report.plotting"],
        "report.pictures": ["report.image_rows"],
        "report.truth": ["report.flaw_detection"],
    },
    {
        "kept_strips": "kept_rows",
        "real_strips": "real_rows",
        "truth_figures": "flaw_detection_metrics",
        "wanted_strips": "wanted_rows",
    },
)

__all__ = [
    "CREDIT_PPO_DEFAULTS",
    "PPO_DEFAULTS",
    "REINFORCE",
    "CreditPPO",
    "GRUAttentionPolicy",
    "GRUPolicy",
    "TransformerPolicy",
    "best_random_rate",
]
