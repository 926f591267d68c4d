"""Runs one job of a sweep in its own process.

Guarantees: whether a job raises, exits or is killed, only its own process ends, its memory is released, and its record
says how it ended. A job ends with its sweep, however that ends. Processes are forked from a server that has imported
torch and the loader and run nothing else, so that only the first job pays for the imports; without fork servers, each
process starts afresh.
"""

from __future__ import annotations

import functools
import json
import math
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, setup_globals
from omegaconf import OmegaConf, open_dict

from ..config.compose import hydra_aside
from ..errors import INTERRUPTED, LoaderError
from ..report.data import ErrorReport, Report
from ..report.identity import Identity
from ..report.writing import json_text, write_report
from ..runtime import safe_path, unbreakable
from ..text.lines import Fix
from ..text.progress import Voice, speaking
from ..text.redaction import remember
from .output import print_error_into, print_into
from .processes import end_below, guarded, lead_group
from .record import JobRecord, Unwritten

_PULSE = 1
"""Seconds between a launcher process's checks that its sweep is still running."""


class OrphanedError(SystemExit):
    """The sweep is gone; the launcher's process must not take its next job."""


@dataclass(frozen=True, slots=True)
class _Request:
    """The input of a job's process, as plain data: a launcher's plugin may have made classes that do not pickle."""

    config: dict[str, Any]
    overrides: list[str]
    output_dir: str
    folder: str
    environment: dict[str, str]
    hydra: dict[str, Any]


def run_apart(
    config: dict[str, Any],
    record: JobRecord,
    folder: Path,
    environment: dict[str, str],
    swept: Callable[[], bool],
    timeout: float | None = None,
) -> None:
    """Runs Hydra's current job in its own process, and notes the outcome in its record.

    Args:
        config: The job's resolved config.
        record: Has the overrides and the folder; receives the outcome.
        folder: The sweep's.
        environment: The process's environment variables.
        swept: Returns whether the sweep is still running.
        timeout: Seconds that the job may take once its process has begun; None for any.

    Raises:
        OrphanedError: The sweep is gone; the job has been ended.
    """
    output_dir = Path(str(record.output_dir))
    hydra = _plain_hydra(HydraConfig.get())
    request = _Request(config, record.overrides, str(output_dir), str(Path.cwd()), environment, hydra)
    try:
        sent, process_code = _run(request, swept, timeout)
    except TimeoutError:
        record.time_out(timeout or 0)
        _report_end(config, record, output_dir)
        return
    except OrphanedError:
        raise
    except (KeyboardInterrupt, SystemExit):
        record.interrupt(folder)
        _report_end(config, record, output_dir)
        raise
    if sent and sent[-1] == process_code:
        record.settle(process_code, next((each for each in sent if isinstance(each, Unwritten)), None))
    else:
        record.crash(process_code)
        _report_end(config, record, output_dir)


def _plain_hydra(hydra: Any) -> dict[str, Any]:
    """Returns Hydra's settings unresolved, except those that another process might resolve differently."""
    settings: Any = OmegaConf.to_container(hydra, resolve=False)
    settings["job_logging"] = OmegaConf.to_container(hydra.job_logging, resolve=True)
    settings["sweep"]["dir"] = str(hydra.sweep.dir)
    return dict(settings)


def _report_end(config: dict[str, Any], record: JobRecord, output_dir: Path) -> None:
    """Notes below the job's output how it was ended, and writes the report that it could not write."""
    crash = ErrorReport(**(record.error or {}))
    print_error_into(output_dir, LoaderError(crash.message, *(Fix(**fix) for fix in crash.fixes)))
    if record.report is None:
        interrupted = crash.type == "Interrupted"
        report = Report(
            "failed" if interrupted else "error",
            record.exit_code or 1,
            crash,
            config=config,
            overrides=record.overrides,
        )
        report.environment = {"cwd": HydraConfig.get().runtime.cwd}
        with suppress(OSError):  # a full disk; the record has the error
            record.report = str(write_report(report, output_dir))


