"""The function that Hydra calls for each job.

Guarantees: it never raises because of a job, so that no launcher stops a sweep for one. A single run stays in this
process; each job of a sweep gets its own. A config that does not resolve is refused like any other. The files that
Hydra keeps of a job are redacted before the job runs.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ..config.compose import anchored, hydra_aside, near_misses, plain
from ..config.jobs import refusal_in, refuse_untested
from ..config.layers import replaced
from ..errors import INTERRUPTED, ConfigError
from ..report.data import REPORT, ErrorReport, Report
from ..runtime import find_modules_in, restored, unbreakable
from ..sweep.callback import Origin, origin
from ..sweep.sparing import spare_jobs_here
from ..text.redaction import redact_files, remember

if TYPE_CHECKING:
    from ..sweep.record import JobRecord

log = logging.getLogger(__name__)


class Task:
    """The jobs of one command.

    Args:
        typed: The overrides as the user typed them.
        as_json: Whether a single run prints its report as JSON instead of text, even after a refusal.
        as_test: Whether a job is refused that tests no checkpoint of its own.
    """

    def __init__(self, typed: list[str], *, as_json: bool = False, as_test: bool = False) -> None:
        self.typed = typed
        self.as_json = as_json
        self.as_test = as_test
        self.exit_code: int | None = None
        """The exit code of the run, or of the worst job run from this process; None if none was."""
        self.environment: dict[str, str | None] = {}
        """The user's values of variables that a sweep changed, for the processes of its jobs."""
        self.origin: Origin | None = None
        """Where the sweep was started, in a launcher's process."""
        self._noted: set[str] = set()

    def __call__(self, config: DictConfig) -> float | None:
        """Runs a job; returns its exit code, or what a sweeper gets that chooses jobs by their results."""
        hydra = HydraConfig.get()
        remember(OmegaConf.to_container(config, resolve=False))
        redact_files(self._kept_by(hydra))
        sources = [(source.path, source.provider) for source in hydra.runtime.config_sources]
        choices = dict(OmegaConf.to_container(hydra.runtime.choices, resolve=False))  # type: ignore[arg-type]
        for note in replaced(choices.items(), sources, str(hydra.job.config_name)):
            log.info("%s", note)
        self._note(near_misses(config, _typed(hydra)))
        if hydra.mode == RunMode.MULTIRUN:
            return self._run_in_sweep(config)
        self.exit_code = self._run(config)
        return self.exit_code

    def _note(self, notes: Sequence[str]) -> None:
        """Prints notes, each once for all jobs of a sweep."""
        for text in notes:
            if text not in self._noted and self.origin is None:  # a launcher's process has no terminal of its own
                from ..report.terminal import print_note  # noqa: PLC0415  # few runs have one

                print_note(text)
            self._noted.add(text)

    def _run(self, config: DictConfig) -> int:
        output_dir = Path(HydraConfig.get().runtime.output_dir)
        exit_code = self._run_in(output_dir, config)
        if self.as_json and (output_dir / REPORT).is_file():
            from ..report.terminal import print_json  # noqa: PLC0415  # only this flag needs it

            print_json(output_dir / REPORT)
        return exit_code

    def _run_in(self, output_dir: Path, config: DictConfig) -> int:
        try:
            resolved = self._accepted(config)
        except ConfigError as error:
            from ..report.terminal import print_error  # noqa: PLC0415  # only a refusal needs it

            print_error(error)
            return refused(error, config, self.typed, output_dir)
        from ..job import run  # noqa: PLC0415  # --help and --cfg do without

        cwd = HydraConfig.get().runtime.cwd
        with hydra_aside():
            return run(resolved, self.typed, output_dir, cwd=cwd, quiet=self.as_json)

    def _accepted(self, config: DictConfig) -> dict[str, Any]:
        resolved = _resolved(config)
        if self.as_test:
            refuse_untested(config, HydraConfig.instance().cfg, GlobalHydra.instance().config_loader())
        return resolved

    def __getstate__(self) -> dict[str, Any]:
        """Pickles the task with the sweep's origin, for a launcher's process."""
        return {**self.__dict__, "origin": origin()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickles it in a launcher's process."""
        self.__dict__.update(state)
        if self.origin is not None:
            spare_jobs_here(self.origin)

    def reused(self, config: DictConfig) -> JobReturn | None:
        """Returns the result that a resumed sweep has of a job; None if the job has to run.

        Hydra asks before it prepares the job, which takes longer than to find the result.

        Args:
            config: The job's composed config, with Hydra's node.
        """
        if OmegaConf.select(config, "sweep.resume") is None:
            return None
        from ..sweep.control import reuse  # noqa: PLC0415  # few sweeps resume another
        from ..sweep.folders import at_hand  # noqa: PLC0415
        from ..sweep.records import unprepared  # noqa: PLC0415

        with at_hand(config):
            own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            remember(OmegaConf.to_container(own, resolve=False))
            record = unprepared(config.hydra)
            try:
                reason = reuse(_resolved(own), record)
            except ConfigError:
                return None  # the job itself will say so
            return self._handed(record, self._folder()) if reason is None else None

    def _handed(self, record: JobRecord, folder: Path) -> JobReturn:
        from ..sweep.records import draws_jobs, hand_over, keep  # noqa: PLC0415  # see above
        from ..sweep.results import result_of  # noqa: PLC0415

        keep(record, folder)
        hydra, done = HydraConfig.get(), JobReturn(status=JobStatus.COMPLETED, overrides=record.overrides)
        done.return_value = result_of(record, hydra) if draws_jobs(hydra) else record.counts_as
        hand_over(record.job, done)
        self.exit_code = self.exit_code or 0
        return done

    def _run_in_sweep(self, config: DictConfig) -> float | None:
        from ..sweep.child import OrphanedError  # noqa: PLC0415  # not needed by a single run
        from ..sweep.records import draws_jobs, new_record, recorded  # noqa: PLC0415
        from ..sweep.results import result_of  # noqa: PLC0415
        from ..sweep.summary import worst  # noqa: PLC0415

        hydra = HydraConfig.get()
        if self.origin is not None:
            find_modules_in(hydra.runtime.cwd)
        try:
            with unbreakable(), recorded(self._folder()) as record:
                self._run_recorded(config, record)
        except ConfigError as error:
            record = new_record(hydra)
            record.refuse(error)
        except OrphanedError:
            os._exit(INTERRUPTED)
        self.exit_code = worst([self.exit_code or 0, record.counts_as])
        return result_of(record, hydra) if draws_jobs(hydra) else record.counts_as

    def _run_recorded(self, config: DictConfig, record: JobRecord) -> None:
        from ..sweep.control import run_job  # noqa: PLC0415  # not needed by a single run
        from ..sweep.output import print_error_into  # noqa: PLC0415

        environment, output_dir = restored(os.environ, self.environment), Path(str(record.output_dir))
        try:
            run_job(self._accepted(config), record, self._folder(), environment, self._is_swept)
        except ConfigError as error:
            print_error_into(output_dir, error)
            record.settle(refused(error, config, record.overrides, output_dir))
        except Exception as error:
            # No process could be started, or a bug: the next jobs still run.
            log.exception("the job could not be run")
            record.fail(error)

    def _kept_by(self, hydra: HydraConf) -> Iterator[Path]:
        """Yields the files in which Hydra has kept the configs of a job and its sweep before the job begins."""
        if hydra.output_subdir is not None:
            yield from (Path(hydra.runtime.output_dir) / hydra.output_subdir).glob("*.yaml")
        if hydra.mode == RunMode.MULTIRUN:
            yield self._folder() / "multirun.yaml"

    def _folder(self) -> Path:
        """Returns the sweep's folder, which a job's own settings may contradict."""
        known, hydra = self.origin or origin(), HydraConfig.get()
        return known.folder if known is not None else Path(hydra.runtime.cwd, str(hydra.sweep.dir))

    def _is_swept(self) -> bool:
        """Returns whether the sweep is still running; on another machine, a scheduler ends its jobs."""
        from ..sweep.folders import is_written  # noqa: PLC0415  # not needed by a single run

        started = self.origin
        return started is None or started.host != platform.node() or is_written(started.folder)


def _resolved(config: DictConfig) -> dict[str, Any]:
    """Returns the config as plain data, with paths relative to the folder in which they were typed."""
    hydra = HydraConfig.get()
    refusal = refusal_in(hydra)
    if refusal is not None:
        raise refusal
    resolved = plain(config, _typed(hydra))
    scaffold = resolved.get("scaffold")
    if resolved.get("mode") == "scaffold" and isinstance(scaffold, dict) and scaffold.get("path") is None:
        scaffold["path"] = _own_configs(hydra)
    return anchored(resolved, hydra.runtime.cwd) if hydra.job.chdir else resolved


def _typed(hydra: HydraConf) -> list[str]:
    return list(OmegaConf.to_container(hydra.overrides.task, resolve=False))  # type: ignore[arg-type]


def _own_configs(hydra: HydraConf) -> str:
    """Returns the folder for a scaffolded config: the user's own config folder, if there is one."""
    own = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    folder = f"{os.path.relpath(own[0], hydra.runtime.cwd)}/" if own else "conf/"
    return f"{folder}experiment/"


def refused(error: ConfigError, config: DictConfig, overrides: list[str], output_dir: Path) -> int:
    """Reports a refusal before the job could start; returns its exit code."""
    from ..job import reported  # noqa: PLC0415  # only a refusal needs it

    unresolved = OmegaConf.to_container(config, resolve=False)
    report = Report(status="failed", exit_code=error.exit_code, overrides=list(overrides))
    report.environment = {"cwd": HydraConfig.get().runtime.cwd}
    report.error = ErrorReport.of(type(error).__name__, error.message, error.fixes)
    report.config = {str(key): value for key, value in dict(unresolved).items()}  # type: ignore[arg-type]
    return reported(report, output_dir)
