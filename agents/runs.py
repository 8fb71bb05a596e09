"""What a training run records beside SB3's own figures."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import (
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
    filter_excluded_keys,
)
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from synthselect_env.storage import atomic_write


class SelectionMetrics(BaseCallback):
    """Records what finished episodes selected and scored, and writes one row a policy update.

    SB3 itself writes before it updates, so that its rows pair a rollout with the update before. Here a row is written when
    the update is done: call ``learn(…, log_interval=None, callback=SelectionMetrics())``.

    :raises ValueError: on learning, with an algorithm that does not update after each rollout
    """

    def _on_training_start(self) -> None:
        if not isinstance(self.model, OnPolicyAlgorithm):
            raise ValueError(
                f"SelectionMetrics records on-policy updates, {type(self.model).__name__} makes none; use SB3's own log"
            )
        self._updates = 0
        self._episodes: list[dict[str, float]] = []
        self._collected = False

    def _on_rollout_start(self) -> None:
        self._write_row()

    def _on_step(self) -> bool:
        self._episodes += [
            info for info, done in zip(self.locals["infos"], self.locals["dones"]) if done
        ]
        return True

    def _on_rollout_end(self) -> None:
        self._collected = True
        for key in ("accuracy", "log_likelihood", "auc"):
            if self._episodes:
                self.logger.record(
                    f"validation/{key}", float(np.mean([info[key] for info in self._episodes]))
                )
        if self._episodes:
            self.logger.record(
                "rollout/selected", float(np.mean([info["selected"] for info in self._episodes]))
            )
        self._episodes = []

    def _on_training_end(self) -> None:
        self._write_row()

    def _write_row(self) -> None:
        assert isinstance(self.model, OnPolicyAlgorithm)
        if self._collected:
            self._updates += 1
            self.model.dump_logs(self._updates)
            self._collected = False


class MetricsCSV(KVWriter):
    """One CSV row a dump, columns sorted by name; SB3's own writer orders them differently in every run.

    :param path: file to write; rows are readable as soon as they are written
    """

    def __init__(self, path: Path) -> None:
        self._path, self._columns = path, list[str]()
        self._rows: list[dict[str, Any]] = []
        path.write_text("", encoding="utf-8")  # not the rows of a run before

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Append a row; where it has figures that no row before had, those have empty cells."""
        key_values = filter_excluded_keys(key_values, key_excluded, "csv")
        self._rows.append(dict(key_values))
        if new := set(key_values) - set(self._columns):
            self._columns = sorted(new | set(self._columns))
            with (
                atomic_write(self._path) as temporary,
                temporary.open("w", newline="", encoding="utf-8") as file,
            ):
                writer = csv.DictWriter(file, self._columns, restval="")
                writer.writeheader()
                writer.writerows(self._rows)
            return
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns, restval="").writerow(key_values)

    def close(self) -> None:
        """Nothing is held open."""


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
