"""The command line.

Guarantees: one process, one exit code (0 to 6, or 130 when interrupted); every refusal is one block on stderr without
a traceback, including Hydra's own refusals (HYDRA_FULL_ERROR=1 also shows the traceback); only a job imports torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import hydra
from hydra.errors import HydraException

from ..config.argv import Arguments, parse_arguments
from ..config.compose import VERSION_BASE
from ..config.judged import judged
from ..config.layers import CONFIG_NAME
from ..config.messages import translate
from ..config.rewrite import for_hydra
from ..errors import INTERRUPTED, ConfigError, LoaderError
from ..files.path import conf_dir
from ..runtime import find_modules_in, printing_failed, safe_path, terminable, unbreakable
from ..sweep.callback import Abandoned, DryRun, Sweep, expecting, take_sweep
from ..sweep.sparing import every_job_has_its_turn
from ..text.lines import Fix, program
from ..text.progress import Voice, speaking
from ..text.redaction import remember
from ..track import summarized
from .help import completing, fitted, shown
from .task import Task

_FULL_ERROR = "HYDRA_FULL_ERROR"


def main() -> None:
    """Runs the command in ``sys.argv``, and ends the process with its exit code."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str], *, as_test: bool = False) -> int:
    """Runs one command.

    Args:
        arguments: The words after the program's name.
        as_test: Whether a job is refused that tests no checkpoint of its own.

    Returns:
        The exit code.

    Raises:
        SystemExit: Commands that only show something, such as ``--help``, end as in argparse and Hydra.
    """
    _let_argparse_be()
    with unbreakable():
        return _guarded(lambda: _printed(_answer(arguments, as_test=as_test)))


def _answer(arguments: Sequence[str], *, as_test: bool) -> int:
    _find_modules_here()
    remember(arguments)
    parsed = dataclasses.replace(parse_arguments(arguments), as_test=as_test)
    if shown(parsed):
        return 0
    with completing(parsed) as answered, fitted(parsed):
        return 0 if answered else _run(parsed)
    return 0


def _printed(exit_code: int) -> int:
    """Refuses success to a command whose output was lost."""
    failed = printing_failed()
    if failed is None or exit_code != 0:
        return exit_code
    raise ConfigError(
        f"part of the output is lost: stdout could not be written ({failed.strerror})",
        Fix("df -h", "shows which disk is full"),
    )


def _guarded(command: Callable[[], int]) -> int:
    """Runs a command; prints a refusal and returns its exit code."""
    try:
        return command()
    except LoaderError as error:
        if os.environ.get(_FULL_ERROR) == "1":
            traceback.print_exception(error)
        from ..report.terminal import print_error  # noqa: PLC0415  # only a refusal needs it

        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED


def _find_modules_here() -> None:
    try:
        find_modules_in(os.getcwd())  # noqa: PTH109  # sys.path holds strings
    except OSError as error:
        fault = f"the working folder cannot be used: {error.strerror}"
        raise ConfigError(fault, Fix("cd FOLDER", "one that exists")) from error


def _let_argparse_be() -> None:
    """Keeps Hydra 1.3 working on Python 3.14, whose argparse checks help texts that Hydra makes lazily."""
    if sys.version_info >= (3, 14):
        argparse.ArgumentParser._check_help = lambda _self, _action: None  # type: ignore[attr-defined]  # noqa: SLF001


def _run(arguments: Arguments) -> int:
    """Runs a job or a sweep, with its progress shown beside a text, but not beside JSON."""
    with speaking(Voice.SILENT if arguments.json else Voice.LINES):
        return _run_either(arguments)


def _run_either(arguments: Arguments) -> int:
    """Runs a job or a sweep; a config can make it a sweep, as the command line can."""
    refusal = None
    try:
        overrides = for_hydra(arguments)
        refusal = arguments.refused_as_single_run()
    except ConfigError as error:
        refusal, overrides = error, _overrides_of_a_sweep(arguments, error)
    exit_code = _run_hydra(arguments, overrides, refusal)
    if exit_code is not None:
        return exit_code
    swept = arguments.as_sweep()
    return _run_hydra(swept, for_hydra(swept)) or 0


def _overrides_of_a_sweep(arguments: Arguments, refusal: ConfigError) -> list[str]:
    """Returns the overrides of a sweep for arguments that a single run refuses, or raises the refusal."""
    if arguments.sweep or arguments.shows:
        raise refusal
    try:
        return for_hydra(arguments.as_sweep())
    except ConfigError:
        raise refusal from None


