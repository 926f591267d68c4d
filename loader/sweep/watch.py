"""The lines that a sweep prints while it runs: one for each job that ends, and its progress.

Guarantees: whichever process ran a job, the process that sweeps prints its line, once, from the job's record; a record
that cannot be read is looked at again.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ..text.progress import Shown, progress
from .label import Labels, line_of
from .record import RUNNING, JobRecord
from .records import in_memory, read_one, records_folder
from .swept import swept_keys
from .table import STYLES

_PAUSE = 0.1
"""Seconds between two looks at the records."""
_MOST = 3
"""Running jobs that the progress names."""


class Watch:
    """Prints the line of each job of a sweep once it has ended, from a thread of its own.

    Args:
        folder: The sweep's.
        jobs: The overrides of each job; None if the sweeper chooses them as it goes.
        known: Keys that are swept in any case.
    """

    def __init__(self, folder: Path, jobs: Sequence[Sequence[str]] | None, known: Sequence[str] = ()) -> None:
        self._folder, self._jobs, self._known = folder, jobs, known
        self._labels: Labels | None = None
        self._seen: dict[int, JobRecord] = {}
        self._times: dict[int, int] = {}
        """When the record of a running job was written."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job lines", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Prints the lines of all jobs that have ended by now, and ends the thread."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        total = None if self._jobs is None else len(self._jobs)
        with progress("sweep", total=total, unit="jobs") as shown:
            while not self._over.wait(_PAUSE):
                self._look(shown)
            self._look(shown)

    def _look(self, shown: Shown) -> None:
        before = self._ended
        for record in sorted(self._changed(), key=lambda record: record.job):
            self._seen[record.job] = record
            if record.status not in (RUNNING, "not run"):
                self._print(record)
        running = [record for record in self._seen.values() if record.status == RUNNING]
        shown.advance(self._ended - before, note=self._named(running))

    @property
    def _ended(self) -> int:
        return sum(record.status not in (RUNNING, "not run") for record in self._seen.values())

    def _changed(self) -> Iterator[JobRecord]:
        """Yields the records that are new, or of jobs that were running at the last look."""
        kept = in_memory(self._folder)
        for job, record in kept.items():
            if self._may_change(job) and record is not self._seen.get(job):
                yield record
        with suppress(OSError), os.scandir(records_folder(self._folder)) as files:
            for file in files:
                number = _number(file.name)
                if number is not None and number not in kept and self._may_change(number):
                    yield from self._changed_file(number, file)

    def _changed_file(self, job: int, file: os.DirEntry[str]) -> Iterator[JobRecord]:
        with suppress(OSError, ValueError, TypeError):  # it is being replaced; there will be another look
            time = file.stat().st_mtime_ns
            if self._times.get(job) != time:
                record = read_one(Path(file.path))
                self._times[job] = time
                yield record

    def _may_change(self, job: int) -> bool:
        return job not in self._seen or self._seen[job].status == RUNNING

    def _print(self, record: JobRecord) -> None:
        total = "" if self._jobs is None else f"/{len(self._jobs)}"
        line = line_of(record, self._label(record), f"{self._ended}{total}")
        if not sys.stdout.isatty():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
            return
        from rich.console import Console  # noqa: PLC0415  # only a terminal needs it
        from rich.text import Text  # noqa: PLC0415

        text = Text(line)
        start = line.index(record.status)
        text.stylize(STYLES.get(record.status, ""), start, start + len(record.status))
        Console(highlight=False, soft_wrap=True).print(text)

    def _named(self, running: Sequence[JobRecord]) -> str:
        if not running:
            return ""
        names = [f"job {record.job} {self._label(record)}".rstrip() for record in running[:_MOST]]
        more = len(running) - len(names)
        return "running " + ", ".join([*names, *([f"{more} more"] if more > 0 else [])])

    def _label(self, record: JobRecord) -> str:
        if self._labels is None or self._jobs is None:
            known = self._jobs if self._jobs is not None else [seen.overrides for seen in self._seen.values()]
            self._labels = Labels(swept_keys(known, self._known), known)
        return self._labels.of(record.overrides, record.step)


def _number(name: str) -> int | None:
    stem, dot, ending = name.partition(".")
    return int(stem) if dot and ending == "json" and stem.isdecimal() else None
