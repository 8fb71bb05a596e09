"""RecurrentPPO's policy for multi-binary actions.

It needs sb3-contrib: ``pip install "synthselect[contrib]"``.
"""

from __future__ import annotations

import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates


class RecurrentBinaryPolicy(RecurrentActorCriticPolicy):
    """``MlpLstmPolicy`` of sb3-contrib that takes stored decisions as floats.

    sb3-contrib (2.9 at least) passes them to the Bernoulli distribution as integers, which its
    cross-entropy does not accept.

    .. code-block:: python

        model = RecurrentPPO(RecurrentBinaryPolicy, env, n_steps=8, batch_size=8).learn(64)
    """

    def evaluate_actions(  # type: ignore[override]
        self,
        obs: torch.Tensor,
        actions: torch.Tensor,
        lstm_states: RNNStates,
        episode_starts: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Evaluate stored actions under the current policy.

        :param obs: observations (b, …)
        :param actions: decisions, 0 or 1 (b, n)
        :param lstm_states: states of the LSTM
        :param episode_starts: 1 where an episode begins (b,)
        :return: values (b, 1), log-probabilities (b,) and entropies (b,)
        """
        return super().evaluate_actions(obs, actions.float(), lstm_states, episode_starts)
