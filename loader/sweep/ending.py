"""How a sweep ends: with its summary, whatever broke it off and however full the disk is.

Guarantees: every job that ran is on the terminal, and on disk where there is room; the folder is free afterwards.
"""

from __future__ import annotations

from ..errors import ConfigError
from ..report.terminal import print_error
from ..text.lines import Fix
from ..text.wording import safe_text
from .callback import Sweep
from .records import forget
from .summary import Summary, summarise, worst
from .table import show_summary

_LONGEST = 400


def conclude(sweep: Sweep, *, broken: bool = False) -> int | None:
    """Writes and shows how a sweep went.

    Args:
        sweep: What was noted when it began.
        broken: Whether something else than a job broke it off; then jobs are listed that were not run.

    Returns:
        The sweep's exit code; None where none of its jobs was started and there is nothing to say.
    """
    try:
        summary = summarise(sweep)
        ran = any(job.status != "not run" for job in summary.jobs)
        if not summary.jobs or not (ran or broken):
            return None
        return worst([summary.exit_code if ran else ConfigError.exit_code, _write(summary)])
    finally:
        if sweep.claim is not None:
            sweep.claim.release()


def _write(summary: Summary) -> int:
    try:
        summary.write()
    except OSError as error:
        show_summary(summary, written=False)
        told = f"the summary could not be written into {safe_text(str(summary.folder), _LONGEST)}: {error.strerror}"
        refusal = ConfigError(told, Fix("hydra.sweep.dir=FOLDER", "one with room"))
        print_error(refusal)
        return refusal.exit_code
    show_summary(summary)
    forget(summary.folder)
    return 0


def print_broken_off(error: Exception, sweep: Sweep) -> None:
    """Says what broke a sweep off: a launcher may need what is not there."""
    what = " or ".join(sweep.plugins) or "the launcher"
    told = f"{what} broke the sweep off: {type(error).__name__}: {safe_text(str(error), _LONGEST)}"
    elsewhere = [Fix("hydra/launcher=basic", "one job after another, on this machine")] if sweep.plugins else []
    print_error(ConfigError(told, *elsewhere))
