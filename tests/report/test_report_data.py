from __future__ import annotations

import json
import pickle
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest
import torch

from loader.report import environment
from loader.report.data import (
    Check,
    Difference,
    ErrorReport,
    EvaluationReport,
    KeysReport,
    ModelReport,
    PartReport,
    ReplayReport,
    Report,
    VerificationReport,
)
from loader.text.lines import Fix


def full_report() -> Report:
    """A report with something in every field."""
    return Report(
        status="failed",
        exit_code=4,
        error=ErrorReport.of("FitError", "does not fit", [Fix("key=value", "it fits so")]),
        mode="plan",
        model=ModelReport("my.Net", 12, 48, "cpu", ["float32"], "hollow"),
        parts={
            "": PartReport(
                path="/a.pt",
                format="torch-zip",
                key="state",
                sha256="ab",
                bytes=100,
                tensors=2,
                rules=[{"name": "ddp", "hits": 2}],
                other={"epoch": "int"},
                trust={"trust": True},
            )
        },
        keys=KeysReport(
            2,
            ["a"],
            ["b"],
            [{"key": "c", "model": [1], "checkpoint": [2]}],
            ["d"],
            [{"key": "e", "checkpoint": "float16", "model": "float32", "loss": ""}],
            [["f", "g"]],
        ),
        verification=VerificationReport([Check("forward", True, "fine")], [{"shape": [1]}], [{"name": "0"}], "abc"),
        timings={"load": 0.1, "total": 0.2},
        memory={"peak_rss_bytes": 5},
        environment={"torch": "2"},
        config={"seed": 0},
        overrides=["seed=0"],
    )


def test_a_report_has_the_fields_that_others_read() -> None:
    expected = full_report().to_dict()

    assert set(expected) == {
        "schema", "status", "exit_code", "error", "mode", "model", "parts", "keys", "modules", "verification",
        "evaluation", "timings", "memory", "environment", "identity", "config", "overrides",
    }  # fmt: skip
    assert expected["schema"] == 1
    assert expected["error"] == {
        "type": "FitError",
        "message": "does not fit",
        "hint": "key=value   # it fits so",
        "fixes": [{"line": "key=value", "note": "it fits so"}],
    }
    assert set(expected["model"]) == {"target", "parameters", "bytes", "device", "dtypes", "build", "trust"}
    part = set(expected["parts"][""])
    assert part - {"note", "other", "beside", "step", "applied", "trust", "mtime", "combined", "adapters"} == {
        "path", "format", "key", "sha256", "bytes", "tensors", "rules", "dangers",
    }  # fmt: skip
    assert set(expected["keys"]) == {
        "loaded",
        "missing",
        "unexpected",
        "mismatched",
        "dropped",
        "cast",
        "tied",
        "derived",
    }
    assert set(expected["verification"]) == {"checks", "inputs", "outputs", "fingerprint", "golden_diff", "kept"}
    assert expected["verification"]["checks"] == [{"name": "forward", "ok": True, "detail": "fine"}]


def test_a_report_is_plain_data() -> None:
    expected = full_report().to_dict()

    assert json.loads(json.dumps(expected, allow_nan=False)) == expected


def test_an_empty_report_is_that_of_a_job_that_knows_nothing_yet() -> None:
    content = Report().to_dict()

    assert (content["status"], content["exit_code"], content["error"], content["model"], content["parts"]) == (
        "ok",
        0,
        None,
        None,
        {},
    )
    assert content["keys"]["loaded"] == 0


def test_to_dict_returns_a_copy() -> None:
    report = full_report()

    report.to_dict()["keys"]["missing"].append("more")

    assert report.keys.missing == ["a"]


def test_a_report_crosses_processes() -> None:
    report = full_report()

    assert pickle.loads(pickle.dumps(report)) == report


def test_reports_do_not_share_their_lists() -> None:
    one, other = Report(), Report()

    one.keys.missing.append("a")
    one.parts["a"] = PartReport("", "", None, None, 0, 0)
    one.verification.checks.append(Check("a", True, ""))

    assert other == Report()


def test_every_field_is_documented_by_its_type() -> None:
    def records(kind: type) -> set[type]:
        below = {
            inner
            for hint in get_type_hints(kind).values()
            for inner in (hint, *get_args(hint))
            if isinstance(inner, type) and is_dataclass(inner)
        }
        return {kind}.union(*(records(inner) for inner in below))

    found = records(Report)

    assert found == {
        Report,
        ErrorReport,
        ModelReport,
        PartReport,
        KeysReport,
        VerificationReport,
        EvaluationReport,
        ReplayReport,
        Difference,
        Check,
    }
    plain: set[Any] = {str, int, float, bool, list, dict, type(None)}
    for kind in found:
        assert {type(getattr(full, field.name)) for full in instances(kind) for field in fields(kind)} <= plain | found


def instances(kind: type) -> list[Any]:
    report = full_report()
    everything = [report, report.error, report.model, report.keys, report.verification]
    return [item for item in (*everything, *report.parts.values(), *report.verification.checks) if type(item) is kind]


def test_the_version_of_torch_is_torchs_own_imported_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The package's own version may lack what torch was built for: 2.6.0, and 2.6.0+cu124."""
    monkeypatch.setattr("loader.report.environment.metadata.version", lambda package: "0.0.0")
    assert environment.torch_version() == str(torch.__version__)
