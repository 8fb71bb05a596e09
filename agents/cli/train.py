"""``synthselect train``: train a policy, select candidates, and judge the selection.

synthselect train                                  # the embedded PCam bank, a few minutes
synthselect train --judges linear_probe            # the final table without a retraining
synthselect train --algorithm CreditPPO            # told what each decision was worth
synthselect train --judges resnet34                # judged by the paper's network
synthselect train --bank mine.h5 --reward paper
synthselect train --config runs/mine/config.json --out runs/again
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from agents.cli.common import Command, Facts
from agents.runs import RECOMMENDED, SELECTION, RunConfig, train_run


@dataclass(frozen=True)
class Train(RunConfig, Command):
    """Train a policy, select candidates, and judge the selection on held-out images.

    The run directory gets the model, the selection, tables and a report.

    :param config: config.json of a run to repeat; only --out and --device may be others
    """

    config: Path | None = None

    def run(self) -> Facts:
        """Run the training."""
        settings = {field.name: getattr(self, field.name) for field in fields(RunConfig)}
        if self.config is not None:
            settings = {**_read(self.config), "out": self.out, "device": self.device}
        run = train_run(RunConfig(**settings))
        files = {"selection": run / SELECTION, "recommended": run / RECOMMENDED}
        return {"run": str(run), **{name: str(f) for name, f in files.items() if f.exists()}}

    def check_given(self, options: Sequence[str]) -> None:
        """Refuse options beside ``--config`` that it would leave without effect.

        :param options: options of the command line, e.g. "--seed"
        :raises ValueError: if there are such
        """
        refused = sorted(set(options) - {"--config", "--out", "--device"})
        if self.config is not None and refused:
            raise ValueError(
                f"--config repeats a run as it was; leave out {', '.join(refused)}, or give all "
                "arguments and no --config"
            )


def _read(path: Path) -> Facts:
    """Return the settings of a run.

    :raises ValueError: if the file is no configuration of a run
    """
    try:
        found: Facts = json.loads(path.read_text(encoding="utf-8"))["arguments"]
        replace(RunConfig(), **found)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no config.json of a run ({error})") from error
    return found
