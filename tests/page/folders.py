"""Folders of sweeps as the loader leaves them, made without running one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from loader.report.kept import KEPT

HARMLESS = "plain"
DTYPES = ("float32", "bfloat16")
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "'\"><svg/onload=alert(1)>",
    "<!--",
    "]]>",
    "&lt;b&gt; &amp;",
    "\u202egnirts\u202c",
    "a\x00b\x1b[31m",
    "\u2028\u2029",
    "\ud800",
    "{{ 7 * 7 }}{% raw %}",
    "{name|text}",
    "javascript:alert(1)",
    "=HYPERLINK(1)",
    "huge " * 5000,
)


def job_row(number: int, *, text: str = HARMLESS, **changed: Any) -> dict[str, Any]:
    """A job's entry in ``summary.json``; `text` is in every place that a file or a config fills."""
    row: dict[str, Any] = {
        "job": number,
        "overrides": [text],
        "status": "ok",
        "exit_code": 0,
        "error": None,
        "values": {
            "checkpoint.path": f"runs/{text}/step={number // 2}.pt",
            "dtype": DTYPES[number % 2],
        },
        "step": 100 * (number // 2),
        "metrics": {"accuracy": {"value": 0.5 + number / 100, "stderr": 0.01, "n": 360}},
        "higher_is_better": {"accuracy": True},
        "n": 360,
        "fingerprint": f"{number:032x}",
        "output_diff": number / 1000,
        "golden_diff": None,
        "parameters": 101770,
        "loaded": 4,
        "missing": 0,
        "unexpected": 0,
        "mismatched": 0,
        "cast": 4 * (number % 2),
        "dtype": DTYPES[number % 2],
        "device": "cpu",
        "file_bytes": 407592,
        "load_seconds": 0.01,
        "forward_seconds": 0.02,
        "evaluate_seconds": 0.3,
        "seconds": 0.5 + (number * 7 % 10) / 10,
        "peak_rss_bytes": 300_000_000 + number * 1_000_000,
        "torch": "2.13.0",
        "command": f"hydra-loader seed={number}",
        "command_note": "",
        "output_dir": str(number),
        "report": f"{number}/report.json",
    }
    return row | changed


def failed(number: int, *, text: str = HARMLESS, **changed: Any) -> dict[str, Any]:
    """The entry of a job that was refused."""
    error = {
        "type": "FitError",
        "message": f"the checkpoint does not fit: {text}\n  head.{{weight,bias}}  2 missing",
        "hint": "",
        "fixes": [{"line": "'allow.missing=[head.*]'", "note": f"keeps its own values {text}"}],
    }
    nothing = dict.fromkeys(("n", "output_diff", "evaluate_seconds", "fingerprint"))
    own = {"status": "failed", "exit_code": 4, "error": error, "metrics": {}, "missing": 2, "loaded": 2}
    return job_row(number, text=text, **{**nothing, **own, **changed})


def module_row(name: str, parameters: int, *, count: int = 1, **outcomes: int) -> dict[str, Any]:
    """A row of a report's ``modules``."""
    return {
        "module": name, "count": count, "parameters": parameters,
        "loaded": 2, "missing": 0, "mismatched": 0, "initialised": 0, **outcomes,
    }  # fmt: skip


def summary_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of ``summary.json``."""
    good = [row for row in rows if row["metrics"]]
    best = {"accuracy": max(good, key=lambda row: row["metrics"]["accuracy"]["value"])["job"]} if good else {}
    bad = sum(row["status"] == "failed" for row in rows)
    totals = {"total": len(rows), "ok": len(rows) - bad, "failed": bad, "skipped": 0, "not_run": 0}
    return {"schema": 2, **totals, "best": best, "jobs": rows}


def write_report(folder: Path, row: dict[str, Any], *, text: str = HARMLESS, **changed: Any) -> Path:
    """Writes a job's ``report.json``."""
    path = folder / str(row["report"])
    path.parent.mkdir(parents=True, exist_ok=True)
    bad = row["status"] == "failed"
    report = {
        "status": row["status"],
        "model": {"target": f"my.Net{text if text != HARMLESS else ''}", "parameters": 101770},
        "modules": [
            module_row("fc1", 100480),
            module_row(f"head{text if text != HARMLESS else ''}", 1290, **({"loaded": 0, "missing": 2} if bad else {})),
        ],
        "verification": {"kept": None if bad else {"path": KEPT, "bytes": 1}},
    }
    path.write_text(json.dumps(report | changed))
    return path


def keep(folder: Path, number: int, value: torch.Tensor, given: torch.Tensor | None = None) -> None:
    """Writes what a job keeps."""
    given = torch.ones(2, 3) if given is None else given
    save_file({"input.0": given, "output.0": value}, folder / str(number) / KEPT)


def make_sweep(folder: Path, jobs: int = 8, *, text: str = HARMLESS) -> dict[str, Any]:
    """Makes a whole folder; every fifth job failed. Returns the content of ``summary.json``."""
    rows = []
    for number in range(jobs):
        row = (failed if number % 5 == 3 else job_row)(number, text=text)
        write_report(folder, row, text=text)
        if row["status"] == "ok":
            keep(folder, number, torch.tensor([[1.0, 2.0], [3.0, 4.0 + number // 2 / 8]]))
        rows.append(row)
    return summary_of(rows)


@contextmanager
def new_folder() -> Iterator[Path]:
    """A folder for one example, whose reports need not be valid."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
