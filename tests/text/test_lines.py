from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from loader.config.rewrite import rewrite
from loader.formats.frameworks import FROZEN
from loader.text.lines import Fix, line, override, removal, together, typed, under, yaml_value
from loader.text.wording import is_printable
from tests.laws import examples

ACTING = [
    "$(touch x)",
    "`touch x`",
    "; touch x",
    "a'b",
    'a"b',
    "\\",
    "${oc.env:HOME}",
    "a=b",
    "a,b",
    "#",
    "~",
    "!x",
    "&",
]
HIDDEN = ["\n", "\x1b[31m", "\u2028", "\u202e", "\0"]
TEXT = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.text("ab.\\$\"'{}[](),:= *#~1e", max_size=10)
    | st.lists(st.sampled_from([*ACTING, *HIDDEN, "a", " ", "1e5", "null", "???"]), max_size=4).map("".join)
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(LEAVES, lambda some: st.lists(some, max_size=3) | st.dictionaries(TEXT, some, max_size=3))


def received(word: str) -> tuple[str, Any]:
    """What the loader makes of one word of its command line."""
    parsed = OverridesParser.create().parse_override(rewrite([word])[-1])
    value = OmegaConf.to_container(OmegaConf.create({"value": parsed.value()}), resolve=True)
    return parsed.key_or_group, value["value"]  # type: ignore[index,call-overload]


def is_carried(value: object) -> bool:
    if isinstance(value, str):
        return is_printable(value) and value != "???"
    if isinstance(value, dict):
        return all(is_printable(key) for key in value) and all(map(is_carried, value.values()))
    return all(map(is_carried, value)) if isinstance(value, list) else True


@settings(deadline=None, max_examples=examples(300))
@given(VALUES)
@example({"a b": {"": "$(touch x)", "*": ["`", "'"], "cuda:0": "20GB", "1": 1, "null": None, "é": "${a}"}})
@example({"_quoted_6162_": "_quoted_6162_", "a\\": '"', '\\"': "\\'"})
def test_a_line_means_its_value_or_is_not_written(value: object) -> None:
    written = line("model.x", value)

    if not is_carried(value):
        assert not written
    else:
        (word,) = shlex.split(written.line)
        assert received(word) == ("model.x", value)


@settings(deadline=None)
@given(VALUES)
def test_a_value_in_a_config_file_is_read_back_unchanged(value: object) -> None:
    read = OmegaConf.create(f"x: {yaml_value(value)}")

    assert OmegaConf.to_container(read, resolve=True) == {"x": value}  # "???" is a value that is still to be given


def test_a_shell_runs_nothing_in_a_line(tmp_path: Path) -> None:
    values = [*ACTING, {name: name for name in ACTING}]
    lines = [line("model.x", value) for value in values]

    command = "\n".join(f"printf '%s\\0' {written.line}" for written in lines)
    out = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert [received(word)[1] for word in out.split("\0")[:-1]] == values
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hidden", HIDDEN)
def test_nothing_that_acts_on_a_terminal_is_written(hidden: str) -> None:
    assert not line("model.x", f"a{hidden}")
    assert not line("model.x", {f"a{hidden}": 1})
    assert not line("model.x", [{"a": [hidden]}])
    assert not typed("--config-dir", f"a{hidden}")


@pytest.mark.parametrize("name", ["$(touch x)", "a b", "a.b", "", "é", "a=b", "`x`", "1a", "01", "\n", "a;b"])
def test_a_name_that_no_dotted_path_takes_gives_no_line(name: str) -> None:
    assert under("model", name) == ""
    assert not line(under("model", name), 1)
    assert removal(under("model", name)) == ""


def test_names_make_dotted_paths() -> None:
    assert under("model", "layers", 0, "width") == "model.layers.0.width"
    assert under("", "model") == "model"
    assert str(line(under("model", "width"), 3, "+")) == "+model.width=3"
    assert removal("model.width") == "~model.width"


def test_values_that_no_config_can_hold_give_no_line() -> None:
    assert not line("model.x", object())
    assert not line("model.x", [b"bytes"])
    assert not line("model.x", "???")
    assert not line("model.x", "a" * 9_000)


def test_lines_read_well() -> None:
    assert str(line("checkpoint.key", "state_dict")) == "checkpoint.key=state_dict"
    assert str(line("checkpoint.key", None)) == "checkpoint.key=null"
    assert str(line("checkpoint.key", "1e5")) == "'checkpoint.key=\"1e5\"'"
    assert str(line("device", "cuda:0")) == "device=cuda:0"
    assert str(line("allow.missing", ["head.*", "*.step"])) == "'allow.missing=[head.*,*.step]'"
    fit = {"fit": {"strip": "net.", "anywhere": True}}
    assert str(line("rules", fit, note="all of it")) == "'rules={fit: {strip: net., anywhere: true}}'   # all of it"
    assert override("model.x", {"cuda:0": 1.5}) == 'model.x={"cuda:0": 1.5}'
    assert str(typed("-m", "checkpoint.path=glob(a*.pt)")) == "-m 'checkpoint.path=glob(a*.pt)'"


def test_nothing_else_quotes_for_a_shell() -> None:
    package = Path(__file__).resolve().parents[2] / "loader"
    quoting = re.compile(r"shlex\.(quote|join)")
    users = [str(p.relative_to(package)) for p in package.rglob("*.py") if quoting.search(p.read_text("utf-8"))]
    assert users == ["text/lines.py"]


@pytest.mark.parametrize("name", ["$(touch x)'", "a'; import os #"])
def test_paths_in_advice_on_foreign_files_stay_one_word(name: str) -> None:
    (fix,) = FROZEN.advice(file=f"/d/{name}")
    assert shlex.split(fix.line.partition(" --output")[0])[-1] == f"/d/{name}"


def test_a_fix_reads_as_one_line() -> None:
    assert str(Fix("seed=0", "the default")) == "seed=0   # the default"
    assert (str(Fix("seed=0")), str(Fix(note="ask its owner"))) == ("seed=0", "ask its owner")
    assert (bool(Fix()), bool(Fix(note="a")), str(Fix())) == (False, True, "")


@pytest.mark.parametrize(
    "note",
    [
        "a; rm b",
        "$(touch x)",
        "`x`",
        "a\nb",
        "a\x1b[31m",
        "a & b",
        "the file's",
        'a "b',
        "a (b)",
        "*",
        "a?",
        "[a]",
        "a ~b",
    ],
)
def test_a_note_on_which_a_shell_without_comments_would_act_stays_out_of_the_text(note: str) -> None:
    assert str(Fix("seed=0", note)) == "seed=0"
    assert Fix("seed=0", note).note == note


def test_lines_that_are_typed_at_once_are_one() -> None:
    assert together([line("a", 1), Fix(), line("b", "x y")], note="both") == Fix("a=1 'b=\"x y\"'", "both")
    assert not together([])
