"""``synthselect report``: write the report of a run again.

synthselect report runs/mine
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agents.cli.common import Command, Facts
from agents.runs import report_run


@dataclass(frozen=True)
class Report(Command):
    """Write the report of a run again, from what the run has stored.

    :param run_directory: directory of the run
    """

    run_directory: Annotated[Path, tyro.conf.Positional]

    def run(self) -> Facts:
        """Write the report."""
        return {"report": str(report_run(self.run_directory))}
