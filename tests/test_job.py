"""One job from a config to an exit code: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import loader.pipeline
from loader.job import run
from tests.jobs import job, save, target
from tests.models import Two, filled

TOP = [
    "schema", "status", "exit_code", "error", "mode", "model", "parts", "keys", "modules",
    "verification", "evaluation", "timings", "memory", "environment", "identity", "config", "overrides",
]  # fmt: skip
PART = {"path", "format", "key", "sha256", "bytes", "tensors", "rules", "other", "trust"}
OUTPUT = {"name", "shape", "dtype", "device", "min", "max", "mean", "std", "finite", "sha256"}
STEPS = {"build", "open", "plan", "apply", "place", "verify", "forward", "total"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(filled(Two()).state_dict(), tmp_path / "two.pt")


def report_of(folder: Path) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    loaded: dict[str, Any] = json.loads((folder / "report.json").read_text(), parse_constant=refuse)
    return loaded


def test_the_report_has_the_promised_form(path: Path, tmp_path: Path) -> None:
    config = job("Two", path, verify={}, rules={"none": {"strip": "x.", "optional": True}})
    assert run(config, ["seed=0"], tmp_path) == 0
    report = report_of(tmp_path)
    assert list(report) == TOP
    assert (report["schema"], report["status"], report["exit_code"], report["error"]) == (1, "ok", 0, None)
    assert report["model"] == {
        "target": "tests.models.Two", "parameters": 40, "bytes": 160, "device": "cpu", "dtypes": ["float32"],
        "build": "hollow", "trust": {},
    }  # fmt: skip
    (part,) = report["parts"].values()
    assert set(part) >= PART
    assert (part["path"], part["format"], part["key"], part["sha256"]) == (str(path), "torch-zip", None, None)
    assert (part["bytes"], part["tensors"]) == (path.stat().st_size, 4)
    assert part["rules"] == [{"name": "none", "hits": 0}]
    assert report["keys"] == {
        "loaded": 4, "missing": [], "unexpected": [], "mismatched": [], "dropped": [], "cast": [], "tied": [],
        "derived": [],
    }  # fmt: skip
    assert all(set(check) == {"name", "ok", "detail"} for check in report["verification"]["checks"])
    assert set(report["verification"]["outputs"][0]) == OUTPUT
    assert set(report["verification"]["inputs"][0]) == {"name", "shape", "dtype", "origin"}
    assert set(report["timings"]) == STEPS
    assert report["memory"]["peak_rss_bytes"] > 0
    assert report["environment"]["torch"] == torch.__version__
    assert report["config"] == json.loads(json.dumps(config))
    assert report["overrides"] == ["seed=0"]


def test_permissions_are_reported(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"allow_globals": ["argparse.Namespace"]}
    assert run(job("Two", path, checkpoint=settings, trusted_targets=["tests.*"]), [], tmp_path) == 0
    report = report_of(tmp_path)
    assert report["model"]["trust"] == {"trusted_targets": ["tests.*"]}
    assert report["parts"][""]["trust"] == settings
    printed = capsys.readouterr().out
    assert "           permissions: trusted_targets=tests.*\n" in printed
    assert "           permissions: allow_globals=argparse.Namespace\n" in printed


def test_a_digest_is_reported_where_it_was_asked_for(path: Path, tmp_path: Path) -> None:
    import hashlib

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for settings in ({"check": "full"}, {"sha256": digest}):
        assert run(job("Two", path, checkpoint=settings), [], tmp_path) == 0
        assert report_of(tmp_path)["parts"][""]["sha256"] == digest


FAILURES: list[tuple[dict[str, Any], int, str]] = [
    ({"typo": 1}, 2, "ConfigError"),
    ({"checkpoint": {"path": "/nowhere.pt"}}, 3, "CheckpointError"),
    ({"model": target("Pair")}, 4, "FitError"),
    ({"verify": {"input": {"shape": [1, 9]}}}, 5, "VerificationError"),
    ({"device": "warp"}, 6, "DeviceError"),
]


@pytest.mark.parametrize(("change", "code", "kind"), FAILURES, ids=[case[2] for case in FAILURES])
def test_a_refusal_is_one_block_and_a_report(
    change: dict[str, Any], code: int, kind: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run({**job("Two", path), **change}, [], tmp_path) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error  ")
    assert "Traceback" not in printed.err
    report = report_of(tmp_path)
    assert (report["status"], report["exit_code"], report["error"]["type"]) == ("failed", code, kind)
    assert report["error"]["message"].splitlines()[0] in printed.err
    assert all(line in printed.err for line in report["error"]["hint"].splitlines())


def test_a_bug_is_told_as_one(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(loader.pipeline, "run", broken)
    with caplog.at_level(logging.INFO, "loader"):
        assert run(job("Two", path), [], tmp_path) == 1
    printed = capsys.readouterr().err
    assert "a bug of the loader, please report it:" in printed
    assert "ZeroDivisionError: of ours" in printed
    report = report_of(tmp_path)
    assert (report["status"], report["exit_code"]) == ("error", 1)
    assert report["error"] == {"type": "ZeroDivisionError", "message": "of ours", "hint": "", "fixes": []}
    assert "Traceback" in caplog.text


def test_an_interruption_gets_out(path: Path, tmp_path: Path) -> None:
    linear = save(filled(nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(KeyboardInterrupt):
        run(job(target("Behaving", how="interrupt"), linear, verify={}), [], tmp_path)


def test_a_model_that_exits_does_not_end_the_process(tmp_path: Path) -> None:
    path = save(filled(nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")
    assert run(job(target("Behaving", how="exit"), path, verify={"input": {"shape": [1, 2]}}), [], tmp_path) == 5


def test_numbers_that_json_does_not_know_do_not_spoil_a_report(tmp_path: Path) -> None:
    path = save(filled(nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")
    verify = {"input": {"shape": [1, 2], "value": float("inf")}, "expect": {"finite": False}, "rtol": float("inf")}
    assert run(job("Behaving", path, verify=verify), [], tmp_path) == 0
    report = report_of(tmp_path)
    assert report["verification"]["outputs"][0]["max"] is None
    assert report["verification"]["outputs"][0]["finite"] is False


def test_a_job_that_went_well_prints_its_report(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "loader"):
        assert run(job("Two", path, verify={}), [], tmp_path) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "tests.models.Two: 40 parameters, 160 B, float32 on cpu" in printed.out
    assert "loaded 4 of 4" in printed.out
    assert "\x1b" not in printed.out
    assert "load ok: 4 keys into tests.models.Two" in caplog.text
    assert str(tmp_path / "report.json") in caplog.text


def test_a_dry_run_reports_what_it_would_do(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(job("Two", path, mode="plan"), [], tmp_path) == 0
    assert "would load 4 of 4" in capsys.readouterr().out
    assert report_of(tmp_path)["mode"] == "plan"


def test_names_out_of_a_file_cannot_act_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {**filled(Two()).state_dict(), "\x1b[31mred\u202e[/bold]": torch.ones(1)}
    path = save(state, tmp_path / "odd.pt")
    assert run(job("Two", path), [], tmp_path) == 4
    printed = capsys.readouterr().err
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert "[/bold]" in printed
    assert run(job("Two", path, allow={"unexpected": ["*red*"]}), [], tmp_path) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\u202e" not in printed


def test_a_refused_plan_is_shown_as_a_table_above_the_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = dict(filled(Two()).state_dict())
    gone, _ = state.popitem()
    path = save(state, tmp_path / "part.pt")
    assert run(job("Two", path, mode="plan"), [], tmp_path) == 4

    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines() if gone in line]
    assert ["missing,", "refused", gone] in [row[:3] for row in rows]
    assert all(any(f"load {key} " in " ".join(line.split()) for line in out.splitlines()) for key in state)
    assert err.startswith("error ")
    assert "  try  " in err


@pytest.mark.parametrize(("name", "code"), [("two.pt", 2), ("gone.pt", 3)])
def test_a_report_that_finds_no_room_is_a_refusal(
    path: Path, capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    full = path.parent / "file" / "run"
    full.parent.touch()
    assert run({"model": target("Two"), "checkpoint": {"path": str(path.with_name(name))}}, [], full) == code
    assert capsys.readouterr().err.endswith(
        f"error  {full}/report.json could not be written: Not a directory\n"
        "  try  hydra.run.dir=FOLDER   # one with free space, or hydra.sweep.dir for a sweep\n"
    )


class Interrupted(Two):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt


def test_an_interrupted_job_has_its_report(path: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(job({"_target_": f"{__name__}.Interrupted"}, path, verify={}), ["seed=0"], tmp_path)

    report = report_of(tmp_path)
    assert (report["status"], report["exit_code"], report["overrides"]) == ("failed", 130, ["seed=0"])
    assert report["error"]["message"] == "interrupted before the job was done"
    assert report["environment"]["torch"]
