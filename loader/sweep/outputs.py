"""How far the outputs of a sweep's jobs are from those of its reference job.

Guarantees: only what the jobs kept in their own folders is read, as data; a file that is missing or damaged costs its
own job the figure, and no job its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import LoaderError
from ..report.kept import KEPT, Kept, difference, read_kept
from .record import GOOD, JobRecord


def add_output_diffs(jobs: Sequence[JobRecord], reference: int) -> None:
    """Sets the `output_diff` of each job that kept its outputs, had the same inputs as the reference, and ended well.

    Args:
        jobs: The jobs of a sweep, in order.
        reference: The number of the reference job; one that did not end well is replaced by the first that did.
    """
    for job in jobs:
        job.output_diff = None
    good = [job for job in jobs if job.status in GOOD]
    chosen = next((job for job in good if job.job == reference), good[0] if good else None)
    kept = None if chosen is None else _kept(chosen)
    if kept is None:
        return
    for job in good:
        own = kept if job is chosen else _kept(job)
        job.output_diff = None if own is None else difference(kept, own)


def _kept(job: JobRecord) -> Kept | None:
    """Reads what a job kept; its report may name another place, which is not followed."""
    folder = Path(job.report).parent if job.report is not None else None
    if folder is None or not (folder / KEPT).is_file():
        return None
    try:
        return read_kept(folder / KEPT)
    except (LoaderError, OSError, ValueError):
        return None
