"""The plan as rows, for `mode=plan`."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from loader.job import execute
from loader.report.data import Report
from loader.report.terminal import lines, table


def _plan(folder: Path, state: dict[str, torch.Tensor], **settings: object) -> Report:
    path = folder / "weights.pt"
    torch.save(state, path)
    config = {
        "mode": "plan",
        "model": {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2},
        "checkpoint": {"path": str(path)},
        **settings,
    }
    report = Report(config=config)
    execute(config, report)
    return report


def test_every_key_of_either_side_stands_in_one_row(tmp_path: Path) -> None:
    state = {"m.weight": torch.zeros(2, 3), "head": torch.zeros(1), "junk": torch.zeros(4)}
    report = _plan(
        tmp_path,
        state,
        rules={"m": {"strip": "m."}, "junk": {"drop": "junk"}},
        allow={"missing": ["bias"], "unexpected": ["head"]},
    )
    rows = report.plan or []
    assert sorted(row["key"] for row in rows if row["key"]) == ["bias", "weight"]
    assert sorted(row["source"] for row in rows if row["source"]) == ["head", "junk", "m.weight"]
    assert {row["key"] or row["source"]: row["action"] for row in rows} == {
        "weight": "load",
        "bias": "missing, allowed",
        "head": "unexpected, allowed",
        "junk": "dropped by a rule",
    }


def test_a_plan_reads_no_tensor_data_and_initialises_nothing(tmp_path: Path) -> None:
    report = _plan(tmp_path, {"weight": torch.zeros(2, 3)}, allow={"missing": ["bias"]})
    assert report.model is not None
    assert report.model.build == "hollow"
    assert "apply" not in report.timings


def test_the_table_has_a_heading_and_a_line_per_key(tmp_path: Path) -> None:
    report = _plan(tmp_path, {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
    drawn = list(table(report.plan or []))
    assert drawn[0].split() == ["action", "model", "key", "model", "file", "key", "file"]
    assert drawn[1].split() == ["load", "weight", "[2,", "3]", "float32", "weight", "[2,", "3]", "float32"]
    assert len(drawn) == 3
    assert any(label == "plan" for label, _, _ in lines(report))


def test_the_plan_is_in_the_report_only_in_plan_mode(tmp_path: Path) -> None:
    report = _plan(tmp_path, {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
    assert len(json.loads(json.dumps(report.to_dict()))["plan"]) == 2
    assert "plan" not in Report().to_dict()
