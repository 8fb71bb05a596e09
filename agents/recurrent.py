"""RecurrentPPO's policy for multi-binary actions.  Needs sb3-contrib: ``pip install "synthselect[contrib]"``."""

from __future__ import annotations

import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates


class RecurrentBinaryPolicy(RecurrentActorCriticPolicy):
    """sb3-contrib's ``MlpLstmPolicy`` with the stored bits as floats, for ``RecurrentPPO(RecurrentBinaryPolicy, env)``.

    sb3-contrib 2.9.2 hands the bits to the Bernoulli distribution as they are stored, as integers, which its cross-entropy refuses.
    """

    def evaluate_actions(  # type: ignore[override]
        self,
        obs: torch.Tensor,
        actions: torch.Tensor,
        lstm_states: RNNStates,
        episode_starts: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values, log-probabilities and entropies of stored actions.  (b, …), (b, n) -> (b, 1), (b,), (b,)"""
        return super().evaluate_actions(obs, actions.float(), lstm_states, episode_starts)
