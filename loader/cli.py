"""The command line.

Guarantees: one process, one exit code (0 to 6, or 130 when interrupted); every refusal is one block on stderr without
a traceback, Hydra's own refusals too (HYDRA_FULL_ERROR=1 shows the traceback as well); torch is imported by nothing
but a job.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import hydra

from loader.config.argv import Arguments, parse_arguments
from loader.config.compose import CONFIG_NAME, VERSION_BASE, conf_dir
from loader.config.messages import translate
from loader.config.shown import completing, fitted, shown
from loader.errors import ConfigError, LoaderError
from loader.report.streams import printing_failed, unbreakable
from loader.sweep.callback import Sweep, take_sweep
from loader.task import Task
from loader.termination import terminable
from loader.wording import program

if TYPE_CHECKING:
    from loader.sweep.summary import Summary

_FULL_ERROR = "HYDRA_FULL_ERROR"
_INTERRUPTED = 130


def main() -> None:
    """Runs the command that ``sys.argv`` holds, and ends the process with its exit code."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Runs one command.

    Args:
        arguments: What stands after the program's name.

    Returns:
        The exit code.

    Raises:
        SystemExit: What only shows something, such as ``--help``, ends as argparse and Hydra end it.
    """
    _let_argparse_be()
    with unbreakable():
        return _told(lambda: _printed(_answer(arguments)))


def _answer(arguments: Sequence[str]) -> int:
    _find_modules_here()
    parsed = parse_arguments(arguments)
    if shown(parsed):
        return 0
    with completing(parsed) as answered, fitted(parsed):
        return 0 if answered else _run(parsed)
    return 0


def _printed(exit_code: int) -> int:
    """Refuses to call a command done whose output is not there to be read."""
    failed = printing_failed()
    if failed is None or exit_code != 0:
        return exit_code
    raise ConfigError(
        f"what was printed is lost in part: stdout could not be written ({failed.strerror})",
        "df -h   # says which disk is full",
    )


def _told(command: Callable[[], int]) -> int:
    """Runs a command; a refusal is told, and gives its exit code."""
    try:
        return command()
    except LoaderError as error:
        if os.environ.get(_FULL_ERROR) == "1":
            traceback.print_exception(error)
        from loader.report.terminal import print_error  # noqa: PLC0415  # only a refusal needs it

        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return _INTERRUPTED


def _find_modules_here() -> None:
    """Makes the user's own modules importable: at the end, so that no file here hides an installed package."""
    try:
        here = os.getcwd()  # noqa: PTH109  # sys.path holds strings
    except OSError as error:
        raise ConfigError(
            f"the working folder cannot be used: {error.strerror}", "cd FOLDER   # one that exists"
        ) from error
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def _let_argparse_be() -> None:
    """Keeps Hydra 1.3 working on Python 3.14, whose argparse looks into help texts that Hydra makes when asked."""
    if sys.version_info >= (3, 14):
        argparse.ArgumentParser._check_help = lambda _self, _action: None  # type: ignore[attr-defined]  # noqa: SLF001


def _run(arguments: Arguments) -> int:
    task = Task(arguments.typed, as_json=arguments.json)
    take_sweep()
    try:
        with _command_line(arguments.rewritten()), _hydra_raises(), _sweeping(arguments):
            hydra.main(config_path=str(conf_dir()), config_name=CONFIG_NAME, version_base=VERSION_BASE)(task)()
    except BaseException as error:
        summary = _summary(take_sweep())
        if isinstance(error, Exception):
            return _failed(error, summary, arguments.typed)
        raise
    sweep = take_sweep()
    if sweep is None:
        return task.exit_code or 0
    summary = _summary(sweep)
    if summary is None:
        raise ConfigError(
            f"the sweep '{' '.join(arguments.typed)}' has no jobs: a glob(...) or range(...) in it is empty",
            f"{program()} --help   # lists the groups and their options",
        )
    return summary.exit_code


def _summary(sweep: Sweep | None) -> Summary | None:
    """Writes and shows how a sweep went; None where no job of it was started."""
    if sweep is None:
        return None
    from loader.sweep.summary import summarise  # noqa: PLC0415  # only a sweep has one
    from loader.sweep.table import show_summary  # noqa: PLC0415

    summary = summarise(sweep)
    if all(job.status == "not run" for job in summary.jobs):
        return None
    summary.write()
    show_summary(summary)
    return summary


def _failed(error: Exception, summary: Summary | None, typed: list[str]) -> int:
    """Tells why Hydra broke off; a launcher that broke a sweep off may raise anything."""
    refusal = translate(error, typed)
    if refusal is not None:
        raise refusal from error
    if summary is None:
        raise error
    if os.environ.get(_FULL_ERROR) == "1":
        traceback.print_exception(error)
    sys.stderr.write(f"the launcher broke the sweep off: {type(error).__name__}: {error}\n")
    return summary.exit_code


@contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Hands Hydra its arguments, which it takes from ``sys.argv``."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _hydra_raises() -> Iterator[None]:
    """Makes Hydra raise what it would print: this variable is the switch that it offers for that."""
    before = os.environ.get(_FULL_ERROR)
    os.environ[_FULL_ERROR] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FULL_ERROR]
        else:
            os.environ[_FULL_ERROR] = before


def _sweeping(arguments: Arguments) -> AbstractContextManager[None]:
    """Lets a sweep that a scheduler ends still write its summary, and end the job that it is at.

    A single run just ends: it has nothing to tidy up, and its model's own code might catch what a handler raises.
    """
    return terminable() if arguments.sweep else nullcontext()
