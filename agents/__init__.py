"""Who selects, and how well: policies, algorithms, selectors and the protocol that compares them."""

from agents.credit_ppo import CreditPPO
from agents.defaults import CREDIT_PPO_DEFAULTS, PPO_DEFAULTS
from agents.policies import GRUAttentionPolicy, GRUPolicy, TransformerPolicy
from agents.reinforce import REINFORCE

__all__ = [
    "CREDIT_PPO_DEFAULTS",
    "PPO_DEFAULTS",
    "REINFORCE",
    "CreditPPO",
    "GRUAttentionPolicy",
    "GRUPolicy",
    "TransformerPolicy",
]
