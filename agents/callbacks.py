"""What a training run records beside SB3's own figures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat, KVWriter, Logger, TensorBoardOutputFormat


class SelectionMetrics(BaseCallback):
    """Records what finished episodes selected and scored, and writes one row a policy update.

    SB3 itself writes before it updates, so that its rows pair a rollout with the update before. Here a row is written when
    the update is done: call ``learn(…, log_interval=None, callback=SelectionMetrics())``.
    """

    def _on_training_start(self) -> None:
        self._updates = 0
        self._episodes: list[dict[str, float]] = []
        self._collected = False

    def _on_rollout_start(self) -> None:
        self._write_row()

    def _on_step(self) -> bool:
        self._episodes += [info for info, done in zip(self.locals["infos"], self.locals["dones"]) if done]
        return True

    def _on_rollout_end(self) -> None:
        self._collected = True
        for key in ("accuracy", "log_likelihood", "auc"):
            if self._episodes:
                self.logger.record(f"validation/{key}", float(np.mean([info[key] for info in self._episodes])))
        if self._episodes:
            self.logger.record("rollout/selected", float(np.mean([info["selected"] for info in self._episodes])))
        self._episodes = []

    def _on_training_end(self) -> None:
        self._write_row()

    def _write_row(self) -> None:
        if self._collected:
            self._updates += 1
            self.model.dump_logs(self._updates)  # type: ignore[call-arg]  # OnPolicyAlgorithm's
            self._collected = False


def run_logger(directory: str | Path) -> Logger:
    """An SB3 logger that writes ``metrics.csv``, and TensorBoard events where tensorboard is installed.

    :param directory: run directory
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    formats: list[KVWriter] = [CSVOutputFormat(str(directory / "metrics.csv"))]
    if importlib.util.find_spec("tensorboard"):
        formats.append(TensorBoardOutputFormat(str(directory / "tensorboard")))
    return Logger(str(directory), formats)
