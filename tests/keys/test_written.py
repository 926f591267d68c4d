from __future__ import annotations

import shlex

from hypothesis import given, settings
from hypothesis import strategies as st

from loader.config.compose import compose
from loader.keys.rules.key import Add, Drop, Keep, Regex, Rename, Strip
from loader.keys.written import (
    globs_override,
    key_override,
    may_be_typed,
    rules_override,
    written,
)
from loader.schema import Rule
from tests.rules import parse_rules

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
AWKWARD = st.text("ab.\\$\"'{}[](),:= *#~", min_size=1, max_size=10).filter(lambda text: text.strip() == text)
TEXTS = (TEXT | AWKWARD).filter(may_be_typed)
RULES = st.lists(
    st.builds(Strip, TEXTS)
    | st.builds(lambda text: Strip(text, anywhere=True), TEXTS)
    | st.builds(Add, TEXTS)
    | st.builds(Rename, TEXTS, TEXTS)
    | st.builds(Regex, TEXTS, TEXTS)
    | st.builds(lambda text: Keep(text, optional=True), TEXTS)
    | st.builds(lambda text: Drop(text, enabled=False), TEXTS),
    min_size=1,
    max_size=3,
).map(lambda rules: {f"fit{number}": rule for number, rule in enumerate(rules)})


def composed(*overrides: str) -> dict[str, object]:
    return compose([typed for override in overrides for typed in shlex.split(written(override))])


@settings(deadline=None)
@given(RULES)
def test_rules_mean_the_same_when_they_were_pasted(rules: dict[str, Rule]) -> None:
    config = composed(rules_override("rules", rules))

    assert parse_rules(config["rules"]) == rules  # type: ignore[arg-type]


@settings(deadline=None)
@given(RULES)
def test_rules_of_a_part_mean_the_same_when_they_were_pasted(rules: dict[str, Rule]) -> None:
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
    fit = {"fit": Strip("net.", anywhere=True)}
    assert written(rules_override("rules", fit)) == """'rules={fit: {strip: "net.", anywhere: true}}'"""


def test_what_a_terminal_would_act_on_is_not_typed() -> None:
    assert may_be_typed("encoder.0")
    assert not may_be_typed("a\nb")
    assert not may_be_typed("\x1b[31m")
