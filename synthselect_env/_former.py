"""Former module names, kept importable for code written against 0.1."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

MODULES: dict[str, tuple[str, ...]] = {
    "classifier": ("training.classifier", "training.config", "training.trainer"),
    "compute": ("training.device", "training.checkpoints"),
    "data.appearance": ("data.image_stats",),
    "data.augment": ("training.augmentation",),
    "data.subsets": ("data.splitting",),
    "embedded": ("bank.embedded",),
    "env": ("envs.selection_env", "envs.episodes", "envs.rendering"),
    "evaluators.heads": ("evaluators.ridge",),
    "evaluators.ranking": ("evaluators.candidate_scores", "evaluators.design"),
    "extraction": ("bank.extraction",),
    "files": ("storage",),
    "hdf5": ("bank.hdf5",),
    "rewards": ("envs.rewards",),
    "selection": ("bank.selection",),
    "split": ("data.dataset", "bank.retrainings"),
    "trimming": ("training.padding_pruning",),
    "vec_env": ("envs.vec_env",),
    "wrappers": ("envs.wrappers",),
}
"""Former module of synthselect_env to the modules that hold its content now."""

NAMES: dict[str, str] = {
    "appearance": "compute_image_stats",
    "code_digest": "class_digest",
    "framed": "framed_candidates",
    "grid": "rounding_step",
    "met": "used_kernel_range",
    "out_of_bag_fit": "out_of_bag_label_fit",
    "ranking_probe": "label_probe",
    "read_split": "read_dataset",
    "trimmed": "without_padding_weights",
    "write_split": "write_dataset",
}
"""Former name in one of these modules to its present name."""


class FormerModule(ModuleType):
    """A module that looks names up where they are now.

    :param name: former name of the module
    :param homes: names of the modules that hold its content now
    :param names: former name to present name, where it changed
    """

    def __init__(self, name: str, homes: Sequence[str], names: Mapping[str, str]) -> None:
        super().__init__(name, f"Former name of {', '.join(homes)}.")
        self._homes = tuple(homes)
        self._names = dict(names)

    def __getattr__(self, name: str) -> Any:
        for home in self._homes:
            module = import_module(home)
            for candidate in (name, self._names.get(name, name)):
                if not candidate.startswith("__") and hasattr(module, candidate):
                    return getattr(module, candidate)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def keep_former_modules(
    package: str, modules: Mapping[str, Sequence[str]], names: Mapping[str, str]
) -> None:
    """Make former modules of a package importable.

    :param package: name of the package
    :param modules: former module to the modules that hold its content now
    :param names: former name to present name, where it changed
    """
    for former, homes in modules.items():
        name = f"{package}.{former}"
        if name in sys.modules:
            continue
        module = FormerModule(name, [f"{package}.{home}" for home in homes], names)
        sys.modules[name] = module
        parent, _, own_name = name.rpartition(".")
        if parent in sys.modules and not hasattr(sys.modules[parent], own_name):
            setattr(sys.modules[parent], own_name, module)
