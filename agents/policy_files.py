"""Policies on disk without pickle: weights as safetensors, settings as JSON, and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agents.policies import GRUAttentionPolicy, GRUPolicy, SelectionPolicy, TransformerPolicy
from synthselect_env.storage import atomic_write
from synthselect_env.training.device import pick_device

POLICIES: dict[str, type[SelectionPolicy]] = {
    policy.__name__: policy for policy in (TransformerPolicy, GRUPolicy, GRUAttentionPolicy)
}
"""Policies that can be saved, by name."""

WEIGHTS, SETTINGS, CARD = "policy.safetensors", "policy.json", "README.md"
"""Names of the files."""


def save_policy(
    policy: SelectionPolicy,
    name: str,
    evaluations: int,
    directory: Path,
    facts: Mapping[str, object],
) -> None:
    """Write a policy.

    :param policy: policy
    :param name: name of its selections in tables
    :param evaluations: number of evaluations that it was trained for
    :param directory: folder to write into
    :param facts: lines of the model card, by title
    :raises ValueError: if the policy's class is not one of :data:`POLICIES`
    """
    kind = type(policy).__name__
    if POLICIES.get(kind) is not type(policy):
        raise ValueError(
            f"{kind} is not one of {', '.join(POLICIES)}; save the model by its own save()"
        )
    space = policy.observation_space
    assert isinstance(space, spaces.Box)
    settings = {
        "format": 1,
        "policy": kind,
        "options": policy.controller_kwargs,
        "batch_size": space.shape[0],
        "width_of_a_row": space.shape[1],
        "name": name,
        "evaluations": evaluations,
        "synthselect": version("synthselect"),
    }
    weights = {key: value.detach().cpu().contiguous() for key, value in policy.state_dict().items()}
    with atomic_write(directory / WEIGHTS) as path:
        save_file(weights, path)
    with atomic_write(directory / SETTINGS) as path:
        path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    with atomic_write(directory / CARD) as path:
        path.write_text(_card(settings, facts), encoding="utf-8")


def load_policy(directory: Path, device: str = "auto") -> tuple[SelectionPolicy, dict[str, Any]]:
    """Read a policy of :func:`save_policy`, and its settings.

    :param directory: folder to read
    :param device: "auto", or a torch device
    :raises ValueError: if it is no such folder, or was damaged
    """
    try:
        settings = json.loads((directory / SETTINGS).read_text(encoding="utf-8"))
        shape = settings["batch_size"], settings["width_of_a_row"]
        policy = POLICIES[settings["policy"]](
            spaces.Box(-np.inf, np.inf, shape, np.float32),
            spaces.MultiBinary(shape[0]),
            lambda _: 0.0,
            **settings["options"],
        )
        policy.load_state_dict(load_file(directory / WEIGHTS))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{directory} holds no policy that can be read ({error})") from error
    return policy.to(pick_device(device)), settings


def _card(settings: Mapping[str, Any], facts: Mapping[str, object]) -> str:
    """Return the model card."""
    lines = [f"- **{title}**: {fact}" for title, fact in facts.items()]
    return "\n".join(
        [
            f"# {settings['name']}: which synthetic images to add",
            "",
            f"A {settings['policy']} of SynthSelect {settings['synthselect']}. It reads "
            f"{settings['batch_size']} candidates at a time, rows of "
            f"{settings['width_of_a_row']} numbers, and tells the probability of keeping each. It "
            f"was trained by {settings['evaluations']:,} evaluated selections.",
            "",
            *lines,
            "",
            "## Use",
            "",
            "```python",
            "from agents.selectors import PolicySelector",
            "",
            'selection = PolicySelector.load("THIS FOLDER").select(bank.sealed, seed=0)',
            "```",
            "",
            "## Limits",
            "",
            "On rows of features, another pool's bank must have the same extractor; rows of scores are "
            "ranks within a pool, and mean the same on all. Whether its selection helps is for a "
            "retraining on held-out images to say. It is no medical device.",
            "",
        ]
    )
