"""Hydra's launchers of other processes: joblib, submitit and ray.

Guarantees: a worker that dies costs only the jobs that it held. The results of all other workers are awaited, jobs that
the launcher drops before they began are launched again, and jobs without a result run again once, one after another, in
Hydra's basic way. The sweeper gets one result for each job, whichever way it ran. A launcher that has started no job,
and any other launcher, fails as it did. Each plugin's code is
replaced in one place for this, while it launches: the function that raises at the first worker that died.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from ..text.wording import listing
from .record import RUNNING, JobRecord
from .records import draws_jobs, keep, read_all, records_folder, take_over
from .results import result_of

JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
SUBMITIT = "hydra_plugins.hydra_submitit_launcher.submitit_launcher"
RAY = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"

_SETTINGS: dict[str, dict[str, Any]] = {
    # Jobs that are dispatched together are lost together.
    JOBLIB: {"batch_size": 1},
    # A dashboard is a web server; jobs write into their own folders; what ray runs again by itself would run twice.
    RAY: {"ray.init.include_dashboard": False, "ray.init.log_to_driver": False, "ray.remote.max_retries": 0},
}
"""What a sweep needs of a launcher, unless the user has set it: joblib's own default is the text `auto`."""

_UNSET = (None, "auto")
_MOMENT = 10
"""Seconds in which joblib has ended the other workers of a pool in which one died, and their jobs before them."""


class Lost(JobReturn):
    """Stands for the result of a job that its worker did not give.

    Args:
        reason: What the launcher raised for it.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self.reason = type(reason).__name__


_Jobs = dict[int, Sequence[str]]
"""The overrides of each job, by its number in the sweep."""


class Mended(Launcher):
    """A launcher that runs jobs again if their worker died.

    Args:
        launcher: Hydra's launcher, set up.
        basic: Hydra's own launcher, set up alike.
        hydra: Hydra's settings.
        patience: Makes the launcher await all its workers.
    """

    def __init__(
        self, launcher: Launcher, basic: Launcher, hydra: Any, patience: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._launcher, self._basic, self._hydra, self._patience = launcher, basic, hydra, patience
        self._folder = Path(str(hydra.runtime.cwd), str(hydra.sweep.dir))

    def setup(self, **_surroundings: Any) -> None:
        """Both launchers are set up already."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs jobs; returns their results in order."""
        jobs: _Jobs = dict(enumerate(job_overrides, initial_job_idx))
        done = self._launched(jobs)
        lost = {job: result.reason for job, result in done.items() if isinstance(result, Lost)}
        if lost:
            _report(lost)
        for result in done.values():
            take_over(result, self._folder)
        again = {job: self._basic.launch([jobs[job]], initial_job_idx=job)[0] for job in lost}
        return [(done | again)[job] for job in jobs]

    def _reopen(self, done: Mapping[int, JobReturn]) -> None:
        """Takes back how lost jobs seemed to end, which would count for `sweep.stop_after`."""
        records = read_all(self._folder)
        for job in [job for job, result in done.items() if isinstance(result, Lost) and job in records]:
            keep(JobRecord(job, records[job].overrides, output_dir=records[job].output_dir), self._folder)

    def _launched(self, jobs: _Jobs) -> dict[int, JobReturn]:
        """Runs consecutive jobs with the launcher; those that it drops before they began are launched again."""
        began = time.time()
        try:
            with self._patience():
                results = self._launcher.launch([*jobs.values()], initial_job_idx=min(jobs))
        except Exception as error:
            records = read_all(self._folder)
            waiting = {job: overrides for job, overrides in jobs.items() if job not in records}
            if len(waiting) == len(jobs) and not isinstance(error, BrokenExecutor):
                raise
            done = dict.fromkeys(jobs, Lost(error)) | self._settled(jobs, max(began, time.time() - _MOMENT))
            self._reopen(done)
            if len(waiting) < len(jobs):
                for several in _consecutive(waiting):
                    done |= self._launched(several)
            return done
        done = dict(zip(jobs, results, strict=True))
        self._reopen(done)
        return done

    def _settled(self, jobs: _Jobs, since: float) -> dict[int, JobReturn]:
        """Returns the results of the jobs that ended, from their records.

        Args:
            jobs: The jobs that were launched.
            since: When workers may have been ended together with their jobs.
        """
        records = read_all(self._folder)
        ended = [records[job] for job in jobs if job in records and records[job].status != RUNNING]
        return {record.job: self._result(record) for record in ended if not self._ended_with_worker(record, since)}

    def _result(self, record: JobRecord) -> JobReturn:
        """Returns what the job's own process would have returned to the sweeper."""
        done = JobReturn(overrides=record.overrides, status=JobStatus.COMPLETED)
        done.return_value = result_of(record, self._hydra) if draws_jobs(self._hydra) else record.counts_as
        return done

    def _ended_with_worker(self, record: JobRecord, since: float) -> bool:
        """Returns whether a job may have been killed because its worker was about to be."""
        file = records_folder(self._folder) / f"{record.job}.json"
        return record.status == "crashed" and file.is_file() and file.stat().st_mtime >= since


