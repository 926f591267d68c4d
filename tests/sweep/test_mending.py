"""What a launcher that breaks off leaves to be run again; with launchers that stand in for Hydra's."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from loader.sweep.launchers import Lost, Mended
from loader.sweep.record import JobRecord
from loader.sweep.records import BASIC_SWEEPER, count_bad, forget, keep, records_folder

LONG_AGO = 1_000_000_000


def returned(value: Any) -> JobReturn:
    done = JobReturn(status=JobStatus.COMPLETED)
    done.return_value = value
    return done


class Recording(Launcher):
    """Notes the numbers of the jobs that it is to run, and what its function gives for them."""

    def __init__(self, run: Callable[[list[int]], Sequence[JobReturn]]) -> None:
        self.launched: list[list[int]] = []
        self._run = run

    def setup(self, **_: Any) -> None:
        pass

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs = [int(overrides[0]) for overrides in job_overrides]
        assert jobs == [*range(initial_job_idx, initial_job_idx + len(jobs))]
        self.launched.append(jobs)
        return self._run(jobs)


def basic() -> Recording:
    return Recording(lambda jobs: [returned(f"again {job}") for job in jobs])


def launch(launcher: Launcher, again: Launcher, folder: Path, jobs: Sequence[int]) -> list[Any]:
    hydra = {"runtime": {"cwd": str(folder)}, "sweep": {"dir": "sweep"}, "sweeper": {"_target_": BASIC_SWEEPER}}
    mended = Mended(launcher, again, OmegaConf.create(hydra), nullcontext)
    return [done.return_value for done in mended.launch([[str(job)] for job in jobs], jobs[0])]


def note(folder: Path, job: int, status: str, *, ended: float = LONG_AGO) -> None:
    sweep = folder / "sweep"
    keep(JobRecord(job, status=status, exit_code={"ok": 0, "failed": 4, "crashed": 137}.get(status)), sweep)
    os.utime(records_folder(sweep) / f"{job}.json", (ended, ended))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Any:
    yield tmp_path
    forget(tmp_path / "sweep")


def test_a_launcher_that_loses_no_worker_is_left_alone(folder: Path) -> None:
    launcher, again = Recording(lambda jobs: [returned(job) for job in jobs]), basic()
    assert launch(launcher, again, folder, [3, 4]) == [3, 4]
    assert again.launched == []


def test_lost_jobs_alone_run_again_in_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(jobs: list[int]) -> list[JobReturn]:
        return [Lost(OSError("gone")) if job in (1, 3) else returned(job) for job in jobs]

    again = basic()
    assert launch(Recording(run), again, folder, [0, 1, 2, 3]) == [0, "again 1", 2, "again 3"]
    assert again.launched == [[1], [3]]
    assert capsys.readouterr().err == (
        "note   jobs 1, 3 got no result from their workers (OSError); they are run again on this machine, one after "
        "another\n"
    )


def test_a_broken_pool_keeps_what_ended_and_launches_what_had_not_begun(folder: Path) -> None:
    def run(jobs: list[int]) -> list[JobReturn]:
        if jobs[0] != 0:
            return [returned(f"later {job}") for job in jobs]
        note(folder, 0, "ok")
        note(folder, 1, "failed")
        note(folder, 2, "running")
        note(folder, 3, "crashed", ended=2 * LONG_AGO)  # with the pool, as joblib ends the jobs of its workers first
        note(folder, 4, "crashed")
        note(folder, 6, "running")
        raise BrokenProcessPool

    def run_again(jobs: list[int]) -> list[JobReturn]:
        bad.append(count_bad(folder / "sweep"))
        return [returned(f"again {job}") for job in jobs]

    bad: list[int] = []
    launcher, again = Recording(run), Recording(run_again)
    found = launch(launcher, again, folder, [*range(9)])
    assert bad == [2, 2, 2], "what did not end by itself does not count for sweep.stop_after"
    assert found == [0, 4, "again 2", "again 3", 1, "later 5", "again 6", "later 7", "later 8"]
    assert launcher.launched == [[*range(9)], [5], [7, 8]]
    assert again.launched == [[2], [3], [6]]


def test_a_pool_that_broke_before_a_job_began_is_not_tried_again(folder: Path) -> None:
    def run(_jobs: list[int]) -> list[JobReturn]:
        raise BrokenProcessPool

    launcher, again = Recording(run), basic()
    assert launch(launcher, again, folder, [0, 1]) == ["again 0", "again 1"]
    assert launcher.launched == [[0, 1]]


def test_a_launcher_that_cannot_begin_fails_as_it_did(folder: Path) -> None:
    def run(_jobs: list[int]) -> list[JobReturn]:
        raise RuntimeError("no cluster")

    again = basic()
    with pytest.raises(RuntimeError, match="no cluster"):
        launch(Recording(run), again, folder, [0, 1])
    assert again.launched == []


def test_what_breaks_a_launcher_again_and_again_ends(folder: Path) -> None:
    """Each attempt loses one job more."""

    def run(jobs: list[int]) -> list[JobReturn]:
        note(folder, jobs[0], "running")
        raise OSError("no room")

    launcher, again = Recording(run), basic()
    assert launch(launcher, again, folder, [*range(4)]) == [f"again {job}" for job in range(4)]
    assert launcher.launched == [[0, 1, 2, 3], [1, 2, 3], [2, 3], [3]]
