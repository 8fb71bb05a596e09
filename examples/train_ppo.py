"""Train PPO on the embedded PCam bank, select candidates, and judge the selection.

python examples/train_ppo.py
"""

from stable_baselines3 import PPO

from agents import PPO_DEFAULTS, TransformerPolicy
from agents.evaluation import compare
from agents.report import comparison_table, read_history, recommendation, write_report
from agents.runs import SelectionMetrics, run_logger
from agents.selectors import PolicySelector
from synthselect_env import SelectionVecEnv
from synthselect_env.bank import resolve_bank

BANK = "pcam"  # an embedded bank (pcam, cervical, pcam-planted, toy), or the path of your own
SEED = 0
TIMESTEPS = 1024  # each evaluates one selection
JUDGES = ("linear_probe", "resnet18")  # the second retrains a network: minutes on a CPU
OUT = "runs/train_ppo"


def main(bank=BANK, seed=SEED, timesteps=TIMESTEPS, judges=JUDGES, out=OUT):
    bank = resolve_bank(bank)
    print(bank.describe())

    # Train. Each step decides one batch of candidates in 16 selections.
    env = SelectionVecEnv(bank, n_envs=16)
    env.seed(seed)
    model = PPO(TransformerPolicy, env, seed=seed, **PPO_DEFAULTS)
    model.set_logger(run_logger(out))
    print(f"training PPO, {timesteps:,} steps ...", flush=True)
    model.learn(timesteps, callback=SelectionMetrics(), log_interval=None)
    model.save(f"{out}/model.zip", exclude=["_last_obs"])  # without a batch of features

    # Select.
    policy = PolicySelector(model)
    selection = policy.select(bank.sealed, seed)
    selection.save(f"{out}/selection.csv")

    # Compare on the test split, which neither training nor selection has seen.
    selectors = ["none", "all", "random", "centroid", policy]
    comparisons = []
    for judge in judges:
        print(f"\ntraining {judge} on each of {len(selectors)} selections ...", flush=True)
        comparisons.append(compare(bank, selectors, rounds=1, classifier=judge, seed=seed))
        print(comparison_table(comparisons[-1]))
        print(recommendation(comparisons[-1], policy.name, selection)[1])

    # Report.
    history = read_history(f"{out}/metrics.csv")
    *others, last = comparisons
    report = write_report(
        out, bank, last, policy.name, selection=selection, history=history, others=others
    )
    print(f"\nmodel, selection, tables and report are in {out}; open {report}")


if __name__ == "__main__":
    main()
