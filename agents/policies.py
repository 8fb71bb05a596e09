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


def refuse_normalised(model: BaseAlgorithm) -> None:
    """Where an algorithm's environment changes the observations.

    :raises ValueError: when VecNormalize does
    """
    normalised = model.get_vec_normalize_env()
    if normalised is not None and normalised.norm_obs:
        raise ValueError(
            "VecNormalize changes the observations, by which padding and classes can no longer be told, and a policy would select from others "
            "than it was trained on; rows are standardised already: train with VecNormalize(env, norm_obs=False)"
        )


class CandidateRows(BaseFeaturesExtractor):
    """Hands the observation on as it is, a row a candidate, where SB3's default would flatten it."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, observation_space.shape[-1])

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """The observations.  (b, n, d) -> (b, n, d)"""
        return observations


def distinct(observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The different observations of a batch, and for each where it is among them.

    What has been kept does not show in an observation, so a whole rollout of the environment holds as many different ones as
    an episode has steps. Computing each once makes PPO several times faster; the results are the same.

    :param observations: (b, n, d)
    :return: (u, n, d) and int64 (b,), such that ``unique[inverse]`` equals the observations exactly
    """
    keys = observations[:, :, :8].sum(
        (1, 2), dtype=torch.float64
    )  # a cheap guess; what it groups is compared in full below
    _, inverse = keys.unique(return_inverse=True)
    everything = torch.arange(len(observations), device=observations.device)
    first = torch.full(
        (int(inverse.max()) + 1,), len(observations), device=observations.device
    ).scatter_reduce(0, inverse, everything, "amin")
    unique = observations[first]
    if torch.equal(unique[inverse], observations):
        return unique, inverse
    return observations, everything  # different observations with the same key


