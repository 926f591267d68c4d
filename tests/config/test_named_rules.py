from __future__ import annotations

from pathlib import Path

import pytest

from loader.config.compose import compose
from loader.config.parse import parse_rules
from loader.errors import ConfigError

DDP = {"ddp": {"regex": r"^((?:_orig_mod\.)*)module\.", "to": r"\1"}}
COMPILE = {"compile": {"strip": "_orig_mod.", "anywhere": True}}
OPTIONS = "compile, dataparallel, ddp, ema, fsdp, lightning"


@pytest.fixture(params=["config.yaml", "experiment/mine.yaml"])
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in a user's folder of configs."""
    (tmp_path / "experiment").mkdir()
    monkeypatch.setenv("LOADER_CONFIG_DIR", str(tmp_path))
    return tmp_path / str(request.param)


def composed(file: Path, rules: str, *typed: str) -> object:
    file.write_text(f"# @package _global_\nrules: {rules}\n", encoding="utf-8")
    chosen = ["experiment=mine"] if file.parent.name == "experiment" else []
    return compose([*chosen, *typed])["rules"]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [("[ddp]", DDP), ("ddp", DDP), ("[]", {}), ("[auto]", "auto"), ("auto", "auto"), ("[ddp, compile]", DDP | COMPILE)],
)
def test_names_in_a_file_mean_what_they_mean_on_a_command_line(file: Path, rules: str, expected: object) -> None:
    assert composed(file, rules) == expected
    assert composed(file, rules, "rules=[compile]") == COMPILE


def test_an_option_of_a_users_own_is_found_by_its_name(file: Path, tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "own.yaml").write_text("own: {strip: x.}\n", encoding="utf-8")

    assert composed(file, "[own, compile]") == {"own": {"strip": "x."}, **COMPILE}


@pytest.mark.parametrize(
    ("rules", "told", "hint", "then"),
    [
        ("[dpp]", "'dpp' (did you mean 'ddp'?)", "'rules=[ddp]'", DDP),
        ("[{strip: x.}]", "'{'strip': 'x.'}'", "'rules={mine: {strip: x.}}'", {"mine": {"strip": "x."}}),
        (
            "[ddp, {strip: x.}]",
            "'{'strip': 'x.'}'",
            "'rules=[ddp]' '+rules={mine: {strip: x.}}'",
            {**DDP, "mine": {"strip": "x."}},
        ),
        ("[ddp, auto]", "'auto'", "'rules=[ddp]'", DDP),
        ("[3]", "'3'", "'rules=[ddp]'", DDP),
    ],
)
def test_what_is_no_option_is_refused_with_a_line_that_works(
    file: Path, rules: str, told: str, hint: str, then: object
) -> None:
    with pytest.raises(ConfigError) as refused:
        composed(file, rules)

    assert refused.value.message == (
        f"'rules' of a config file lists {told}; expected options of the group ({OPTIONS}), 'auto' alone, or a mapping "
        "of your own"
    )
    assert refused.value.hint == hint
    assert composed(file, rules, *hint.strip("'").split("' '")) == then


def test_one_name_is_a_list_of_one_from_python_too() -> None:
    assert parse_rules("ddp") == parse_rules(["ddp"])  # type: ignore[arg-type]
