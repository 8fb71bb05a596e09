"""Who selects, and how well: policies, algorithms, selectors and the protocol that compares them."""

from agents.credit_ppo import CreditPPO
from agents.policies import GRUAttentionPolicy, GRUPolicy, TransformerPolicy
from agents.reinforce import REINFORCE

__all__ = ["REINFORCE", "CreditPPO", "GRUAttentionPolicy", "GRUPolicy", "TransformerPolicy"]
