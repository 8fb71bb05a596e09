"""Stable-Baselines3 policies over a controller."""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from agents.controllers import (
    Controller,
    GRUAttentionController,
    GRUController,
    TransformerController,
)
from synthselect_env.envs.episodes import RowsBox

KEY_COLUMNS = 8
"""Leading columns of an observation whose sum is the key of :func:`distinct`."""

DECODER_STD = 0.01
"""Standard deviation of the decoder's first weights. The bias then sets the selection rate."""


CHANGED_OBSERVATIONS = (
    "VecNormalize or another wrapper changes the observations, so that padding and classes can no "
    "longer be told, and a policy would select from other rows than it was trained on; rows are "
    "scaled already: train with VecNormalize(env, norm_obs=False)"
)
"""Error of a policy that is shown other rows than the environment's."""


def check_not_normalised(model: BaseAlgorithm) -> None:
    """Raise an error if VecNormalize changes the model's observations.

    :param model: SB3 algorithm
    :raises ValueError: if it does
    """
    normalised = model.get_vec_normalize_env()
    if normalised is not None and normalised.norm_obs:
        raise ValueError(CHANGED_OBSERVATIONS)


class CandidateRows(BaseFeaturesExtractor):
    """Pass the observation on as it is, one row per candidate.

    SB3's default extractor would flatten it.

    :param observation_space: ``Box(n, d)``
    """

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, observation_space.shape[-1])

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the observations.  (b, n, d) -> (b, n, d)"""
        return observations


def distinct(observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the different observations of a batch, and their positions.

    An observation does not show what has been kept. A whole rollout therefore holds only as many
    different ones as an episode has steps. Computing each once makes PPO several times faster, with
    the same results.

    :param observations: (b, n, d)
    :return: (u, n, d) and int64 (b,), such that ``unique[inverse]`` equals the observations
    """
    # Group by a cheap key
    keys = observations[:, :, :KEY_COLUMNS].sum((1, 2), dtype=torch.float64)
    _, inverse = keys.unique(return_inverse=True)
    # Take the first observation of each group
    b = len(observations)
    positions = torch.arange(b, device=observations.device)
    n_groups = int(inverse.max()) + 1
    first = torch.full((n_groups,), b, device=observations.device)
    first = first.scatter_reduce(0, inverse, positions, "amin")
    unique = observations[first]
    # Compare in full: different observations may share a key
    if torch.equal(unique[inverse], observations):
        return unique, inverse
    return observations, positions


