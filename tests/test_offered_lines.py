"""Lines to type, wherever they are offered: names out of files and configs are in them as a shell takes them."""

from __future__ import annotations

import ast
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from loader import LoaderError
from loader.builder import build_model
from loader.keys.rules import rewrite
from loader.keys.rules.key import Regex, Strip
from loader.parts.open import open_checkpoint
from loader.text.lines import Fix
from loader.verify.inputs import make_inputs
from tests.command import REPOSITORY

WRITERS = {"value_text", "python_text", "program"}
"""The functions whose texts may be a part of a line; whole lines are `Fix.line` of what the builder returns."""

REVIEWED = {
    ("api.py", "model"): "the name of a class",
    ("api.py", "name"): "a function of this package",
    ("apply/live.py", "slot.kind"): "parameter or buffer",
    ("parts/open.py", "digest()"): "a digest",
    ("formats/frameworks.py", "_filled(fix.line, paths)"): "paths typed for a shell, or texts in Python's quotes",
    ("remote/download.py", "digest"): "a digest",
    ("remote/download.py", "known.digest"): "a digest",
    ("remote/urls.py", "url.scheme"): "one of the known schemes",
    ("remote/urls.py", "scheme"): "one of the known schemes",
    ("builder/pickled.py", "_OPEN.sub"): "a line of the builder for another one",
    ("cli/schema.py", "(closest(name, NAMES, most=1) or NAMES)[0]"): "one of the names of the schemas",
    ("modes/compare/sides.py", "of_right(fix.line)"): "a line of the builder for the other file",
    ("parts/adapters/__init__.py", "fix.line.replace('checkpoint.', f'{where}.', 1)"): "a line of the builder, moved",
    ("parts/adapters/__init__.py", "fix.line.replace('checkpoint.path', 'checkpoint.minus')"): "the same",
    ("parts/adapters/codes.py", "fix.line.replace('checkpoint.', place, 1)"): "a line of the builder, moved",
    ("sweep/refusals.py", "str(fix.get('line') or '')"): "a line of the builder, out of the job's own report",
}
"""What else is a part of a line, and why it may be."""


def called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def strange(text: ast.expr, function: ast.AST) -> Iterator[ast.expr]:
    """The parts of a line that no function of the builder wrote."""
    match text:
        case ast.Constant() | ast.Attribute(attr="line"):
            return
        case ast.Name() if text.id.isupper():
            return
        case ast.Call() if called(text) in WRITERS:
            return
        case ast.Call(func=ast.Attribute(attr="format" | "removeprefix", value=owner)):
            yield from (one for part in (owner, *text.args) for one in strange(part, function))
        case ast.JoinedStr():
            parts = [part.value for part in text.values if isinstance(part, ast.FormattedValue)]
            yield from (one for part in parts for one in strange(part, function))
        case ast.BinOp(op=ast.Add()) | ast.BoolOp():
            sides = text.values if isinstance(text, ast.BoolOp) else [text.left, text.right]
            yield from (one for side in sides for one in strange(side, function))
        case ast.IfExp():
            yield from (one for way in (text.body, text.orelse) for one in strange(way, function))
        case ast.Name() if assigned := list(values_of(text.id, function)):
            yield from (one for value in assigned for one in strange(value, function))
        case _:
            yield text


