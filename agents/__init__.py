"""Who selects, and how well: policies, selectors and the protocol that compares them."""

from agents.policies import TransformerPolicy

__all__ = ["TransformerPolicy"]
