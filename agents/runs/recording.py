"""Metrics of a training run, beside those that SB3 records itself."""

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

VALIDATION_METRICS = ("accuracy", "log_likelihood", "auc")
"""Metrics of finished episodes that are recorded."""


class SelectionMetrics(BaseCallback):
    """Record what finished episodes selected and scored, in one row per policy update.

    SB3 writes its rows before it updates. They pair a rollout with the update before it. Here a
    row is written when the update is done.

    .. code-block:: python

        model.set_logger(run_logger("runs/mine"))
        model.learn(1024, log_interval=None, callback=SelectionMetrics())

    :raises ValueError: on learning, if the algorithm does not update after each rollout
    """

    def _on_training_start(self) -> None:
        if not isinstance(self.model, OnPolicyAlgorithm):
            raise ValueError(
                "SelectionMetrics records on-policy updates, "
                f"{type(self.model).__name__} makes none; use SB3's own log"
            )
        self._updates = 0
        self._episodes: list[dict[str, float]] = []
        self._collected = False

    def _on_rollout_start(self) -> None:
        self._write_row()

    def _on_step(self) -> bool:
        for info, done in zip(self.locals["infos"], self.locals["dones"]):
            if done:
                self._episodes.append(info)
        return True

    def _on_rollout_end(self) -> None:
        self._collected = True
        if self._episodes:
            for name in VALIDATION_METRICS:
                self.logger.record(f"validation/{name}", self._mean(name))
            self.logger.record("rollout/selected", self._mean("selected"))
        self._episodes = []

    def _mean(self, name: str) -> float:
        return float(np.mean([info[name] for info in self._episodes]))

    def _on_training_end(self) -> None:
        self._write_row()

    def _write_row(self) -> None:
        assert isinstance(self.model, OnPolicyAlgorithm)
        if self._collected:
            self._updates += 1
            self.model.dump_logs(self._updates)
            self._collected = False


class MetricsCSV(KVWriter):
    """Write one CSV row per dump, with columns sorted by name.

    SB3's own writer orders the columns differently in every run. Rows are readable as soon as they
    are written.

    .. code-block:: python

        Logger("runs/mine", [MetricsCSV(Path("runs/mine/metrics.csv"))])

    :param path: file to write; an existing one is emptied
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] = []
        self._rows: list[dict[str, Any]] = []
        path.write_text("", encoding="utf-8")

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Append a row.

        Where it has metrics that no row before had, those rows get empty cells.

        :param key_values: name of each metric to its value
        :param key_excluded: names of the formats that leave a metric out
        :param step: number of the dump, not used
        """
        row = dict(filter_excluded_keys(key_values, key_excluded, "csv"))
        self._rows.append(row)
        if set(row) <= set(self._columns):
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns, restval="").writerow(row)
        else:
            self._columns = sorted(set(row) | set(self._columns))
            self._rewrite()

    def _rewrite(self) -> None:
        """Write all rows again, under the present columns."""
        with atomic_write(self._path) as temporary:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self._columns, restval="")
                writer.writeheader()
                writer.writerows(self._rows)

    def close(self) -> None:
        """Do nothing, as no file is held open."""


def run_logger(directory: str | Path) -> Logger:
    """Return an SB3 logger that writes ``metrics.csv``.

    Where tensorboard is installed, it writes its events, too.

    :param directory: run directory, made if missing
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    formats: list[KVWriter] = [MetricsCSV(directory / "metrics.csv")]
    if importlib.util.find_spec("tensorboard"):
        formats.append(TensorBoardOutputFormat(str(directory / "tensorboard")))
    return Logger(str(directory), formats)