def values_of(name: str, function: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            yield node.value


def fixes() -> Iterator[tuple[str, ast.Call, ast.AST]]:
    """Every `Fix` that is made outside of the builder of lines, with its module and the function around it."""
    for path in sorted((REPOSITORY / "loader").rglob("*.py")):
        module = path.relative_to(REPOSITORY / "loader").as_posix()
        if module in {"text/lines.py", "errors.py", "sweep/child.py"}:
            continue  # the builder itself; a refusal makes fixes harmless; a crashed job's come out of its report
        tree = ast.parse(path.read_text())
        inside = {call: function for function in ast.walk(tree) if isinstance(function, ast.FunctionDef)
                  for call in ast.walk(function)}  # fmt: skip
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and called(call) == "Fix":
                yield module, call, inside.get(call, tree)


def test_every_line_is_written_by_the_builder_of_lines() -> None:
    seen = {
        (module, ast.unparse(part).partition("(lambda")[0]): f"{module}:{call.lineno}"
        for module, call, function in fixes()
        for text in [*call.args[:1], *(word.value for word in call.keywords if word.arg == "line")]
        for part in strange(text, function)
    }
    assert {key: place for key, place in seen.items() if key not in REVIEWED} == {}
    assert [key for key in REVIEWED if key not in seen] == [], "reviewed, and no longer there"


def test_no_note_of_ours_is_left_out_of_the_text() -> None:
    notes = [
        word.value
        for path in (REPOSITORY / "loader").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and not (called(call) == "Fix" and not call.args)
        for word in [*call.keywords, *(ast.keyword("note", note) for note in call.args[1:2] if called(call) == "Fix")]
        if word.arg == "note"
    ]
    texts = [note.value for note in notes if isinstance(note, ast.Constant) and isinstance(note.value, str)]
    assert [text for text in texts if text and f"   # {text}" not in str(Fix("line", text))] == []
    assert len(texts) > 80


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_a_pasted_line_with_its_note_works_at_a_prompt_of_zsh(tmp_path: Path) -> None:
    (tmp_path / "hydra-loader").write_text(
        f"#!{sys.executable}\nimport sys\nfrom loader.config.argv import parse_arguments\n"
        "print('typed:', parse_arguments(sys.argv[1:]).typed)\n"
    )
    (tmp_path / "hydra-loader").chmod(0o700)
    fixes = [
        Fix("verify.expect.finite=false", "accepts inf and nan"),
        Fix("a=1", "the file's (own)"),
        Fix("a=2", "x, y=z"),
    ]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": os.fspath(REPOSITORY), "TERM": "dumb"}
    done = subprocess.run(
        ["zsh", "-fi"], input="".join(f"hydra-loader {fix}\n" for fix in fixes), cwd=tmp_path, env=environment,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    typed = [line.partition("typed: ")[2] for line in done.stdout.splitlines() if "typed: " in line]
    assert typed == ["['verify.expect.finite=false']", "['a=1']", "['a=2']"], done.stderr


HOSTILE = ["$(: >PWNED)", "`: >PWNED`", "a'$(: >PWNED)", 'a"$(: >PWNED)', "a b; : >PWNED; c"]
LINEAR = {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}


def configs(bad: str) -> list[dict[str, Any]]:
    """Models that are refused at every place where the build refuses, with a hostile name in the way there."""
    inside: list[dict[str, Any]] = [
        {"_target_": "torch.nn.Linear"},
        {**LINEAR, "out_featurs": bad},
        {**LINEAR, bad: 1},
        {**LINEAR, bad: "???"},
        {**LINEAR, "target": bad},
        {**LINEAR, "_partial_": bad},
        {"_target_": bad},
        {"_target_": "torch.nn.Linaer"},
        {"_target_": "no_such_module.Net"},
        {"_target_": "os.system"},
        {"_target_": "hydra.utils.get_class", "path": "torch.float16"},
        {"_target_": "hydra.utils.get_class", "path": "torch.nn.Linear", "_partial_": True},
        {"_target_": "hydra.utils.get_class", "path": bad},
    ]
    outer = {"_target_": "torch.nn.Sequential"}
    return [*inside, *({**outer, bad: one} for one in inside), *({**outer, "_args_": [{bad: one}]} for one in inside)]


SPECS: list[Any] = [
    {"shape": [1, 1], "kind": "zzz"},
    {"shape": [1, 1], "dtype": "zzz"},
    {"shape": [1, 1], "kind": "randint", "high": -1},
    {"shape": [1, 1], "kind": "randint", "dtype": "int8", "high": 1000},
    {"shape": 3},
    {"shap": [1]},
    {"value": "text"},
    [1, 2],
    3,
]


def refused(call: Callable[[], object]) -> str:
    try:
        call()
    except LoaderError as error:
        return error.hint
    return ""


def of_configs(bad: str) -> Iterator[str]:
    for config in configs(bad):
        yield refused(lambda config=config: build_model(config, trusted=["torch.nn.*", "hydra.*"]))  # type: ignore[misc]
        yield refused(lambda config=config: build_model(config))  # type: ignore[misc]
    for spec in SPECS:
        wrong = {bad: spec}
        yield refused(lambda wrong=wrong: make_inputs(wrong, torch.float32, torch.device("cpu"), 0))  # type: ignore[misc]


def of_rules(bad: str) -> Iterator[str]:
    yield refused(lambda: rewrite(["a.b"], {bad: Regex("(", to=bad)}))
    yield refused(lambda: rewrite(["a.b"], {bad: Strip("z.")}))


CONTENTS = {
    "gguf": b"GGUF" + struct.pack(">I", 3) + b"\0" * 64,
    "h5": b"\x89HDF\r\n\x1a\n" + b"\0" * 64,
    "onnx": b"\x08\x07\x12\x07pytorch",
    "txt": b"hello",
    "gz": b"\x1f\x8b\x08\0\0",
    "pdparams": b"\x80\x02}q\0X\x03\0\0\0abcq\1K\1s.",
    "msgpack": b"\x81\xa6params\x81\xa5Dense\x80",
    "t7": b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1" + b"\0" * 16,
}


def of_files(bad: str, folder: Path) -> Iterator[str]:
    for ending, content in CONTENTS.items():
        path = folder / f"a{bad.replace('/', '')}.{ending}"
        path.write_bytes(content)
        yield refused(lambda path=path: open_checkpoint(path).root)  # type: ignore[misc]
    saved = folder / f"tf{bad}"
    saved.mkdir()
    for name in (f"n{bad}.index", f"n{bad}.data-00000-of-00001"):
        (saved / name).write_bytes(b"")
    yield refused(lambda: open_checkpoint(saved).root)


def of_folder(bad: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    here = folder / f"cwd{bad}"
    (here / "src").mkdir(parents=True)
    (here / "src" / "zz_there.py").write_text("class Net: ...")
    with monkeypatch.context() as patched:
        patched.chdir(here)
        yield refused(lambda: build_model({"_target_": "zz_there.Net"}))


@pytest.mark.parametrize("bad", HOSTILE)
def test_no_line_that_is_offered_runs_what_a_name_holds(
    bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins, cwd = tmp_path / "bin", tmp_path / "cwd"
    stand_ins.mkdir()
    cwd.mkdir()
    for name in ("python", "pip", "hydra-loader", "gguf-convert-endian", "tar", "unzip", "gunzip"):
        (stand_ins / name).write_text("#!/bin/bash\nexit 0\n")
        (stand_ins / name).chmod(0o700)
    offered = [*of_configs(bad), *of_rules(bad), *of_files(bad, tmp_path), *of_folder(bad, tmp_path, monkeypatch)]
    lines = dict.fromkeys(line for hint in offered for line in hint.split("\n") if line)
    for line in [*lines, *(f"hydra-loader {line}" for line in lines)]:
        subprocess.run(
            ["/bin/bash", "-c", line], cwd=cwd, env={"PATH": os.fspath(stand_ins)}, capture_output=True, check=False
        )
        assert not list(tmp_path.rglob("PWNED")), line
    assert len(lines) > 10
