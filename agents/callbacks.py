"""What a training run records beside SB3's own figures."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat


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


class MetricsCSV(KVWriter):
    """One CSV row a dump, columns sorted by name; SB3's own writer orders them differently in every run.

    :param path: file to write; rows are readable as soon as they are written
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer: csv.DictWriter[str] | None = None

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Append a row; the first one names the columns."""
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, sorted(key_values), restval="", extrasaction="ignore")
            self._writer.writeheader()
        self._writer.writerow(key_values)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def run_logger(directory: str | Path) -> Logger:
    """An SB3 logger that writes ``metrics.csv``, and TensorBoard events where tensorboard is installed.

    :param directory: run directory
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    formats: list[KVWriter] = [MetricsCSV(directory / "metrics.csv")]
    if importlib.util.find_spec("tensorboard"):
        formats.append(TensorBoardOutputFormat(str(directory / "tensorboard")))
    return Logger(str(directory), formats)
