from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import loader
from loader.config.compose import compose
from loader.config.groups import refused_list
from loader.errors import ConfigError
from tests.command import run_loader

OPTIONS = "which is a mapping; the group '{}' takes names of its options"
NAMED = "the group 'rules' takes names of its options; rules of your own are a mapping, each with a name"
HELP = "hydra-loader --help   # lists the groups and their options"
REFUSED = [
    (
        "rules=[{strip: _orig_mod.}]",
        f"'rules=[{{strip: _orig_mod.}}]' lists {{strip: _orig_mod.}}, which is a mapping; {NAMED}",
        "'+rules={mine: {strip: _orig_mod.}}'",
    ),
    (
        "+rules=[{strip: a}]",
        f"'rules=[{{strip: a}}]' lists {{strip: a}}, which is a mapping; {NAMED}",
        "'+rules={mine: {strip: a}}'",
    ),
    (
        "rules=[ddp, {strip: a}]",
        f"'rules=[ddp, {{strip: a}}]' lists {{strip: a}}, which is a mapping; {NAMED}",
        "'rules=[ddp]' '+rules={mine: {strip: a}}'",
    ),
    (
        "rules=[{own: {strip: a}}]",
        f"'rules=[{{own: {{strip: a}}}}]' lists {{own: {{strip: a}}}}, which is a mapping; {NAMED}",
        "'+rules={own: {strip: a}}'",
    ),
    (
        "rules=[{regex: ^a=b, to: c}]",
        f"'rules=[{{regex: ^a=b, to: c}}]' lists {{regex: ^a=b, to: c}}, which is a mapping; {NAMED}",
        "'+rules={mine: {regex: ^a=b, to: c}}'",
    ),
    ("rules=[1]", f"'rules=[1]' lists 1, which is no name; {NAMED}", HELP),
    ("rules=[[ddp]]", f"'rules=[[ddp]]' lists [ddp], which is a list; {NAMED}", HELP),
    (
        "model=[{_target_: a.B}]",
        f"'model=[{{_target_: a.B}}]' lists {{_target_: a.B}}, {OPTIONS.format('model')}",
        "'model={_target_: a.B}'",
    ),
    (
        "experiment=[{a: b}]",
        f"'experiment=[{{a: b}}]' lists {{a: b}}, {OPTIONS.format('experiment')}",
        HELP,
    ),
    (
        "hydra/launcher=[{a: b}]",
        f"'hydra/launcher=[{{a: b}}]' lists {{a: b}}, {OPTIONS.format('hydra/launcher')}",
        HELP,
    ),
]


@pytest.mark.parametrize(("typed", "message", "hint"), REFUSED, ids=[typed for typed, _, _ in REFUSED])
def test_a_list_with_more_than_names_is_refused(typed: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        loader.load([typed])
    assert (refusal.value.message, refusal.value.hint) == (message, hint)


@pytest.mark.parametrize("typed", [typed for typed, _, hint in REFUSED if hint != HELP])
def test_the_line_to_type_is_taken(typed: str) -> None:
    refusal = refused_list([typed])
    assert refusal is not None
    assert compose(shlex.split(refusal.hint))["model" if "model" in typed else "rules"]


@pytest.mark.parametrize("typed", ["rules=[]", "rules=[ddp,'compile']", "rules=auto", "model=linear", "rules=[ddp],[]"])
def test_names_are_no_such_list(typed: str) -> None:
    assert refused_list([typed]) is None


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (
            "rules=[ddp],[{strip: x}]",
            "-m 'rules=[ddp],[mine]' --config-dir FOLDER   # with {mine: {strip: x}} in FOLDER/rules/mine.yaml",
        ),
        (
            "model=linear,[{_target_: a.B}]",
            "-m model=linear,mine --config-dir FOLDER   # with {_target_: a.B} in FOLDER/model/mine.yaml",
        ),
    ],
)
def test_in_a_sweep_the_mapping_belongs_into_a_file(typed: str, hint: str) -> None:
    refusal = refused_list([typed])
    assert refusal is not None
    assert refusal.hint == hint


def test_the_command_line_refuses_without_a_traceback(tmp_path: Path) -> None:
    done = run_loader("-m", "rules=[ddp],[{strip: x}]", cwd=tmp_path)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "'rules=[{strip: x}]' lists {strip: x}, which is a mapping" in done.err
