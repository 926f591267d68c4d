"""Runs one job of a sweep in a process of its own.

Guarantees: whatever a job does - raises, exits, is killed - only its own process ends, and its record says how; its
memory goes with it. A job ends with its sweep, however that ends. Processes are forked from one that has torch and the
loader imported and ran nothing else, so that only the first job pays for importing them; where there is no such server,
each starts afresh.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
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
from ..errors import LoaderError
from ..report.data import ErrorReport, Report
from ..report.files import write_report
from ..report.streams import unbreakable
from ..text.lines import Fix
from ..text.redaction import remember
from .python_path import safe_path
from .records import INTERRUPTED, JobRecord

_PATIENCE = 5
"""Seconds that a job which was told to stop gets for it."""

_PULSE = 1
"""Seconds after which a launcher's process looks again whether its sweep is still there."""


class OrphanedError(SystemExit):
    """The sweep is gone: a launcher's process would work on, and take the next job."""


@dataclass(frozen=True, slots=True)
class _Request:
    """All that a job's process needs, as plain data: a launcher's plugin may have made classes that do not pickle."""

    config: dict[str, Any]
    overrides: list[str]
    output_dir: str
    folder: str
    environment: dict[str, str]
    hydra: dict[str, Any]


def run_apart(
    config: dict[str, Any], record: JobRecord, environment: dict[str, str], swept: Callable[[], bool]
) -> None:
    """Runs the job that Hydra is at in a process of its own, and notes on its record how that ended.

    Args:
        config: The job's resolved config.
        record: Tells the overrides and the folder; gets the outcome.
        environment: The process's.
        swept: Says whether the sweep is still there.

    Raises:
        OrphanedError: It is not; the job has been ended.
    """
    output_dir = Path(str(record.output_dir))
    hydra = _plain_hydra(HydraConfig.get())
    request = _Request(config, record.overrides, str(output_dir), str(Path.cwd()), environment, hydra)
    exit_code, process_code = _run(request, swept)
    if exit_code is not None and exit_code == process_code:
        record.settle(exit_code)
    else:
        record.crash(process_code)
        _tell_crash(config, record, output_dir)


def _plain_hydra(hydra: Any) -> dict[str, Any]:
    """Hydra's settings as they stand, but for those that another process might resolve to something else."""
    settings: Any = OmegaConf.to_container(hydra, resolve=False)
    settings["job_logging"] = OmegaConf.to_container(hydra.job_logging, resolve=True)
    settings["sweep"]["dir"] = str(hydra.sweep.dir)
    return dict(settings)


def _tell_crash(config: dict[str, Any], record: JobRecord, output_dir: Path) -> None:
    """Says what a job could not say any more, and writes the report that it did not come to write."""
    from ..report.terminal import print_error  # noqa: PLC0415  # only a crash needs it

    told = ErrorReport(**(record.error or {}))
    print_error(LoaderError(f"job {record.job}: {told.message}", *(Fix(**fix) for fix in told.fixes)))
    if record.report is None:
        report = Report("error", record.exit_code or 1, told, config=config, overrides=record.overrides)
        record.report = str(write_report(report, output_dir))


def _run(request: _Request, swept: Callable[[], bool]) -> tuple[int | None, int]:
    """Returns what the job said its exit code is, if it came to say so, and what the system says."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    processes: Any = multiprocessing.get_context(method)
    reader, writer = processes.Pipe(duplex=False)
    # Not a daemon: a job may have processes of its own, as a DataLoader does.
    process = processes.Process(target=_child, args=(request, writer), name="job")
    sys.stdout.flush()
    sys.stderr.flush()
    if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        # A worker of joblib's tells its children to start processes by a method that only itself knows.
        multiprocessing.set_start_method(method, force=True)
    if method == "forkserver":
        _start_server()
    with reader:
        process.start()
        writer.close()
        try:
            return _await(process, reader, swept)
        finally:
            _stop(process)


def _await(process: BaseProcess, reader: connection.Connection, swept: Callable[[], bool]) -> tuple[int | None, int]:
    while not connection.wait([process.sentinel], _PULSE):
        if not swept():
            raise OrphanedError
    process.join()
    try:
        told = reader.recv() if reader.poll() else None
    except EOFError:
        told = None
    code = process.exitcode
    return told, 1 if code is None else code


def _stop(process: BaseProcess) -> None:
    """Ends a process that is still there, which it is only when the waiting for it was interrupted."""
    if process.is_alive():
        process.terminate()
        process.join(_PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()


def _start_server() -> None:
    """Starts the process that jobs are forked from, if it is not running.

    It passes in silence over a module that it does not find, and would look into the working folder first, where the
    user's own `loader.py`, `hydra.py` or `signal.py` lies: it gets a safe path, with this package at its front. A job's
    process then takes over the path and the environment of the one that it works for.
    """
    from multiprocessing import forkserver  # noqa: PLC0415  # not on Windows

    multiprocessing.set_forkserver_preload(["hydra_loader.sweep.preload"])
    with safe_path():
        forkserver.ensure_running()


@functools.cache
def hydra_schema() -> Any:
    """Hydra's own settings before anybody sets one; made before the fork, filled in by the one job of a process."""
    return OmegaConf.structured(HydraConf)


def _child(request: _Request, writer: connection.Connection) -> None:
    """What a job's process does."""
    threading.Thread(target=_end_with_sweep, name="end with the sweep", daemon=True).start()
    try:
        with unbreakable():
            exit_code = _run_here(request)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    writer.send(exit_code)
    sys.exit(exit_code)


def _end_with_sweep() -> None:
    """Ends this process with the one that waits for it, even where that was killed and could tell nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(INTERRUPTED)  # at once: whoever would want to tidy up is gone


def _run_here(request: _Request) -> int:
    remember([request.config, request.overrides])
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # what a killed job had printed is seen
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
        # There is no room for a log; what else cannot be written is told where it happens.
    from ..job import run  # noqa: PLC0415  # imports torch, which only this process may

    with hydra_aside():
        return run(request.config, request.overrides, Path(request.output_dir))
