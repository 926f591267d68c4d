"""Many jobs, each in a process of its own.

`callback` notes what a sweep is about to do, `child` runs one job apart, `records` keeps what became of it, `summary`
says how the sweep went and `table` shows it. Nothing here imports torch; only a job's own process does.
"""

from loader.sweep.callback import Sweep, SweepCallback, take_sweep
from loader.sweep.child import run_apart
from loader.sweep.records import JobRecord, recorded
from loader.sweep.summary import Summary, summarise, worst

__all__ = [
    "JobRecord",
    "Summary",
    "Sweep",
    "SweepCallback",
    "recorded",
    "run_apart",
    "summarise",
    "take_sweep",
    "worst",
]
