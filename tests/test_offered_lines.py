"""Lines to type, wherever they are offered: names out of files and configs are in them as a shell takes them."""

from __future__ import annotations

import ast
import os
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from loader import LoaderError
from loader.builder.model import build_model
from loader.formats import open_checkpoint
from loader.keys.rules import rewrite
from loader.schema import RuleConfig
from loader.verify.inputs import make_inputs
from tests.command import REPOSITORY

WORDS = {"line", "typed", "blank", "glob_line", "removal", "value_text", "python_text", "path_override", "program"}
"""The functions whose results may stand in a line: the builder's, and what is made of it alone."""

ADVICE = (
    """hint.replace(f"'{{{name}}}'", python_text(path) or "'FILE'").replace(f'{{{name}}}', typed(path) or 'FILE')"""
)
REVIEWED = {
    ("formats/__init__.py", "found"): "a digest",
    ("remote/download.py", "digest"): "a digest",
    ("remote/refusals.py", "url.scheme"): "one of the known schemes",
    ("remote/urls.py", "scheme"): "one of the known schemes",
    ("keys/quantized.py", "to_plain(found)"): "the loader's own words, by the scheme's name",
    ("verify/inputs.py", "listing(SPEC_KEYS, 9)"): "a constant",
    ("formats/foreign/frameworks.py", "self.hint.replace('{typed}', typed(paths.get('file', '')) or 'FILE')"): "typed",
    ("formats/foreign/frameworks.py", ADVICE): "typed for a shell, or a text in Python's quotes",
    ("formats/foreign/packed.py", "self.command"): "typed where it is made",
    ("module/dtype.py", "instead"): "a constant of both callers",
    ("keys/rules.py", "ways"): "lines of the builder",
}
"""What else is interpolated, and why it may be."""


def called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def pieces(text: ast.expr) -> Iterator[ast.expr]:
    """What is put into a text: by an f-string, `+`, `%`, `format` or `replace`, also where it is one of several."""
    match text:
        case ast.JoinedStr():
            yield from (value.value for value in text.values if isinstance(value, ast.FormattedValue))
        case ast.BinOp(op=ast.Add() | ast.Mod()):
            for side in (text.left, text.right):
                yield from pieces(side) if isinstance(side, ast.JoinedStr | ast.BinOp) else [side]
        case ast.IfExp():
            yield from (*pieces(text.body), *pieces(text.orelse))
        case ast.BoolOp(values=several) | ast.List(elts=several) | ast.Tuple(elts=several):
            yield from (piece for value in several for piece in pieces(value))
        case ast.Starred(value=one) | ast.NamedExpr(value=one) | ast.ListComp(elt=one) | ast.GeneratorExp(elt=one):
            yield from pieces(one)
        case ast.Call() if called(text) in {"format", "replace"}:
            yield text
        case ast.Call() if called(text) in {"join", "next", "list", "filter", "fromkeys"}:
            yield from (piece for argument in text.args for piece in pieces(argument))


def may_stand(piece: ast.expr, function: ast.FunctionDef | None) -> bool:
    match piece:
        case ast.Constant():
            return True
        case ast.Call():
            return called(piece) in WORDS
        case ast.BoolOp():
            return all(may_stand(value, function) for value in piece.values)
        case ast.IfExp():
            return may_stand(piece.body, function) and may_stand(piece.orelse, function)
        case ast.JoinedStr():
            return all(may_stand(one, function) for one in pieces(piece))
        case ast.Name() if piece.id.isupper():
            return True
        case ast.Name() if function is not None:
            given = list(assigned(piece.id, function))
            return bool(given) and all(may_stand(value, function) for value in given)
    return False


def assigned(name: str, function: ast.FunctionDef) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.NamedExpr):
            pairs = [(node.target, node.value)]
        for target, value in pairs:
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                named = zip(target.elts, value.elts, strict=True)
                yield from (v for t, v in named if isinstance(t, ast.Name) and t.id == name)
            elif isinstance(target, ast.Name) and target.id == name:
                yield value


def hints(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.FunctionDef | None]]:
    """Everything that is a hint: of a refusal, kept in a list of hints, or returned by what writes them."""
    stack: list[tuple[ast.AST, ast.FunctionDef | None]] = [(tree, None)]
    while stack:
        node, function = stack.pop()
        function = node if isinstance(node, ast.FunctionDef) else function
        stack += [(child, function) for child in ast.iter_child_nodes(node)]
        if isinstance(node, ast.Call) and re.fullmatch(
            r"(Config|Checkpoint|Fit|Verification|Device|Loader)Error", called(node)
        ):
            yield from ((one, function) for one in node.args[1:2])
        if isinstance(node, ast.Call):
            yield from ((one.value, function) for one in node.keywords if one.arg == "hint")
            if re.fullmatch(r".*\b(hints|fixes)\.(append|insert|extend)", ast.unparse(node.func)):
                yield node.args[-1], function
        if isinstance(node, ast.Assign | ast.AugAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(
                isinstance(one, ast.Name) and one.id in {"hint", "hints", "fix", "fixes", "offer"} for one in targets
            ):
                yield node.value, function
        if (
            isinstance(node, ast.Return)
            and node.value
            and function
            and re.search("hint|advice|given|fix", function.name)
        ):
            yield node.value, function


def test_no_hint_holds_anything_that_the_builder_of_lines_did_not_write() -> None:
    raw, seen = [], set()
    for path in sorted((REPOSITORY / "loader").rglob("*.py")):
        file = path.relative_to(REPOSITORY / "loader").as_posix()
        for hint, function in hints(ast.parse(path.read_text())):
            for piece in pieces(hint):
                if not may_stand(piece, function):
                    seen.add((file, ast.unparse(piece)))
                    raw.append(f"{file}:{hint.lineno}: {ast.unparse(piece)}")
    assert [one for one in raw if (one.split(":")[0], one.split(": ", 1)[1]) not in REVIEWED] == []
    assert [one for one in REVIEWED if one not in seen] == [], "reviewed, and no longer there"


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
    yield refused(lambda: rewrite(["a.b"], {bad: RuleConfig(regex="(", to=bad)}))
    yield refused(lambda: rewrite(["a.b"], {bad: RuleConfig(strip="z.")}))


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
