"""Play the environment with random decisions, through Gymnasium's interface alone.

python examples/gym_loop.py
"""

import gymnasium as gym

import synthselect_env  # noqa: F401  registers the ids

ENV_ID = "SynthSelect-Toy-v0"  # SynthSelect-PCam-v0 has 512 candidates per step
EPISODES = 3


def main(env_id=ENV_ID, episodes=EPISODES, seed=0):
    env = gym.make(env_id)
    env.action_space.seed(seed)
    print(f"{env_id}: {env.observation_space} -> {env.action_space}")
    for episode in range(episodes):
        observation, info = env.reset(seed=seed + episode)
        total, finished = 0.0, False
        while not finished:
            keep = env.action_space.sample()  # one bit per candidate of the batch
            observation, reward, terminated, truncated, info = env.step(keep)
            total += reward
            finished = terminated or truncated
        kept = env.unwrapped.selection.sum()
        print(
            f"episode {episode}: kept {kept} candidates, return {total:+.2f}, "
            f"validation accuracy {info['accuracy']:.3f}"
        )


if __name__ == "__main__":
    main()