def _consecutive(jobs: _Jobs) -> list[_Jobs]:
    runs: list[_Jobs] = []
    for job, overrides in jobs.items():
        if runs and job - 1 in runs[-1]:
            runs[-1][job] = overrides
        else:
            runs.append({job: overrides})
    return runs


def _report(lost: dict[int, str]) -> None:
    from ..report.terminal import print_note  # noqa: PLC0415  # hardly any sweep loses a worker

    reasons = listing(sorted(set(lost.values())), 3)
    if len(lost) == 1:
        print_note(f"job {min(lost)} got no result from its worker ({reasons}); it is run again on this machine")
    else:
        which = listing([str(job) for job in lost], 10)
        after = "they are run again on this machine, one after another"
        print_note(f"jobs {which} got no result from their workers ({reasons}); {after}")


@contextmanager
def _patient_submitit() -> Iterator[None]:
    job: Any = import_module("submitit.core.core").Job
    raising = job.results

    def results(self: Any) -> list[Any]:
        try:
            return list(raising(self))
        except Exception as error:  # noqa: BLE001  # whatever became of the worker, its job has no result
            return [Lost(error)]

    job.results = results
    try:
        yield
    finally:
        job.results = raising


class _PatientRay:
    """As much of `ray` as the launcher uses to await results."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def get(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except Exception as error:  # noqa: BLE001  # whatever became of the worker, its job has no result
            return Lost(error)


@contextmanager
def _patient_ray() -> Iterator[None]:
    core: Any = import_module("hydra_plugins.hydra_ray_launcher._core")
    ray = core.ray
    core.ray = _PatientRay(ray)
    try:
        yield
    finally:
        core.ray = ray


_PATIENCE: dict[str, Callable[[], AbstractContextManager[None]]] = {
    JOBLIB: nullcontext,
    f"{SUBMITIT}.LocalLauncher": _patient_submitit,
    f"{SUBMITIT}.SlurmLauncher": _patient_submitit,
    RAY: _patient_ray,
}


def settle(config: DictConfig) -> None:
    """Sets what a sweep needs of the launcher of its config, where the user has not."""
    hydra = config.hydra
    for key, value in _SETTINGS.get(str(OmegaConf.select(hydra, "launcher._target_")), {}).items():
        if OmegaConf.select(hydra.launcher, key) in _UNSET:
            with open_dict(hydra.launcher):
                OmegaConf.update(hydra.launcher, key, value, force_add=True)


@contextmanager
def mended() -> Iterator[None]:
    """Makes the launchers that Hydra creates meanwhile survive the death of a worker."""
    plain = Plugins.instantiate_launcher

    def instantiate_launcher(
        self: Plugins, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> Launcher:
        launcher = plain(self, hydra_context=hydra_context, task_function=task_function, config=config)
        patience = _PATIENCE.get(str(OmegaConf.select(config, "hydra.launcher._target_")))
        if patience is None:
            return launcher
        basic = BasicLauncher()
        basic.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        return Mended(launcher, basic, config.hydra, patience)

    Plugins.instantiate_launcher = instantiate_launcher  # type: ignore[method-assign]
    try:
        yield
    finally:
        Plugins.instantiate_launcher = plain  # type: ignore[method-assign]