def _run_hydra(arguments: Arguments, overrides: list[str], refusal: ConfigError | None = None) -> int | None:
    """Runs Hydra.

    Args:
        arguments: The command line.
        overrides: Its overrides for Hydra.
        refusal: Why it is not valid for a single run, if so; then nothing runs unless a config makes it a sweep.

    Returns:
        The exit code; None if a config makes this a sweep, and it was read as a single run.
    """
    task = Task(arguments.typed, as_json=arguments.json, as_test=arguments.as_test)
    runs = _nothing if refusal else task
    take_sweep()
    try:
        with _command_line(overrides), _hydra_raises(), _sweeping(arguments, task, refusal), judged():
            hydra.main(config_path=str(conf_dir()), config_name=CONFIG_NAME, version_base=VERSION_BASE)(runs)()
    except DryRun:
        return 0
    except Abandoned as abandoned:
        if abandoned.refusal is not None:
            raise abandoned.refusal from None
        return None
    except Exception as error:  # noqa: BLE001  # anything that Hydra and its plugins raise is translated, or raised again
        if refusal is not None:
            raise refusal from None
        return _failed(error, take_sweep(), arguments.typed)
    except BaseException:
        _concluded(take_sweep(), stopped=True)
        raise
    if refusal is not None:
        raise refusal
    sweep = take_sweep()
    if sweep is None:
        return task.exit_code or 0
    exit_code = _concluded(sweep)
    if exit_code is None:
        raise ConfigError(
            f"the sweep '{' '.join(arguments.typed)}' has no jobs: a glob(...) or range(...) in it is empty",
            Fix(f"{program()} --help", "lists the groups and their options"),
        )
    return exit_code


def _nothing(_config: object) -> None:
    """Replaces the task when nothing may run."""


def _concluded(sweep: Sweep | None, *, broken: bool = False, stopped: bool = False) -> int | None:
    """Writes and shows the summary of a sweep; returns None if no job was started."""
    if sweep is None:
        return None
    from ..sweep.summary import conclude  # noqa: PLC0415  # only a sweep has one

    exit_code = conclude(sweep, broken=broken, stopped=stopped)
    if exit_code is not None:
        summarized(sweep.folder)
    return exit_code


def _failed(error: Exception, sweep: Sweep | None, typed: list[str]) -> int:
    """Reports why Hydra stopped; a launcher that ends a sweep may raise anything."""
    if sweep is not None and isinstance(error, OSError) and not isinstance(error, HydraException):
        refusal = _unwritable(error, sweep)
    else:  # Hydra's error for a missing option is an OSError too
        refusal = translate(error, typed)
    exit_code = _concluded(sweep, broken=refusal is None and sweep is not None and bool(sweep.plugins))
    if refusal is not None:
        raise refusal from error
    if sweep is None or (exit_code is None and not sweep.plugins):
        raise error
    if os.environ.get(_FULL_ERROR) == "1":
        traceback.print_exception(error)
    from ..sweep.summary import print_broken_off  # noqa: PLC0415  # only a sweep is broken off

    print_broken_off(error, sweep)
    return ConfigError.exit_code if exit_code is None else exit_code


def _unwritable(error: OSError, sweep: Sweep) -> ConfigError | None:
    """Refuses an unwritable folder, Hydra's only OSError; other launchers may raise one for any reason."""
    from ..sweep.folders import unwritable  # noqa: PLC0415  # only a sweep has one

    return None if sweep.plugins else unwritable(sweep.folder, error)


@contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Passes arguments to Hydra, which reads ``sys.argv``."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _hydra_raises() -> Iterator[None]:
    """Makes Hydra raise errors instead of printing them, by the variable that it has for this."""
    before = os.environ.get(_FULL_ERROR)
    os.environ[_FULL_ERROR] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FULL_ERROR]
        else:
            os.environ[_FULL_ERROR] = before


@contextmanager
def _sweeping(arguments: Arguments, task: Task, refusal: ConfigError | None) -> Iterator[None]:
    """Lets a sweep that a scheduler ends write its summary and end its current job.

    A single run just ends: it has nothing to clean up, and its model's own code might catch what a handler raises.
    """
    if not arguments.sweep:
        with expecting(sweep=False, refusal=refusal):
            yield
        return
    from ..sweep.command import Start  # noqa: PLC0415  # only a sweep has jobs to run alone
    from ..sweep.launchers import mended  # noqa: PLC0415

    expected = expecting(sweep=True, refusal=refusal, start=Start.of(arguments))
    with expected, terminable(), every_job_has_its_turn(), mended(), safe_path() as task.environment:
        yield
