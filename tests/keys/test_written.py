from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.config.compose import compose
from loader.config.parse import parse_rules
from loader.keys.rules import READY_MADE
from loader.keys.written import (
    globs_override,
    key_override,
    may_be_typed,
    ready_made,
    rules_override,
    under_ready_names,
    written,
)
from loader.schema import RuleConfig

CONF = Path(__file__).resolve().parents[2] / "conf" / "rules"
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
AWKWARD = st.text("ab.\\$\"'{}[](),:= *#~", min_size=1, max_size=10).filter(lambda text: text.strip() == text)
TEXTS = (TEXT | AWKWARD).filter(may_be_typed)
RULES = st.lists(
    st.builds(lambda text: RuleConfig(strip=text), TEXTS)
    | st.builds(lambda text: RuleConfig(strip=text, anywhere=True), TEXTS)
    | st.builds(lambda text: RuleConfig(add=text), TEXTS)
    | st.builds(lambda old, new: RuleConfig(rename=old, to=new), TEXTS, TEXTS)
    | st.builds(lambda old, new: RuleConfig(regex=old, to=new), TEXTS, TEXTS)
    | st.builds(lambda text: RuleConfig(keep=text, optional=True), TEXTS)
    | st.builds(lambda text: RuleConfig(drop=text, enabled=False), TEXTS),
    min_size=1,
    max_size=3,
).map(lambda rules: {f"fit{number}": rule for number, rule in enumerate(rules)})


def composed(*overrides: str) -> dict[str, object]:
    return compose([typed for override in overrides for typed in shlex.split(written(override))])


@settings(deadline=None)
@given(RULES)
def test_rules_mean_the_same_when_they_were_pasted(rules: dict[str, RuleConfig]) -> None:
    config = composed(rules_override("rules", rules))

    assert parse_rules(config["rules"]) == rules  # type: ignore[arg-type]


@settings(deadline=None)
@given(RULES)
def test_rules_of_a_part_mean_the_same_when_they_were_pasted(rules: dict[str, RuleConfig]) -> None:
    config = composed("parts={a: {key: x}}", rules_override("parts.a.rules", rules))

    assert parse_rules(config["parts"]["a"]["rules"]) == rules  # type: ignore[index]


@settings(deadline=None)
@given(TEXTS)
def test_a_nested_key_means_the_same_when_it_was_pasted(key: str) -> None:
    assert composed(key_override("checkpoint.key", key))["checkpoint"]["key"] == key  # type: ignore[index]


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_globs_mean_the_same_when_they_were_pasted(globs: list[str]) -> None:
    assert composed(globs_override("allow.missing", globs))["allow"]["missing"] == globs  # type: ignore[index]


def test_overrides_read_well() -> None:
    assert written(key_override("checkpoint.key", "state_dict")) == "checkpoint.key=state_dict"
    assert key_override("checkpoint.key", None) == "checkpoint.key=null"
    assert key_override("checkpoint.key", "1e5") == 'checkpoint.key="1e5"'
    assert written(globs_override("allow.missing", ["head.*", "*.step"])) == "'allow.missing=[head.*,*.step]'"
    fit = {"fit": RuleConfig(strip="net.", anywhere=True)}
    assert written(rules_override("rules", fit)) == """'rules={fit: {strip: "net.", anywhere: true}}'"""


def test_ready_made_rules_are_those_that_are_shipped() -> None:
    assert {*READY_MADE, "auto"} == {file.stem for file in CONF.glob("*.yaml")}
    for name, rules in READY_MADE.items():
        assert parse_rules(yaml.safe_load((CONF / f"{name}.yaml").read_text())) == rules, name


@pytest.mark.parametrize("name", READY_MADE)
def test_ready_made_rules_are_named_and_mean_the_same(name: str) -> None:
    override = rules_override("rules", READY_MADE[name])

    assert override == f"rules=[{name}]"
    assert parse_rules(composed(override)["rules"]) == READY_MADE[name]  # type: ignore[arg-type]


def test_several_ready_made_rules_keep_their_order() -> None:
    assert ready_made({**READY_MADE["ddp"], **READY_MADE["compile"]}) == ["ddp", "compile"]
    assert ready_made({**READY_MADE["compile"], **READY_MADE["ddp"]}) == ["compile", "ddp"]
    assert ready_made({**READY_MADE["ddp"], "fit": RuleConfig(strip="net.")}) is None
    assert ready_made({}) == []


def test_rules_get_the_names_under_which_they_are_shipped() -> None:
    model = RuleConfig(strip="model.")
    ddp = READY_MADE["ddp"]["ddp"]

    assert under_ready_names({"fit": ddp, "fit2": model}, {}, lightning=False) == {"ddp": ddp, "fit2": model}
    assert under_ready_names({"fit": model}, {}, lightning=True) == {"lightning": model}
    assert under_ready_names({"mine": ddp, "fit": ddp}, {"mine": ddp}, lightning=True) == {"mine": ddp, "ddp": ddp}
    given = {"ddp": model, "dataparallel": model}
    assert under_ready_names({**given, "fit": ddp}, given, lightning=False) == {**given, "fit": ddp}


def test_what_a_terminal_would_act_on_is_not_typed() -> None:
    assert may_be_typed("encoder.0")
    assert not may_be_typed("a\nb")
    assert not may_be_typed("\x1b[31m")
