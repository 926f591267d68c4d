"""The lines that a sweep prints while its jobs end."""

from __future__ import annotations

from pathlib import Path

import pytest

from loader.report.writing import write_json
from loader.sweep.record import RUNNING, JobRecord
from loader.sweep.records import forget, keep, records_folder
from loader.sweep.watch import Watch

JOBS = [["checkpoint.path=a.pt", "seed=1"], ["checkpoint.path=b.pt", "seed=1"], ["checkpoint.path=c.pt", "seed=1"]]


def record(number: int, status: str = "ok") -> JobRecord:
    return JobRecord(number, JOBS[number], status, 0, seconds=0.5)


def elsewhere(one: JobRecord, folder: Path) -> None:
    """Keeps a record as a launcher's process does: on disk only."""
    records_folder(folder).mkdir(parents=True, exist_ok=True)
    write_json(records_folder(folder) / f"{one.job}.json", one.to_dict())


def test_each_job_gets_one_line_whoever_ran_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(tmp_path, JOBS)
    keep(record(0, RUNNING), tmp_path)
    elsewhere(record(1, RUNNING), tmp_path)
    keep(record(0), tmp_path)
    elsewhere(record(1, "failed"), tmp_path)
    elsewhere(record(2, "not run"), tmp_path)
    watch.stop()
    assert capsys.readouterr().out == "1/3  ok  0.5 s  a.pt\n2/3  failed  0.5 s  b.pt\n"
    forget(tmp_path)


@pytest.mark.damaged_reports
def test_a_record_that_cannot_be_read_is_looked_at_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(tmp_path, JOBS)
    elsewhere(record(2), tmp_path)
    (records_folder(tmp_path) / "0.json").write_text("{")
    (records_folder(tmp_path) / "lock").touch()
    (records_folder(tmp_path) / "²3.json").write_text("{}")
    watch._over.wait(0.3)
    elsewhere(record(0), tmp_path)
    watch.stop()
    assert sorted(capsys.readouterr().out.splitlines()) == ["1/3  ok  0.5 s  c.pt", "2/3  ok  0.5 s  a.pt"]


def test_a_sweeper_that_draws_jobs_has_no_total(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(tmp_path, None, ["seed"])
    keep(record(0), tmp_path)
    watch.stop()
    assert capsys.readouterr().out == "1  ok  0.5 s  seed=1\n"
    forget(tmp_path)


def test_a_job_that_runs_again_is_printed_when_it_has_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(tmp_path, JOBS)
    elsewhere(record(1, RUNNING), tmp_path)
    watch._over.wait(0.3)
    keep(record(1, RUNNING), tmp_path)
    watch._over.wait(0.3)
    keep(record(1), tmp_path)
    watch.stop()
    assert capsys.readouterr().out == "1/3  ok  0.5 s  b.pt\n"
    forget(tmp_path)


def test_a_folder_that_is_gone_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(tmp_path / "gone", JOBS)
    watch.stop()
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
