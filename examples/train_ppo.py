"""Train PPO on a bank of few annotated images, select candidates, and judge the selection.

python examples/train_ppo.py
"""

from stable_baselines3 import PPO

from agents import PPO_DEFAULTS, TransformerPolicy, best_random_rate
from agents.evaluation import compare
from agents.report import comparison_table, read_history, recommendation, write_report
from agents.runs import SelectionMetrics, run_logger
from agents.selectors import PolicySelector
from synthselect_env import SelectionVecEnv
from synthselect_env.bank import resolve_bank

BANK = "pcam-few"  # an embedded bank (pcam-few, pcam, cervical, pcam-planted), or your own file
JUDGES = ("linear_probe", "small_cnn")  # the second retrains a network: two minutes on a CPU
ROUNDS = 3  # retrainings of each selection, with a seed each
OUT = "runs/train_ppo"


def main(bank=BANK, seed=0, timesteps=1024, judges=JUDGES, rounds=ROUNDS, out=OUT):
    bank = resolve_bank(bank)
    print(bank.describe())

    # Train. Each step decides one batch of candidates in 16 selections.
    env = SelectionVecEnv(bank, n_envs=16)
    env.seed(seed)
    start = {"initial_rate": best_random_rate(env.bank, env.evaluator, seed=seed)}
    model = PPO(TransformerPolicy, env, policy_kwargs=start, seed=seed, **PPO_DEFAULTS)
    model.set_logger(run_logger(out))
    model.learn(timesteps, callback=SelectionMetrics(), log_interval=None)

    # Select.
    policy = PolicySelector(model)
    policy.select(bank.sealed, seed).save(f"{out}/selection.csv")

    # Compare on the test split, which neither training nor selection has seen.
    comparisons = []
    for judge in judges:
        print(f"\ntraining {judge} on each of 5 selections, {rounds} times ...", flush=True)
        selectors = ["none", "all", "random@2", "centroid", policy]
        comparisons.append(compare(bank, selectors, rounds, judge, seed=seed))
        print(comparison_table(comparisons[-1]))
        print(recommendation(comparisons[-1])[1])

    # Report.
    *others, last = comparisons
    last.of(last.recommended())[0].selection.save(f"{out}/recommended.csv")
    history = read_history(f"{out}/metrics.csv")
    write_report(out, bank, last, history=history, others=others)
    model.save(f"{out}/model.zip", exclude=["_last_obs"])  # without a batch of features
    print(f"\nmodel, selection, tables and report are in {out}; open {out}/report.html")


if __name__ == "__main__":
    main()