class ControllerExtractor(nn.Module):
    """A controller in the place of SB3's ``mlp_extractor``: one pass serves policy and value."""

    def __init__(self, controller: Controller) -> None:
        super().__init__()
        self.controller = controller
        self.latent_dim_pi = self.latent_dim_vf = controller.width

    def forward(self, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States of the candidates for the policy, and of the batch for the value.  (b, n, d) -> (b, n, h), (b, h)"""
        unique, inverse = distinct(candidates)
        states, pooled = self.controller(unique)
        # index_select, whose gradient a processor adds up in a fixed order; indexing adds atomically, in whatever order threads come
        return states.index_select(0, inverse), pooled.index_select(0, inverse)

    def forward_actor(self, candidates: torch.Tensor) -> torch.Tensor:
        """States of the candidates.  (b, n, d) -> (b, n, h)"""
        return self(candidates)[0]

    def forward_critic(self, candidates: torch.Tensor) -> torch.Tensor:
        """State of the batch.  (b, n, d) -> (b, h)"""
        return self(candidates)[1]


class SelectionPolicy(ActorCriticPolicy):
    """One Bernoulli decision a candidate, from a controller: the common part of this module's policies.

    The paper's ``a_t ∈ R^{N×2}`` is read as N independent keep/discard decisions, ``MultiBinary(N)``; the decoder is one
    linear layer, shared by all candidates. No parameter depends on N.

    :param observation_space: ``Box(n, d)``
    :param action_space: ``MultiBinary(n)``
    :param lr_schedule: learning rate schedule
    :param initial_rate: share of candidates that the untrained policy keeps
    :param controller_kwargs: passed to the controller's constructor
    :param kwargs: passed to SB3's ``ActorCriticPolicy`` (optimizer_class, optimizer_kwargs, …)
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
        if (
            not isinstance(action_space, spaces.MultiBinary)
            or len(observation_space.shape or ()) != 2
        ):
            raise ValueError(
                f"{type(self).__name__} reads Box(n, d) and answers MultiBinary(n); this environment has {observation_space} and {action_space}"
            )
        if not 0 < initial_rate < 1:
            raise ValueError(f"initial_rate must lie between 0 and 1, got {initial_rate}")
        if kwargs.get("net_arch") is not None:
            raise ValueError(
                "the controller takes the place of net_arch; give its own options, e.g. width"
            )
        self.initial_rate, self.controller_kwargs = initial_rate, controller_kwargs or {}
        kwargs = {"ortho_init": False, "features_extractor_class": CandidateRows, **kwargs}
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {
            "net_arch": None,
            "initial_rate": self.initial_rate,
            "controller_kwargs": self.controller_kwargs,
        }
        return {**super()._get_constructor_parameters(), **own}

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = ControllerExtractor(
            self.controller_class(self.features_dim, **self.controller_kwargs)
        )  # type: ignore[assignment]

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        # SB3 gave each candidate its own row of a wide layer; one row for all is what makes the decision a function of features.
        decoder = nn.Linear(self.mlp_extractor.latent_dim_pi, 1)
        nn.init.normal_(decoder.weight, std=0.01)
        nn.init.constant_(decoder.bias, math.log(self.initial_rate / (1 - self.initial_rate)))
        self.action_net = nn.Sequential(decoder, nn.Flatten(1))  # (b, n, h) -> (b, n)
        self.optimizer = self.optimizer_class(
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )  # type: ignore[call-arg]

    def _rows(self, candidates: torch.Tensor) -> torch.Tensor:
        """What the controller reads, as SB3's own paths hand it over."""
        rows = self.extract_features(candidates)
        return (
            rows[0] if isinstance(rows, tuple) else rows
        )  # a pair where actor and critic have extractors of their own

    def decide(self, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-odds of keeping each candidate, and the value of the batch.  (b, n, d) -> (b, n), (b, 1)"""
        states, pooled = self.mlp_extractor(self._rows(candidates))
        return self.action_net(states), self.value_net(pooled)

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """The distribution over actions.  (b, n, d) -> n Bernoulli each

        TRPO differentiates it twice, which fused attention and cuDNN's recurrence cannot; PPO and A2C do not train through here.
        """
        cudnn = torch.backends.cudnn.enabled
        torch.backends.cudnn.enabled = (
            False  # cudnn.flags() would touch more, some of which is deprecated
        )
        try:
            with sdpa_kernel(SDPBackend.MATH):
                return super().get_distribution(obs)
        finally:
            torch.backends.cudnn.enabled = cudnn

    @torch.no_grad()
    def keep_probabilities(self, candidates: torch.Tensor) -> torch.Tensor:
        """Probability of keeping each candidate of batches of any size.  (b, n, d) -> (b, n)"""
        self.set_training_mode(False)
        return self.action_net(
            self.mlp_extractor.forward_actor(self._rows(candidates.to(self.device)))
        ).sigmoid()


class _NamedOptions(SelectionPolicy):
    """A policy whose constructor takes its controller's options by name."""

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()
        options = parameters.pop("controller_kwargs")
        return {**parameters, **options}


class TransformerPolicy(_NamedOptions):
    """The paper's policy, for ``PPO(TransformerPolicy, env)``.

    :param observation_space: ``Box(n, d)``
    :param action_space: ``MultiBinary(n)``
    :param lr_schedule: learning rate schedule
    :param width: of the encoder
    :param n_layers: encoder layers
    :param n_heads: attention heads
    :param kwargs: see :class:`SelectionPolicy`
    """

    controller_class = TransformerController

    def __init__(
        self, *args: Any, width: int = 64, n_layers: int = 2, n_heads: int = 2, **kwargs: Any
    ) -> None:
        super().__init__(
            *args,
            controller_kwargs={"width": width, "n_layers": n_layers, "n_heads": n_heads},
            **kwargs,
        )


class GRUPolicy(_NamedOptions):
    """The paper's ablation with a gated recurrent unit, for ``PPO(GRUPolicy, env)``.

    :param observation_space: ``Box(n, d)``
    :param action_space: ``MultiBinary(n)``
    :param lr_schedule: learning rate schedule
    :param width: of the states
    :param n_layers: recurrent layers
    :param bidirectional: read the candidates in both directions
    :param kwargs: see :class:`SelectionPolicy`
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
        super().__init__(
            *args,
            controller_kwargs={
                "width": width,
                "n_layers": n_layers,
                "bidirectional": bidirectional,
            },
            **kwargs,
        )


class GRUAttentionPolicy(GRUPolicy):
    """The paper's ablation with a gated recurrent unit and attention; parameters as :class:`GRUPolicy`'s."""

    controller_class = GRUAttentionController
