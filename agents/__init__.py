"""Who selects, and how well: policies, algorithms, selectors and the protocol that compares them."""

from agents.policies import GRUAttentionPolicy, GRUPolicy, TransformerPolicy
from agents.reinforce import REINFORCE

__all__ = ["REINFORCE", "GRUAttentionPolicy", "GRUPolicy", "TransformerPolicy"]
