"""Checkpoints: read what ``torch.save`` wrote, with errors that name the file."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

Config = TypeVar("Config")


def load_state(path: str | Path, writer: str, *fields: str) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    :param path: checkpoint file
    :param writer: name of the method that writes such files, for the message
    :param fields: names that the checkpoint must hold
    :raises ValueError: if the file is something else, or damaged
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        KeyError,
        IndexError,
        EOFError,
        RuntimeError,
        ValueError,
    ) as error:
        raise ValueError(
            f"{path} was not written by {writer}, or is damaged; make it again"
        ) from error
    if not isinstance(state, dict) or not set(fields) <= set(state):
        raise ValueError(
            f"{path} was not written by this release's {writer}: "
            f"it lacks {', '.join(fields)} or one of them; make it again"
        )
    return state


def load_config(kind: type[Config], fields: dict[str, Any], path: str | Path) -> Config:
    """Return a configuration from its saved fields.

    :param kind: class of the configuration
    :param fields: field name to value
    :param path: file of the fields, for the message
    :raises ValueError: if the class has no such fields
    """
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(
            f"{path} is of a release whose {kind.__name__} was another ({error}); train again"
        ) from error


def weights_digest(network: nn.Module) -> str:
    """Return a SHA-256 of a network's weights, for cache keys."""
    content = hashlib.sha256()
    for name, value in network.state_dict().items():
        content.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()
