"""How far the outputs of jobs are apart, from what they kept in their folders."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loader.sweep.outputs import add_output_diffs
from loader.sweep.record import JobRecord

INPUT = torch.arange(4.0)


def kept(folder: Path, number: int, output: torch.Tensor, given: torch.Tensor = INPUT, status: str = "ok") -> JobRecord:
    own = folder / str(number)
    own.mkdir()
    save_file({"input.0": given, "output.0": output}, own / "outputs.safetensors")
    return JobRecord(number, status=status, exit_code=0, report=str(own / "report.json"))


def diffs(jobs: list[JobRecord], reference: int = 0) -> list[float | None]:
    add_output_diffs(jobs, reference)
    return [job.output_diff for job in jobs]


def test_the_difference_is_the_largest_to_the_reference(tmp_path: Path) -> None:
    outputs = (torch.tensor([1.0, 2.0]), torch.tensor([1.5, 1.75]), torch.tensor([1.0, 2.0], dtype=torch.bfloat16))
    jobs = [kept(tmp_path, number, output) for number, output in enumerate(outputs)]
    assert diffs(jobs) == [0.0, 0.5, 0.0]
    assert diffs(jobs, reference=1) == [0.5, 0.0, 0.5]


def test_other_inputs_or_shapes_are_not_compared(tmp_path: Path) -> None:
    one = torch.ones(2)
    jobs = [kept(tmp_path, 0, one), kept(tmp_path, 1, one, INPUT + 1), kept(tmp_path, 2, torch.ones(3))]
    jobs.append(JobRecord(3, status="ok", report=str(tmp_path / "3" / "report.json")))
    assert diffs(jobs) == [0.0, None, None, None]


@pytest.mark.parametrize("reference", [0, 7])
def test_a_reference_without_a_result_is_replaced_by_the_first_with_one(tmp_path: Path, reference: int) -> None:
    failed = kept(tmp_path, 0, torch.zeros(2), status="failed")
    jobs = [failed, kept(tmp_path, 1, torch.ones(2)), kept(tmp_path, 2, torch.ones(2) * 3, status="reused")]
    assert diffs(jobs, reference) == [None, 0.0, 2.0]
    assert diffs([failed]) == [None]


def test_nan_on_one_side_is_an_infinite_difference(tmp_path: Path) -> None:
    jobs = [kept(tmp_path, 0, torch.ones(2)), kept(tmp_path, 1, torch.tensor([math.nan, 1.0]))]
    assert diffs(jobs) == [0.0, math.inf]


@pytest.mark.parametrize("damage", [b"", b"\xff" * 64, b"{}"])
def test_damage_costs_one_job_its_figure(tmp_path: Path, damage: bytes) -> None:
    jobs = [kept(tmp_path, number, torch.ones(2)) for number in range(3)]
    (tmp_path / "1" / "outputs.safetensors").write_bytes(damage)
    assert diffs(jobs) == [0.0, None, 0.0]
    assert diffs(jobs, reference=1) == [None, None, None]
