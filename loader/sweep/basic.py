"""What Hydra's own sweeper and launcher are helped with.

Guarantees: each job's config is composed once; a job whose folder cannot be written runs all the same, or is refused
alone, and the jobs after it have their turn. This is the place that reaches into Hydra's own plugins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hydra._internal.core_plugins import basic_launcher  # private: kept to this module
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict, read_write

from ..errors import ConfigError
from ..report.terminal import print_error
from ..text.lines import Fix
from ..text.wording import safe_text
from .callback import origin
from .records import keep, new_record


def compose_once(composer: Any) -> None:
    """Has a config loader keep each job's config from where the sweeper tries it out until the launcher asks for it.

    Hydra's own sweeper and launcher compose every job twice, and one composition takes longer than all else that a job
    costs beside its load. Only both together do: another sweeper tries nothing out, and draws one job several times;
    another launcher sends the config loader to other processes.
    """
    compose: Callable[..., DictConfig] = composer.load_sweep_config
    kept: dict[tuple[str, ...], DictConfig | None] = {}

    def load_sweep_config(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        job = tuple(sweep_overrides)
        known, first = kept.get(job), job not in kept
        made = compose(master_config, sweep_overrides) if known is None else known
        kept[job] = made if first else None  # handed out to be run, it will be changed
        return made

    composer.load_sweep_config = load_sweep_config


@contextmanager
def every_job_has_its_turn() -> Iterator[None]:
    """Keeps Hydra's launcher from ending a sweep at a job whose folder it cannot write."""
    Plugins.instance()  # it runs the modules of its plugins anew, once
    plugin: Any = basic_launcher
    run_job = plugin.run_job

    def run_or_refuse(*, config: DictConfig, **others: Any) -> JobReturn:
        try:
            return run_job(config=config, **others)  # type: ignore[no-any-return]
        except (OSError, ValueError) as error:
            if not isinstance(error, OSError) and not isinstance(error.__cause__, OSError):  # `logging` wraps it
                raise
            # There is no room for what Hydra keeps of a job, its config and its log; the job itself may need none.
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.output_subdir = None
        try:
            return run_job(config=config, configure_logging=False, **others)  # type: ignore[no-any-return]
        except OSError as error:
            return _refused(config.hydra, error)

    plugin.run_job = run_or_refuse
    try:
        yield
    finally:
        plugin.run_job = run_job


def _refused(hydra: Any, error: OSError) -> JobReturn:
    where = f"the job's folder {safe_text(error.filename, 400)}" if error.filename else "the job's folder"
    told = f"{where} cannot be used: {error.strerror}"
    refusal = ConfigError(told, Fix("hydra.sweep.dir=FOLDER", "one with room"))
    record = new_record(hydra)
    record.refuse(refusal)
    started = origin()
    if started is not None:
        keep(record, started.folder)
    print_error(refusal)
    done = JobReturn(status=JobStatus.COMPLETED)
    done.return_value = refusal.exit_code
    return done