class ControllerExtractor(nn.Module):
    """A controller in the place of SB3's ``mlp_extractor``.

    One pass serves policy and value.

    :param controller: network that reads the candidates
    """

    def __init__(self, controller: Controller) -> None:
        super().__init__()
        self.controller = controller
        self.latent_dim_pi = controller.width
        self.latent_dim_vf = controller.width

    def forward(self, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the candidates' states and the batch's state.

        :param candidates: (b, n, d)
        :return: (b, n, h) and (b, h)
        """
        unique, inverse = distinct(candidates)
        states, pooled = self.controller(unique)
        # index_select adds up its gradient in a fixed order; indexing does so in any order.
        return states.index_select(0, inverse), pooled.index_select(0, inverse)

    def forward_actor(self, candidates: torch.Tensor) -> torch.Tensor:
        """Return the candidates' states.  (b, n, d) -> (b, n, h)"""
        return self(candidates)[0]

    def forward_critic(self, candidates: torch.Tensor) -> torch.Tensor:
        """Return the batch's state.  (b, n, d) -> (b, h)"""
        return self(candidates)[1]


class SelectionPolicy(ActorCriticPolicy):
    """Base class of policies that make one Bernoulli decision per candidate.

    The paper's ``a_t ∈ R^{N×2}`` is read as N independent decisions, ``MultiBinary(N)``. The
    decoder is one linear layer, shared by all candidates. No parameter depends on N.

    .. code-block:: python

        class MyPolicy(SelectionPolicy):
            controller_class = GRUController

        model = PPO(MyPolicy, env, policy_kwargs={"controller_kwargs": {"width": 32}})

    :param observation_space: ``Box(n, d)``
    :param action_space: ``MultiBinary(n)``
    :param lr_schedule: learning rate schedule
    :param initial_rate: share of candidates that the untrained policy keeps
    :param controller_kwargs: arguments of the controller
    :param kwargs: arguments of SB3's ``ActorCriticPolicy`` (optimizer_class, optimizer_kwargs, …)
    :raises ValueError: if the spaces are others, or an argument is out of range or without effect
    """

    controller_class: type[Controller]

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.MultiBinary,
        lr_schedule: Schedule,
        *,
        initial_rate: float = 0.5,
        controller_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        has_rows = len(observation_space.shape or ()) == 2
        if not isinstance(action_space, spaces.MultiBinary) or not has_rows:
            raise ValueError(
                f"{type(self).__name__} reads Box(n, d) and answers MultiBinary(n); "
                f"this environment has {observation_space} and {action_space}"
            )
        if not 0 < initial_rate < 1:
            raise ValueError(f"initial_rate must lie between 0 and 1, got {initial_rate}")
        if kwargs.get("net_arch") is not None:
            raise ValueError(
                "the controller takes the place of net_arch; give its own options, e.g. width"
            )
        self.initial_rate = initial_rate
        self.controller_kwargs = controller_kwargs or {}
        kwargs = {"ortho_init": False, "features_extractor_class": CandidateRows, **kwargs}
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        self._has_seen_rows = False

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()
        parameters["net_arch"] = None
        parameters["initial_rate"] = self.initial_rate
        parameters["controller_kwargs"] = self.controller_kwargs
        return parameters

    def _build_mlp_extractor(self) -> None:
        controller = self.controller_class(self.features_dim, **self.controller_kwargs)
        self.mlp_extractor = ControllerExtractor(controller)  # type: ignore[assignment]

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        # SB3 built a wide layer with a row per candidate. One row for all of them makes a decision
        # a function of the candidate's state.
        decoder = nn.Linear(self.mlp_extractor.latent_dim_pi, 1)
        nn.init.normal_(decoder.weight, std=DECODER_STD)
        nn.init.constant_(decoder.bias, math.log(self.initial_rate / (1 - self.initial_rate)))
        self.action_net = nn.Sequential(decoder, nn.Flatten(1))  # (b, n, h) -> (b, n)
        # SB3's optimizer holds the layer that has been replaced.
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def forward(
        self, obs: torch.Tensor, deterministic: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return actions, values and log-probabilities.

        :param obs: (b, n, d)
        :param deterministic: whether the most probable actions are taken
        :raises ValueError: if the first observation was changed by a wrapper
        """
        if not self._has_seen_rows:
            self._has_seen_rows = True
            space = self.observation_space
            if isinstance(space, RowsBox) and not space.is_batch(obs[0].cpu().numpy()):
                raise ValueError(CHANGED_OBSERVATIONS)
        return super().forward(obs, deterministic)

    def _rows(self, candidates: torch.Tensor) -> torch.Tensor:
        """Return the rows that the controller reads, as SB3 passes them on."""
        rows = self.extract_features(candidates)
        # A pair if actor and critic have separate extractors
        return rows[0] if isinstance(rows, tuple) else rows

    def decide(self, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log-odds of keeping each candidate, and the value of the batch.

        :param candidates: (b, n, d)
        :return: (b, n) and (b, 1)
        """
        states, pooled = self.mlp_extractor(self._rows(candidates))
        return self.action_net(states), self.value_net(pooled)

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """Return the distribution over actions.

        TRPO differentiates it twice, which fused attention and cuDNN's recurrence do not support.
        PPO and A2C do not train through here.

        :param obs: (b, n, d)
        :return: n Bernoulli distributions per observation
        """
        cudnn = torch.backends.cudnn.enabled
        # torch.backends.cudnn.flags() would also touch settings that are deprecated.
        torch.backends.cudnn.enabled = False
        try:
            with sdpa_kernel(SDPBackend.MATH):
                return super().get_distribution(obs)
        finally:
            torch.backends.cudnn.enabled = cudnn

    @torch.no_grad()
    def keep_probabilities(self, candidates: torch.Tensor) -> torch.Tensor:
        """Return the probability of keeping each candidate, for batches of any size.

        :param candidates: (b, n, d)
        :return: (b, n)
        """
        self.set_training_mode(False)
        states = self.mlp_extractor.forward_actor(self._rows(candidates.to(self.device)))
        return self.action_net(states).sigmoid()


class _NamedOptionsPolicy(SelectionPolicy):
    """Policy whose constructor takes the controller's options by name."""

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()
        options = parameters.pop("controller_kwargs")
        return {**parameters, **options}


class TransformerPolicy(_NamedOptionsPolicy):
    """The paper's policy: a :class:`~agents.controllers.TransformerController`.

    .. code-block:: python

        model = PPO(TransformerPolicy, env, policy_kwargs={"width": 32}, **PPO_DEFAULTS)

    :param args: spaces and learning rate schedule, which the algorithm passes
    :param width: width of the encoder
    :param n_layers: number of encoder layers
    :param n_heads: number of attention heads
    :param kwargs: arguments of :class:`SelectionPolicy`
    """

    controller_class = TransformerController

    def __init__(
        self, *args: Any, width: int = 64, n_layers: int = 2, n_heads: int = 2, **kwargs: Any
    ) -> None:
        options = {"width": width, "n_layers": n_layers, "n_heads": n_heads}
        super().__init__(*args, controller_kwargs=options, **kwargs)


class GRUPolicy(_NamedOptionsPolicy):
    """The paper's ablation with a gated recurrent unit.

    .. code-block:: python

        model = PPO(GRUPolicy, env, policy_kwargs={"bidirectional": True}, **PPO_DEFAULTS)

    :param args: spaces and learning rate schedule, which the algorithm passes
    :param width: width of the states
    :param n_layers: number of recurrent layers
    :param bidirectional: whether to read the candidates in both directions
    :param kwargs: arguments of :class:`SelectionPolicy`
    """

    controller_class = GRUController

    def __init__(
        self,
        *args: Any,
        width: int = 64,
        n_layers: int = 1,
        bidirectional: bool = False,
        **kwargs: Any,
    ) -> None:
        options = {"width": width, "n_layers": n_layers, "bidirectional": bidirectional}
        super().__init__(*args, controller_kwargs=options, **kwargs)


class GRUAttentionPolicy(GRUPolicy):
    """The paper's ablation with a gated recurrent unit and attention.

    Parameters are those of :class:`GRUPolicy`.

    .. code-block:: python

        model = PPO(GRUAttentionPolicy, env, **PPO_DEFAULTS)
    """

    controller_class = GRUAttentionController