def _run(request: _Request, swept: Callable[[], bool], timeout: float | None) -> tuple[list[Any], int]:
    """Returns what the job sent, its exit code last, and the exit code of its process; or raises TimeoutError."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    processes: Any = multiprocessing.get_context(method)
    reader, writer = processes.Pipe(duplex=False)
    # Not a daemon: a job may start processes, as a DataLoader does.
    process = processes.Process(target=_child, args=(request, writer), name="job")
    sys.stdout.flush()
    sys.stderr.flush()
    if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        # A joblib worker makes its children start processes by a method that only joblib knows.
        multiprocessing.set_start_method(method, force=True)
    if method == "forkserver":
        _start_server()
    with reader:
        process.start()
        writer.close()
        with guarded(process, processes):
            return _await(process, reader, swept, timeout)


def _await(
    process: BaseProcess, reader: connection.Connection, swept: Callable[[], bool], timeout: float | None
) -> tuple[list[Any], int]:
    """Waits for a job's process, which sends something once it has begun, and its exit code in the end."""
    sent: list[Any] = []
    until, open_ = math.inf, True
    while True:
        awaited: list[Any] = [process.sentinel, reader] if open_ else [process.sentinel]
        ready = connection.wait(awaited, min(_PULSE, max(until - time.monotonic(), 0)))
        if process.sentinel in ready:
            break
        if reader in ready:
            if not sent and timeout is not None:
                until = time.monotonic() + timeout
            sent += (more := _received(reader))
            open_ = bool(more)
        elif time.monotonic() >= until:
            raise TimeoutError
        if not swept():
            raise OrphanedError
    process.join()
    while reader.poll() and (more := _received(reader)):
        sent += more
    code = process.exitcode
    return sent, 1 if code is None else code


def _received(reader: connection.Connection) -> list[Any]:
    """Returns the next thing that was sent; an empty list if nothing will be."""
    try:
        return [reader.recv()]
    except EOFError:
        return []


def _start_server() -> None:
    """Starts the server that jobs are forked from, unless it is running.

    The server silently ignores modules that it does not find, and would search the working folder first, with a user's
    own `loader.py`, `hydra.py` or `signal.py`: it gets a safe path, with this package first. A job's process then takes
    over the path and the environment of the process that it works for.
    """
    from multiprocessing import forkserver  # noqa: PLC0415  # not on Windows

    multiprocessing.set_forkserver_preload(["hydra_loader.sweep.preload"])
    with safe_path():
        forkserver.ensure_running()


@functools.cache
def hydra_schema() -> Any:
    """Returns Hydra's own settings with their defaults; made before the fork, filled in by a process's one job."""
    return OmegaConf.structured(HydraConf)


def _child(request: _Request, writer: connection.Connection) -> None:
    """Runs in a job's process."""
    lead_group()
    print_into(Path(request.output_dir))
    threading.Thread(target=_end_with_sweep, name="end with the sweep", daemon=True).start()
    writer.send(None)
    try:
        with unbreakable(), speaking(Voice.SILENT):  # the sweep shows its own progress
            exit_code = _run_here(request, writer)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    writer.send(exit_code)
    sys.exit(exit_code)


def _end_with_sweep() -> None:
    """Ends this process with the one that waits for it, even if that one was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        end_below()
        os._exit(INTERRUPTED)  # at once: nothing is left to clean up for


def _run_here(request: _Request, writer: connection.Connection) -> int:
    remember([request.config, request.overrides])
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # so that the output of a killed job is seen
    setup_globals()
    hydra = hydra_schema()
    with open_dict(hydra):  # Hydra itself adds nodes that its schema does not know
        hydra.merge_with(request.hydra)
    HydraConfig.instance().set_config(OmegaConf.create({"hydra": hydra}))
    try:
        configure_log(hydra.job_logging, hydra.verbose)
    except ValueError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        # No room for a log; other failures to write are reported where they happen.
    from ..job import run  # noqa: PLC0415  # imports torch, which only this process may

    def hand_over(report: Report, error: OSError) -> None:
        content = json.loads(json_text(report.to_dict()))
        writer.send(Unwritten.of(content, error.strerror or str(error)))

    identity, cwd = Identity(request.config), request.hydra["runtime"]["cwd"]
    with hydra_aside():
        return run(
            request.config,
            request.overrides,
            Path(request.output_dir),
            cwd=cwd,
            identity=identity,
            unwritten=hand_over,
        )
