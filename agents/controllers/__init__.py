"""Networks that read a batch of candidates: (batch, n, d) -> (batch, n, h), with a pooled state for the value."""

from agents.controllers.base import Controller
from agents.controllers.gru import GRUAttentionController, GRUController
from agents.controllers.transformer import TransformerController

__all__ = ["Controller", "GRUAttentionController", "GRUController", "TransformerController"]
