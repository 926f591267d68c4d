"""Reports that are read again, by whomever they were written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loader.errors import ConfigError
from loader.report import reading
from loader.report.data import (
    Check,
    Difference,
    ErrorReport,
    EvaluationReport,
    PartReport,
    ReplayReport,
    Report,
)
from loader.report.reading import read_report
from loader.report.writing import write_report
from loader.text.lines import Fix

pytestmark = pytest.mark.damaged_reports


def damaged(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return write


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (lambda path: path.write_text(path.read_text()[:500]), "is not JSON ("),
    "empty": (lambda path: path.write_text(""), "is not JSON ("),
    "not UTF-8": (lambda path: path.write_bytes(b'{"a": "\xff"}'), "is not JSON ("),
    "a list": (lambda path: path.write_text("[1]"), "is not a mapping"),
    "a number that JSON lacks": (lambda path: path.write_text('{"schema": NaN}'), "NaN is not JSON"),
    "a digit too many": (lambda path: path.write_text(f'{{"schema": {"9" * 5000}}}'), "is not JSON ("),
    "a name twice": (lambda path: path.write_text('{"schema": 1, "schema": 1}'), "names 'schema' twice"),
    "foreign": (lambda path: path.write_text('{"name": "package"}'), "is not a report of the loader"),
    "a newer one": (damaged(lambda r: r.update(schema=7)), "has schema 7; this version of the loader reads schema 1"),
    "a schema that is text": (
        damaged(lambda r: r.update(schema="1\x1b")),
        r"damaged: 'schema' is '1\\x1b', expected a whole number",
    ),
    "a schema of digits": (damaged(lambda r: r.update(schema="1")), "'schema' is '1', expected a whole number"),
    "deep": (lambda path: path.write_text('{"a": ' + "[" * 5000), "lists and mappings inside each other"),
    "a config of text": (damaged(lambda r: r.update(config="x")), "'config' is 'x', expected a mapping"),
    "a status": (damaged(lambda r: r.update(status="fine")), "'status' is 'fine', expected one of ok, failed, error"),
    "parts": (damaged(lambda r: r.update(parts={"": {"path": 3}})), "'parts.\"\".path' is 3, expected text"),
    "a part without": (damaged(lambda r: r.update(parts={"": {"path": "a"}})), "it has no 'parts.\"\".format'"),
    "keys": (damaged(lambda r: r["keys"].update(missing=[1])), "'keys.missing[0]' is 1, expected text"),
    "a bool": (damaged(lambda r: r["keys"].update(loaded=True)), "'keys.loaded' is true, expected a whole number"),
    "checks": (
        damaged(lambda r: r["verification"].update(checks={})),
        "'verification.checks' is a mapping, expected a list",
    ),
    "timings": (damaged(lambda r: r.update(timings={"open": "1"})), "'timings.open' is '1', expected a number"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    part = PartReport("a.pt", "torch-zip", None, None, 10, 1, mtime=1.5)
    report = Report(parts={"": part}, config={"model": {"_target_": "x"}}, evaluation=EvaluationReport(samples=3))
    report.keys.mismatched.append({"key": "a", "model": [1], "checkpoint": [2]})
    report.verification.checks.append(Check("complete", True, "all"))
    report.error = ErrorReport.of("FitError", "message")
    report.replay = ReplayReport("other", differences=[Difference("a", 1, None)])
    report.timings["open"] = 1
    return write_report(report, tmp_path)


def test_a_report_comes_back_as_it_was_written(path: Path) -> None:
    report = read_report(path)

    assert report.to_dict() == json.loads(path.read_text())
    assert (report.parts[""].mtime, report.timings["open"]) == (1.5, 1)
    assert isinstance(report.replay, ReplayReport)


def test_what_an_older_or_a_newer_version_wrote_is_read(path: Path) -> None:
    content = json.loads(path.read_text())
    del content["modules"], content["replay"], content["parts"][""]["mtime"]
    path.write_text(json.dumps({**content, "newer": 1, "keys": {"loaded": 3, "newer": 2}}))

    report = read_report(path)

    assert (report.keys.loaded, report.modules, report.replay, report.parts[""].mtime) == (3, [], None, None)


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_report_is_refused(path: Path, how: str) -> None:
    write, message = DAMAGED[how]
    write(path)

    with pytest.raises(ConfigError, match=re.escape(message)) as refusal:
        read_report(path, Fix("replay.path=FOLDER"))
    assert refusal.value.message.startswith(f"{path} ")
    assert refusal.value.fixes == (Fix("replay.path=FOLDER"),)


def test_a_report_beyond_the_limits_is_not_parsed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_REPORT_NODES", 5)
    with pytest.raises(ConfigError, match="has more than 5 lists and mappings"):
        read_report(path)

    monkeypatch.setattr(reading, "LARGEST_REPORT", 100)
    with pytest.raises(ConfigError, match="a report has at most 100"):
        read_report(path)


def test_brackets_in_texts_do_not_count(path: Path) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "config": {"a": "[{" * 500 + '"' + "\\[" * 500}}))

    assert read_report(path).config["a"].startswith("[{[{")


def test_only_a_regular_file_is_read(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"is not a regular file \(expected a report\)"):
        read_report(path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(ConfigError, match="cannot be read: Too many levels of symbolic links"):
        read_report(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory|is not a regular file"):
        read_report(path)
    with pytest.raises(ConfigError, match="/dev/zero is not a regular file"):
        read_report(Path("/dev/zero"))
