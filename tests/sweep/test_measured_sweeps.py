"""A sweep that measures, as a user runs it: its summary, and the line that runs each job alone."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from loader.schema.columns import BEFORE, ENDING, MEASURED
from tests.command import REPOSITORY, run, run_afresh
from tests.sweep.sweeping import RUN, Swept, without_progress

NAMES = ("step=20 it's $HOME.pt", "step=100 (b).pt")
METRICS = ["accuracy", "accuracy_stderr", "cross_entropy", "cross_entropy_stderr"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Two files of the shipped example's model × two dtypes and a device that is absent."""
    folder = tmp_path_factory.mktemp("measured")
    weights = shipped()
    for name, step in zip(NAMES, (20, 100), strict=True):
        scaled = {key: value * (1 if step == 100 else -1) for key, value in weights.items()}
        torch.save({"state_dict": scaled, "epoch": 1, "global_step": step}, folder / name)
    typed = ["checkpoint.path=glob(*.pt)", "checkpoint.key=state_dict", "dtype=null,bfloat16", "evaluate=digits"]
    typed += ["verify.golden=null", "device=cpu", "hydra.sweep.dir=sweep", "sweep.compare.reference=2"]
    done = run(*RUN, *typed, cwd=folder)
    return Swept(done.returncode, done.stdout, without_progress(done.stderr), folder / "sweep")


def shipped() -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(REPOSITORY / "loader" / "examples" / "weights" / "simple_net.safetensors")


def test_the_summary_has_typed_values_and_figures(measured: Swept) -> None:
    assert (measured.code, measured.err, measured.statuses) == (0, "", ["ok"] * 4)
    jobs = measured.summary["jobs"]
    assert [job["values"] for job in jobs] == [
        {"checkpoint.path": name, "dtype": dtype} for name in NAMES for dtype in (None, "bfloat16")
    ]
    assert [job["step"] for job in jobs] == [20, 20, 100, 100]
    assert [(job["dtype"], job["device"]) for job in jobs] == [("float32", "cpu"), ("bfloat16", "cpu")] * 2
    assert all(job["metrics"]["accuracy"].keys() == {"value", "stderr", "n"} for job in jobs)
    assert {job["n"] for job in jobs} == {360}
    assert measured.summary["best"]["accuracy"] in (2, 3)
    assert jobs[2]["metrics"]["accuracy"]["value"] > 0.9
    assert jobs[0]["fingerprint"] == jobs[1]["fingerprint"] != jobs[2]["fingerprint"]


def test_outputs_are_compared_with_the_reference(measured: Swept) -> None:
    apart = [job["output_diff"] for job in measured.summary["jobs"]]
    assert apart[2] == 0
    assert 0 < apart[3] < 1 < apart[0]


def test_the_csv_has_a_column_for_each_swept_key_and_metric(measured: Swept) -> None:
    rows = list(csv.reader((measured.folder / "summary.csv").read_text().splitlines()))
    assert rows[0] == [*BEFORE, "checkpoint.path", "step", *METRICS, *MEASURED, *ENDING]
    assert [row[3:5] for row in rows[1:]] == [
        [name, step] for name, step in zip(NAMES, ("20", "100"), strict=True) for _ in "ab"
    ]
    jobs = measured.summary["jobs"]
    assert [float(row[5]) for row in rows[1:]] == [job["metrics"]["accuracy"]["value"] for job in jobs]


def test_each_line_names_what_differs_and_the_metrics(measured: Swept) -> None:
    lines = measured.out.splitlines()
    assert lines[0].startswith("1/4  ok  ")
    assert f" s  {NAMES[0]} dtype=null  accuracy 0." in lines[0]
    assert lines[4].split()[:2] == ["job", "checkpoint.path"]
    assert sum("*" in line for line in lines[5:9]) >= 1
    assert "best accuracy: " in measured.out


@pytest.mark.slow
def test_each_command_gives_the_same_report(measured: Swept) -> None:
    for job in measured.summary["jobs"]:
        report = json.loads((measured.folder / job["report"]).read_text())
        assert job["command_note"] == ""
        done = run_afresh("sh", "-c", f"{job['command']} hydra.run.dir=alone", cwd=Path(report["environment"]["cwd"]))
        assert done.returncode == job["exit_code"], done.stderr
        alone = json.loads((measured.folder.parent / "alone" / "report.json").read_text())
        assert told(alone) == told(report)
        assert done.stdout.splitlines()[:5] == measured.output(job["job"]).splitlines()[:5]


def told(report: dict[str, Any]) -> dict[str, Any]:
    """What a job's report says about the job, without how long it took."""
    same = ("status", "exit_code", "error", "mode", "model", "keys")
    parts = report["verification"]
    return {name: report[name] for name in same} | {
        "config": {key: value for key, value in report["config"].items() if key != "sweep"},
        "overrides": [typed for typed in report["overrides"] if not typed.startswith(("hydra.", "sweep."))],
        "fingerprint": parts["fingerprint"],
        "outputs": parts["outputs"],
        "metrics": report["evaluation"]["metrics"],
    }


def test_the_command_starts_the_program_as_it_was_started(measured: Swept) -> None:
    words = shlex.split(measured.summary["jobs"][0]["command"])
    start = [word for word in words if word.endswith(("run.py", "python")) or word == sys.executable]
    assert start[-1] == str(REPOSITORY / "run.py")
    assert words[len(start) :][0] == f"checkpoint.path={NAMES[0]}"
    assert not any(word.startswith(("hydra.sweep", "sweep.", "-m")) for word in words)
