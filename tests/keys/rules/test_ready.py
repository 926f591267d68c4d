from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from loader.config.compose import compose
from loader.errors import ConfigError
from loader.files.path import conf_dir
from loader.keys.rules.key import Regex, Strip
from loader.keys.rules.ready import ready_made, ready_names, under_ready_names
from loader.keys.written import rules_override, written
from tests.rules import parse_rules

READY = ready_made()


def composed(*overrides: str) -> dict[str, object]:
    return compose([typed for override in overrides for typed in shlex.split(written(override))])


def test_ready_made_rules_are_those_that_are_shipped() -> None:
    assert {*READY, "auto"} == {file.stem for file in (conf_dir() / "rules").glob("*.yaml")}
    assert READY["ddp"] == {"ddp": Regex(r"^((?:_orig_mod\.)*)module\.", r"\1")}
    assert READY["compile"] == {"compile": Strip("_orig_mod.", anywhere=True)}


def test_the_shipped_files_are_read_only_when_a_name_needs_them() -> None:
    code = (
        "import sys, loader.config.parse as parse\n"
        "from loader.keys.rules.ready import ready_made\n"
        "parse.parse_job({'rules': {'own': {'strip': 'a.'}}})\n"
        "assert ready_made.cache_info().currsize == 0\n"
        "parse.parse_job({'rules': ['ddp']})\n"
        "assert ready_made.cache_info().currsize == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", READY)
def test_ready_made_rules_are_named_and_mean_the_same(name: str) -> None:
    override = rules_override("rules", READY[name])

    assert override == f"rules=[{name}]"
    required = ["rules.rope.axes.d=2"] if name == "llama_meta" else []
    rules = parse_rules(composed(override, *required)["rules"])  # type: ignore[arg-type]
    assert rules == {**READY[name], **({"rope": rules["rope"]} if required else {})}


def test_a_value_that_a_ready_made_rule_requires_is_named() -> None:
    for rules in (["llama_meta"], composed("rules=[llama_meta]")["rules"]):
        with pytest.raises(ConfigError) as refused:
            parse_rules(rules)  # type: ignore[arg-type]
        assert (refused.value.message, refused.value.hint) == (
            "'rules.rope.axes.d' is required",
            "rules.rope.axes.d=VALUE",
        )


def test_several_ready_made_rules_keep_their_order() -> None:
    assert ready_names({**READY["ddp"], **READY["compile"]}) == ["ddp", "compile"]
    assert ready_names({**READY["compile"], **READY["ddp"]}) == ["compile", "ddp"]
    assert ready_names({**READY["ddp"], "fit": Strip("net.")}) is None
    assert ready_names({}) == []


def test_rules_get_the_names_under_which_they_are_shipped() -> None:
    model = Strip("model.")
    ddp = READY["ddp"]["ddp"]

    assert under_ready_names({"fit": ddp, "fit2": model}, {}, lightning=False) == {"ddp": ddp, "fit2": model}
    assert under_ready_names({"fit": model}, {}, lightning=True) == {"lightning": model}
    assert under_ready_names({"mine": ddp, "fit": ddp}, {"mine": ddp}, lightning=True) == {"mine": ddp, "ddp": ddp}
    given = {"ddp": model, "dataparallel": model}
    assert under_ready_names({**given, "fit": ddp}, given, lightning=False) == {**given, "fit": ddp}
