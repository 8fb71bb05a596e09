"""Networks that read a batch of candidates: (b, n, d) -> (b, n, h), (b, h)."""

from agents.controllers.base import Controller
from agents.controllers.gru import GRUAttentionController, GRUController
from agents.controllers.transformer import TransformerController

__all__ = ["Controller", "GRUAttentionController", "GRUController", "TransformerController"]
