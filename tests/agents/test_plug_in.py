"""Every algorithm that is said to plug in does: learn, save, load, predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agents.policies import SelectionPolicy
from agents.selectors import PolicySelector, mask_of_episode
from synthselect_env import FeatureBank, Selection

ON_POLICY = ["PPO", "A2C", "REINFORCE", "TRPO", "MaskablePPO", "RecurrentPPO"]
CONTINUOUS = ["SAC", "TD3", "TQC", "CrossQ"]
DISCRETE = ["DQN", "QRDQN"]
ALGORITHMS = [*ON_POLICY, *CONTINUOUS, *DISCRETE]
STEPS = {
    **dict.fromkeys(ON_POLICY, 8),
    **dict.fromkeys(CONTINUOUS, 18),  # two updates after the replay buffer's first steps
    **dict.fromkeys(DISCRETE, 260),  # one update
}


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_learn_save_load_predict(
    algo: str,
    toy: FeatureBank,
    tmp_path: Path,
    run_example: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # the example writes below runs/
    arguments = {
        "--algo": algo,
        "--env": "SynthSelect-Toy-v0",
        "--timesteps": STEPS[algo],
        "--device": "cpu",
    }
    flat = [part for pair in arguments.items() for part in pair]
    names, printed = run_example("plug_in_any_algorithm.py", *flat)
    model = names["model"]
    assert list(names["ALGORITHMS"]) == ALGORITHMS
    assert model.num_timesteps >= STEPS[algo]
    assert "validation log-likelihood" in printed

    # The saved model selects what the trained one does
    (file,) = tmp_path.rglob(f"{algo}.csv")
    selection = Selection.load(file)
    is_ours = isinstance(model.policy, SelectionPolicy)
    if is_ours:
        expected = PolicySelector(model).select(toy, 0).mask
    else:
        expected = mask_of_episode(model, names["env"], 0)
    assert selection.ids == toy.candidates.ids
    assert (selection.mask == expected).all()
    # Our policies give probabilities, others the most probable actions.
    assert is_ours == (len(set(selection.scores)) > 2)
