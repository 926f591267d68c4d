"""Jobs with tensors that rules made, as the command line runs them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.command import run_loader
from tests.derived import FUSED, ROWS, fused, shapes
from tests.jobs import save
from tests.modes.replay.runs import made, replayed
from tests.page.parsed import parsed

KEYS = "{" + ", ".join(f"{key}: {shape}" for key, shape in ROWS.items()) + "}"
MODEL = ("model._target_=tests.derived.Shapes", f"+model.shapes={KEYS}", "device=cpu", "verify.forward=false")
RULES = r"rules={fused: {split: '\.qkv\.', into: [.q., .k., .v.]}, up: {scale: '*norm*', plus: 1.0}}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(fused(), tmp_path / "a.pt")


def test_a_plan_is_printed(path: Path) -> None:
    done = run_loader(*MODEL, RULES, "mode=plan", "checkpoint.path=a.pt", cwd=path.parent)
    assert (done.code, done.err) == (0, "")
    assert "load  l.q.weight [4, 4]  ← l.qkv.weight [8, 4] · fused\n" in done.out
    assert "load  l.norm.weight [4]  ← l.norm.weight [4] · up\n" in done.out
    assert "fused: 3 tensors made of 1: l.q.weight ← l.qkv.weight, …\n" in done.out
    assert "up: 1 tensor made of 1: l.norm.weight ← l.norm.weight\n" in done.out
    assert [row["rules"] for row in done.report["plan"]] == [["up"], ["fused"], ["fused"], ["fused"], []]


def test_a_load_is_printed_and_reported(path: Path) -> None:
    done = run_loader(*MODEL, RULES, "checkpoint.path=a.pt", "report.page=true", cwd=path.parent)
    assert (done.code, done.err) == (0, "")
    assert "read back: 5 of 5 tensors: 1 compared with the file, 4 computed again, all bytes\n" in done.out
    assert done.report["keys"]["derived"][1] == {
        "key": "l.q.weight",
        "sources": ["l.qkv.weight"],
        "rules": ["fused"],
    }
    text = parsed(path.parent / "run" / "report.html").text
    assert "4 tensors made by rules or adapters" in text
    assert "l.qkv.weight" in text


def test_the_report_is_printed_as_json(path: Path) -> None:
    done = run_loader(*MODEL, RULES, "checkpoint.path=a.pt", "--json", cwd=path.parent)
    assert json.loads(done.out)["keys"]["derived"] == done.report["keys"]["derived"]


def test_a_run_is_repeated(path: Path) -> None:
    first = made(path.parent / "first", *MODEL, RULES, f"checkpoint.path={path}")
    again = replayed(first.folder)
    assert (again.code, again.error) == (0, "")
    assert again.compared["fingerprint"]


def test_a_conversion_under_the_names_of_the_file_loads_again(path: Path) -> None:
    convert = ("mode=convert", "convert.path=b.safetensors", "convert.names=checkpoint")
    done = run_loader(*MODEL, RULES, *convert, "checkpoint.path=a.pt", cwd=path.parent)
    assert (done.code, done.err) == (0, "")
    (line,) = [line for line in done.out.splitlines() if line.startswith("load it")]
    words = shlex.split(line.partition("run.py ")[2])
    again = run_loader(*words, "device=cpu", "verify.forward=false", cwd=path.parent)
    assert (again.code, again.err) == (0, "")
    fingerprint = done.report["verification"]["fingerprint"]
    assert again.report["verification"]["fingerprint"] == fingerprint
    assert {*load_file(path.parent / "b.safetensors")} == {*fused()}


def test_a_conversion_under_other_names_has_the_fingerprint_of_its_source(path: Path) -> None:
    done = run_loader(
        *MODEL, RULES, "mode=convert", "convert.path=b.safetensors", "checkpoint.path=a.pt", cwd=path.parent
    )
    again = run_loader(*MODEL, "checkpoint.path=b.safetensors", cwd=path.parent)
    assert done.report["verification"]["fingerprint"] == again.report["verification"]["fingerprint"]


def test_a_refused_conversion_is_one_block(path: Path) -> None:
    rules = r"rules={fused: {split: '\.qkv\.', into: [.q., .k., .v.]}, some: {take: 'out.*', index: [0, 1, 2]}}"
    convert = ("mode=convert", "convert.path=b.safetensors", "convert.names=checkpoint")
    done = run_loader(*MODEL, rules, *convert, "checkpoint.path=a.pt", cwd=path.parent)
    assert done.code == 2
    assert done.err.startswith(
        "error  convert.names=checkpoint cannot write the file's names and layout: rule 'some' (take: out.*, index: "
        "[0, 1, 2]) has no inverse\n"
    )
    assert done.err.endswith("  try  convert.names=model   # writes the names and layout of the model\n")
    assert not (path.parent / "b.safetensors").exists()


def test_the_models_node_is_that_of_the_tests() -> None:
    assert shapes(ROWS)["_target_"] == MODEL[0].partition("=")[2]
    assert FUSED["fused"]["split"] in RULES
