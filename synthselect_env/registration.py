"""Environment ids, registered with Gymnasium."""

from __future__ import annotations

import gymnasium as gym

ENTRY_POINT = "synthselect_env.envs.selection_env:SyntheticSelectionEnv"

ENV_IDS: dict[str, str] = {
    "SynthSelect-PCamFew-v0": "pcam-few",
    "SynthSelect-PCam-v0": "pcam",
    "SynthSelect-Cervical-v0": "cervical",
    "SynthSelect-PCamPlanted-v0": "pcam-planted",
    "SynthSelect-Toy-v0": "toy",
}
"""Environment id to the embedded bank that it plays if no bank is given."""


def register_envs() -> None:
    """Register the ids with Gymnasium. Further calls change nothing."""
    for env_id, bank in ENV_IDS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=ENTRY_POINT, kwargs={"default_bank": bank})
