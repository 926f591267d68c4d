"""Keeps Hydra's launchers from ending a sweep for one of its jobs.

Guarantees: each job's config is composed once, when it is the job's turn. A job whose folder cannot be written runs all
the same, or is refused alone; the jobs after it still run, in this process and in those of other launchers. A job
whose result is there already is not prepared. The config of a job that is over is not kept. This module wraps private
parts of Hydra: `run_job`, and `Sweeper.validate_batch_is_legal`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from hydra._internal.core_plugins import basic_launcher
from hydra.core import utils
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, open_dict, read_write

from ..errors import ConfigError
from ..text.lines import Fix
from ..text.wording import safe_text
from .callback import Origin, origin


@contextmanager
def every_job_has_its_turn() -> Iterator[None]:
    """Keeps Hydra from ending a sweep at a job whose folder it cannot write, or whose config it cannot compose."""
    Plugins.instance()  # imports the modules of its plugins a second time
    plugin: Any = basic_launcher
    run_job, sweeper = plugin.run_job, cast("Any", Sweeper)
    validate = sweeper.validate_batch_is_legal
    spared = _spared(run_job)

    def run_lightly(**arguments: Any) -> JobReturn:
        done = spared(**arguments)
        done.cfg = done.hydra_cfg = None  # the launcher keeps what it returns until the sweep is over
        return done

    plugin.run_job, sweeper.validate_batch_is_legal = run_lightly, lambda *_: None  # `refuse_mistyped` has done it
    try:
        yield
    finally:
        plugin.run_job, sweeper.validate_batch_is_legal = run_job, validate


def spare_jobs_here(started: Origin) -> None:
    """Does the same in a process of another launcher, which has imported Hydra's function by now.

    Args:
        started: Where the sweep was started.
    """
    global _elsewhere  # a launcher's process works for one sweep
    first, _elsewhere = _elsewhere is None, started
    if first:
        run_job = utils.run_job
        spared = _spared(run_job)
        launchers = [module for name, module in [*sys.modules.items()] if name.startswith("hydra_plugins.")]
        for module in (utils, *launchers):
            if vars(module).get("run_job") is run_job:
                vars(module)["run_job"] = spared


_elsewhere: Origin | None = None


def _spared(run_job: Callable[..., JobReturn]) -> Callable[..., JobReturn]:
    """Returns Hydra's `run_job`, but for jobs whose result is there, or whose folder has no room."""

    def run_or_refuse(*, config: DictConfig, **others: Any) -> JobReturn:
        asked = getattr(others.get("task_function"), "reused", None)  # another program's task has no such method
        done: JobReturn | None = asked(config) if asked is not None else None
        if done is not None:
            return done
        try:
            return run_job(config=config, **others)
        except (OSError, ValueError) as error:
            if not isinstance(error, OSError) and not isinstance(error.__cause__, OSError):  # `logging` wraps it
                raise
            # No room for the config and log that Hydra keeps of a job; the job itself may need none.
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.output_subdir = None
        try:
            return run_job(config=config, **{**others, "configure_logging": False})
        except OSError as error:
            return _refused(config.hydra, error)

    return run_or_refuse


def _refused(hydra: Any, error: OSError) -> JobReturn:
    from .records import hand_over, keep, new_record  # noqa: PLC0415  # only a refusal needs them

    where = f"the job's folder {safe_text(error.filename, 400)}" if error.filename else "the job's folder"
    fault = f"{where} cannot be used: {error.strerror}"
    refusal = ConfigError(fault, Fix("hydra.sweep.dir=FOLDER", "one with free space"))
    record = new_record(hydra)
    record.refuse(refusal)
    started = origin() or _elsewhere
    if started is not None:
        keep(record, started.folder)
    done = JobReturn(status=JobStatus.COMPLETED)
    done.return_value = refusal.exit_code
    hand_over(record.job, done)
    return done
