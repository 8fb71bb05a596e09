"""The ``synthselect`` command: one module per sub-command."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro

from agents import progress
from agents.cli.auto import Auto
from agents.cli.bank import BuildBank, DescribeBank
from agents.cli.common import Command
from agents.cli.compare import Compare
from agents.cli.export import Export
from agents.cli.generate_sample import SampleGenerator
from agents.cli.generate_train import TrainGenerator
from agents.cli.known_truth import KnownTruth
from agents.cli.report import Report
from agents.cli.retrain import Retrain
from agents.cli.select import Select
from agents.cli.train import Train
from synthselect_env.training.device import check_device

COMMANDS: dict[str, Any] = {
    "auto": Auto,
    "bank": {"build": BuildBank, "describe": DescribeBank},
    "generate": {"train": TrainGenerator, "sample": SampleGenerator},
    "retrain": Retrain,
    "train": Train,
    "select": Select,
    "compare": Compare,
    "report": Report,
    "export": Export,
    "known-truth": KnownTruth,
}
"""Commands by name; some have commands of their own."""

GROUPS = {
    "bank": "Build a bank from folders of images, or describe one.",
    "generate": "Train a generator on real images, or sample candidates from one.",
}
"""Names of commands that have commands of their own, with a line on each."""

DESCRIPTION = """Choose which synthetic images are worth adding to a training set.

With any command, --quiet prints nothing but errors, and --json prints facts on the result alone."""

OURS = ("agents", "synthselect_env")
"""Packages whose failing import is a programming error, and no missing extra."""

WRONG, INTERRUPTED = 2, 130
"""Exit statuses: something that the user can mend, and an interruption."""


def parse(argv: Sequence[str]) -> Command:
    """Return the command of a command line.

    :param argv: arguments
    :raises SystemExit: if they are not understood, or ask for help
    """
    command: Command = tyro.cli(
        _union(COMMANDS),
        prog="synthselect",
        description=DESCRIPTION,
        args=list(argv),
        config=(
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.OmitSubcommandPrefixes,
            tyro.conf.OmitArgPrefixes,
        ),
    )
    return command


def _union(commands: dict[str, Any]) -> Any:
    """Return a type of which the parser makes sub-commands."""
    options = []
    for name, command in commands.items():
        if isinstance(command, dict):
            kind, line = _group(_union(command)), GROUPS[name]
        else:
            kind, line = command, (command.__doc__ or "").split("\n")[0]
        options.append(Annotated[kind, tyro.conf.subcommand(name, description=line)])
    return Union[tuple(options)]  # noqa: UP007  (the options are not known before)


def _group(union: Any) -> Any:
    """Return a function that hands on the command which its own sub-commands make."""

    def choose(command: Command) -> Command:
        return command

    choose.__annotations__ = {"command": union, "return": Command}
    return choose


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    A user's error prints one line and returns 2. Other errors are raised.

    .. code-block:: python

        main(["train", "--bank", "toy", "--judges", "linear_probe"])

    :param argv: arguments; None for those of the process
    :return: exit status
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    as_json, quiet = (flag in argv for flag in ("--json", "--quiet"))
    argv = [argument for argument in argv if argument not in ("--json", "--quiet")]
    try:
        command = parse(argv)
        if isinstance(command, Train):
            command.check_given([a.partition("=")[0] for a in argv if a.startswith("--")])
        with _printing(quiet, as_json):
            check_device(getattr(command, "device", "auto"))
            facts = command.run()
    except SystemExit as error:
        if isinstance(error.code, str):
            print(f"synthselect: error: {error.code}", file=sys.stderr)
            return 1
        return int(error.code or 0)
    except KeyboardInterrupt:
        print("synthselect: interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, ImportError) as error:
        if isinstance(error, ImportError) and (error.name or "").split(".")[0] in OURS:
            raise
        print(f"synthselect: error: {error}", file=sys.stderr)
        return WRONG
    if as_json:
        print(json.dumps(facts))
    return 0


@contextlib.contextmanager
def _printing(quiet: bool, as_json: bool) -> Any:
    """Print what the user wants to see. Warnings are one line each."""

    def one_line(message: Warning | str, *_: object, **__: object) -> None:
        if not quiet:
            print(f"warning: {message}", file=sys.stderr)

    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = one_line  # type: ignore[assignment]
        if quiet:
            stack.enter_context(progress.hidden())
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        elif as_json:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield
