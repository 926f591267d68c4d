"""What a sweeper gets for a job that it has drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from loader.sweep.record import BAD, JobRecord
from loader.sweep.results import result_of

OPTUNA = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"


def hydra(sweeper: str) -> Any:
    return OmegaConf.create({"sweeper": {"_target_": sweeper}})


@pytest.mark.parametrize(("evaluation", "result"), [(None, 0.0), ({"objective": None}, 0.0), ({"objective": 0.5}, 0.5)])
def test_a_good_job_gives_its_objective(tmp_path: Path, evaluation: dict[str, Any] | None, result: float) -> None:
    report = tmp_path / "own.json"
    report.write_text(json.dumps({"evaluation": evaluation}))
    record = JobRecord(0, status="ok", exit_code=0, report=str(report))
    assert [result_of(record, hydra(name)) for name in (OPTUNA, "own.Sweeper")] == [result, result]


@pytest.mark.parametrize("report", [None, "gone.json", __file__])
@pytest.mark.parametrize("status", [*BAD, "skipped", "not run", "no report"])
def test_any_other_job_gives_what_is_never_the_best(status: str, report: str | None) -> None:
    record = JobRecord(0, status="ok" if status == "no report" else status, exit_code=5, report=report)
    assert result_of(record, hydra(OPTUNA)) is None
    other = result_of(record, hydra("own.Sweeper"))
    assert other is not None
    assert math.isnan(other)
