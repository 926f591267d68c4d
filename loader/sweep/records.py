"""The record of each job while a sweep runs.

Guarantees: a job's record is written atomically before it starts and after it ended, so that the summary can be made
whatever happened to the processes in between. Launchers run jobs in their own processes, so records are on disk; those
of this process are also kept in memory, for a full disk.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from ..config.rewrite import readable
from ..errors import ConfigError
from ..report.data import REPORT
from ..report.writing import write_json
from ..text.lines import Fix
from .record import BAD, JobRecord

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"

_FOLDER = ".jobs"
_BAD = ".bad"
"""The ending of an empty file beside the record of a job that did not end well: it is found without reading all."""
_HANDED = "loader_record"
_kept: dict[Path, dict[int, JobRecord]] = {}
"""The records of this process's jobs, by the sweep's folder."""


def new_record(hydra: Any) -> JobRecord:
    """Makes the record of a job that has not begun, from Hydra's settings."""
    record = unprepared(hydra)
    record.output_dir = str(hydra.runtime.output_dir)
    return record


def unprepared(hydra: Any) -> JobRecord:
    """Makes the record of a job that has no folder yet."""
    return JobRecord(int(hydra.job.num), readable(typed_overrides(hydra)))


@contextmanager
def recorded(folder: Path) -> Iterator[JobRecord]:
    """Yields the record of the job that Hydra is running, and writes it to disk at the end.

    Args:
        folder: The sweep's.

    Raises:
        ConfigError: The job's folder is another job's, or contains a report that cannot be removed.
    """
    record = new_record(HydraConfig.get())
    try:
        _prepare(record, folder)
    except ConfigError as error:
        record.refuse(error)
        keep(record, folder)
        raise
    keep(record, folder)
    started = time.perf_counter()
    try:
        yield record
    except (KeyboardInterrupt, SystemExit):
        record.interrupt(folder)
        raise
    finally:
        if record.seconds is None and record.status != "not run":
            record.seconds = round(time.perf_counter() - started, 3)
        keep(record, folder)


def _prepare(record: JobRecord, folder: Path) -> None:
    output_dir, record.output_dir = str(record.output_dir), None
    # The folders of jobs known before the sweep were compared then.
    others = read_all(folder).values() if draws_jobs(HydraConfig.get()) else ()
    for other in others:
        if other.output_dir == output_dir and other.job != record.job:
            fault = f"job {record.job} has the folder of job {other.job}, {output_dir}; expected one folder per job"
            raise ConfigError(fault, Fix("'hydra.sweep.subdir=${hydra.job.num}'"))
    try:
        # A report of an earlier run in the same folder must not be taken for this job's.
        Path(output_dir, REPORT).unlink(missing_ok=True)
    except OSError as error:
        fault = f"{output_dir}/{REPORT}, of an earlier run, cannot be removed: {error.strerror}"
        raise ConfigError(fault, Fix("hydra.sweep.dir=FOLDER", "a writable folder")) from error
    record.output_dir = output_dir


def draws_jobs(hydra: Any) -> bool:
    """Returns whether the sweeper chooses jobs as results come in; Hydra's own one knows them all beforehand."""
    return bool(OmegaConf.select(hydra, "sweeper._target_") != BASIC_SWEEPER)


def typed_overrides(hydra: Any) -> list[str]:
    """Returns a job's overrides as text, without resolving interpolations in them."""
    overrides = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return [str(override) for override in overrides] if isinstance(overrides, list) else []


def keep(record: JobRecord, sweep_dir: Path) -> None:
    """Writes a record, replacing the job's earlier one."""
    _kept.setdefault(sweep_dir, {})[record.job] = dataclasses.replace(record)  # a thread looks at it
    folder = records_folder(sweep_dir)
    with suppress(OSError):  # a full disk; the summary is made from memory
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{record.job}.json", record.to_dict())
        mark = folder / f"{record.job}{_BAD}"
        mark.touch() if record.status in BAD else mark.unlink(missing_ok=True)


def hand_over(job: int, done: JobReturn) -> None:
    """Adds the record of a job that ran in this process to its result, for the process that awaits it."""
    own = next((records[job] for records in _kept.values() if job in records), None)
    vars(done)[_HANDED] = own.to_dict() if own is not None else None


def take_over(done: JobReturn, sweep_dir: Path) -> None:
    """Keeps the record in the result of a job that ran in another process, in memory alone."""
    handed = vars(done).pop(_HANDED, None)
    if handed is not None:
        record = JobRecord(**handed)
        _kept.setdefault(sweep_dir, {}).setdefault(record.job, record)


def count_bad(sweep_dir: Path) -> int:
    """Returns how many jobs of a sweep did not end well so far, in all processes that run some."""
    marked = {int(file.stem) for file in records_folder(sweep_dir).glob(f"[0-9]*{_BAD}")}
    own = {job for job, record in _kept.get(sweep_dir, {}).items() if record.status in BAD}
    return len(marked | own)


def read_all(sweep_dir: Path) -> dict[int, JobRecord]:
    """Reads the records of a sweep, by job."""
    records = map(_read_or_lost, records_folder(sweep_dir).glob("[0-9]*.json"))
    return {record.job: record for record in records} | in_memory(sweep_dir)


def _read_or_lost(file: Path) -> JobRecord:
    """Reads a record; a damaged one is that of a job that has not ended."""
    try:
        return read_one(file)
    except (OSError, ValueError, TypeError):
        return JobRecord(int(file.stem))


def read_one(file: Path) -> JobRecord:
    """Reads the record in a file; raises OSError, ValueError or TypeError if there is none."""
    return JobRecord(**json.loads(file.read_text(encoding="utf-8")))


def in_memory(sweep_dir: Path) -> dict[int, JobRecord]:
    """Returns the records of the jobs that this process ran, by job."""
    return dict(_kept.get(sweep_dir, {}))


def forget(sweep_dir: Path) -> None:
    """Removes all records; the summary replaces them."""
    _kept.pop(sweep_dir, None)
    shutil.rmtree(records_folder(sweep_dir), ignore_errors=True)


def records_folder(sweep_dir: Path) -> Path:
    """Returns the folder of a sweep's records while it runs."""
    return sweep_dir / _FOLDER
