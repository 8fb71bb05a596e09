"""Any Stable-Baselines3 algorithm on the environment: train it for a while, save it, load it, select with it.

    python examples/plug_in_any_algorithm.py --algo A2C
    python examples/plug_in_any_algorithm.py --algo SAC --bank mine.h5 --timesteps 20000

On-policy algorithms answer all decisions of a batch at once. PPO, A2C, TRPO and REINFORCE take this library's policies; MaskablePPO
and RecurrentPPO need policies of their own. SAC, TD3, TQC and CrossQ answer a real number a candidate, kept where it is above zero;
DQN and QRDQN decide candidates one by one. TRPO, MaskablePPO, RecurrentPPO, TQC, CrossQ and QRDQN come from sb3-contrib:
pip install "synthselect[contrib]".
"""

import argparse
import pkgutil
from pathlib import Path

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm

from agents import TransformerPolicy
from agents.extractors import CandidateProjection
from agents.policies import SelectionPolicy
from agents.selectors import PolicySelector, mask_of_episode
from synthselect_env import Selection
from synthselect_env.envs.wrappers import BoxThresholdWrapper, PerCandidateWrapper
from synthselect_env.storage import atomic_write

OURS = {"policy": TransformerPolicy, "n_steps": 8}
SMALL = {"features_extractor_class": CandidateProjection, "net_arch": [64]}
THEIRS = {"policy": "MlpPolicy", "n_steps": 8, "batch_size": 8, "policy_kwargs": SMALL}
# A replay buffer holds whole batches of features, a megabyte each for 512 candidates: it is kept short.
REPLAY = {
    "policy": "MlpPolicy",
    "buffer_size": 512,
    "learning_starts": 16,
    "batch_size": 16,
    "policy_kwargs": SMALL,
}
SINGLE = {
    **REPLAY,
    "buffer_size": 32_768,
    "learning_starts": 256,
    "batch_size": 256,
    "target_update_interval": 1024,
}
ALGORITHMS = {  # where it is, what adapts the environment to it, its arguments
    "PPO": ("stable_baselines3:PPO", None, {**OURS, "batch_size": 8}),
    "A2C": ("stable_baselines3:A2C", None, OURS),
    "REINFORCE": ("agents:REINFORCE", None, {**OURS, "baseline": "moving_average"}),
    "TRPO": (
        "sb3_contrib:TRPO",
        None,
        {**OURS, "n_steps": 128, "cg_max_steps": 5, "n_critic_updates": 2},
    ),  # an update takes long
    "MaskablePPO": ("sb3_contrib:MaskablePPO", None, THEIRS),
    "RecurrentPPO": (
        "sb3_contrib:RecurrentPPO",
        None,
        {**THEIRS, "policy": "agents.recurrent:RecurrentBinaryPolicy"},
    ),
    "SAC": ("stable_baselines3:SAC", BoxThresholdWrapper, REPLAY),
    "TD3": ("stable_baselines3:TD3", BoxThresholdWrapper, REPLAY),
    "TQC": ("sb3_contrib:TQC", BoxThresholdWrapper, REPLAY),
    "CrossQ": ("sb3_contrib:CrossQ", BoxThresholdWrapper, REPLAY),
    "DQN": ("stable_baselines3:DQN", PerCandidateWrapper, SINGLE),
    "QRDQN": ("sb3_contrib:QRDQN", PerCandidateWrapper, SINGLE),
}

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--algo", choices=ALGORITHMS, default="PPO")
parser.add_argument("--env", default="SynthSelect-PCam-v0", help="a registered id")
parser.add_argument("--bank", help="a file or an embedded bank, in the place of the id's")
parser.add_argument(
    "--timesteps",
    type=int,
    help="default: 512; of DQN and QRDQN, which decide one candidate a step, 16,384",
)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="auto", help="of the algorithm")
parser.add_argument("--run", type=Path, default=Path("runs/plug-in"))
args = parser.parse_args()

where, adapter, arguments = ALGORITHMS[args.algo]
try:
    algorithm: type[BaseAlgorithm] = pkgutil.resolve_name(where)
    if ":" in str(arguments["policy"]):
        arguments = {**arguments, "policy": pkgutil.resolve_name(arguments["policy"])}
except ImportError as error:
    parser.error(f'{args.algo} needs sb3-contrib ({error}): pip install "synthselect[contrib]"')
env = gym.make(f"synthselect_env:{args.env}", bank=args.bank)
env = adapter(env) if adapter else env

model = algorithm(env=env, seed=args.seed, device=args.device, **arguments)
print(f"{args.algo} on {model.device}: {env.observation_space} -> {env.action_space}")
model.learn(args.timesteps or (16_384 if adapter is PerCandidateWrapper else 512))
args.run.mkdir(parents=True, exist_ok=True)
file = args.run / f"{args.algo}.zip"
with atomic_write(file) as path:
    model.save(path)

loaded, bank = algorithm.load(file, device=args.device), env.unwrapped.bank
if isinstance(loaded.policy, SelectionPolicy):
    selection = PolicySelector(loaded).select(bank, args.seed)
else:  # by its most probable actions
    mask = mask_of_episode(loaded, env, args.seed)
    selection = Selection.of(bank, mask, mask.astype(float), args.algo)
selection.save(args.run / f"{args.algo}.csv")
scored = env.unwrapped.evaluator.evaluate(selection.mask[None], args.seed)
print(
    f"kept {selection.count:,} of {len(selection):,}; validation log-likelihood {scored.log_likelihood[0]:.4f}, accuracy {scored.accuracy[0]:.4f}"
)
print(f"saved {file} and its selection")
