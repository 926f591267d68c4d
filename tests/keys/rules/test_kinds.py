"""A kind of rule from outside of the package: one class and one registration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch

from loader import ConfigError, FitError, load
from loader.keys import rules
from loader.keys.rules import kinds, register, rewrite, rule_of
from loader.keys.rules.key import Add, Drop, Keep, Regex, Rename, Strip
from loader.keys.written import rules_override
from loader.schema import Rule, Step
from tests.rules import parse_rules

LINEAR = ["model._target_=torch.nn.Linear", "+model.in_features=2", "+model.out_features=3"]


@dataclass(frozen=True, slots=True)
class Lower(Rule):
    """Writes the names that match a glob in small letters."""

    lower: str
    first: int = 0

    def step(self) -> Step:
        """Returns the name in small letters."""
        return lambda name: name.lower() if fnmatchcase(name, self.lower) and name != name.lower() else None


@pytest.fixture
def lower() -> Iterator[None]:
    before = dict(rules._KINDS)
    register(Lower)
    yield
    rules._KINDS.clear()
    rules._KINDS.update(before)


@pytest.fixture
def shouted(tmp_path: Path) -> Path:
    torch.save({"WEIGHT": torch.ones(3, 2), "BIAS": torch.ones(3)}, tmp_path / "file.pt")
    return tmp_path / "file.pt"


@pytest.mark.usefixtures("lower")
def test_a_config_uses_it(shouted: Path) -> None:
    loaded = load([*LINEAR, f"checkpoint.path={shouted}", "+rules={small: {lower: '*'}}"])

    assert loaded.report.parts[""].rules == [{"name": "small", "hits": 2}]
    assert torch.equal(loaded.model.state_dict()["bias"], torch.ones(3))


@pytest.mark.usefixtures("lower")
def test_messages_and_lines_know_it(shouted: Path) -> None:
    assert str(Lower("*")) == "lower: *, first: 0"
    assert parse_rules({"r": {"lower": "*", "first": 1}}) == {"r": Lower("*", 1)}
    assert rules_override("rules", {"r": Lower("*", 1)}) == 'rules={r: {lower: "*", first: 1}}'
    assert rule_of(Lower("*", optional=True).settings()) == Lower("*", optional=True)
    with pytest.raises(ConfigError, match="exactly one of strip, add, rename, regex, drop, keep, lower"):
        parse_rules({"r": {}})
    with pytest.raises(ConfigError, match="has 'first', which only lower take"):
        parse_rules({"r": {"strip": "a.", "first": 1}})
    with pytest.raises(ConfigError, match=r"unknown config key 'rules.r.lowr' \(did you mean 'lower'"):
        parse_rules({"r": {"lowr": "*"}})
    with pytest.raises(FitError, match=r"'r' \(lower: x\*, first: 0\)"):
        load([*LINEAR, f"checkpoint.path={shouted}", "+rules={r: {lower: 'x*'}}"])


def test_without_it_a_config_that_names_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown config key 'rules\.r\.lower'"):
        parse_rules({"r": {"lower": "*"}})


def test_each_kind_is_named_by_its_first_setting_and_comes_back_from_its_settings() -> None:
    made = [
        Strip("a.", anywhere=True),
        Add("a."),
        Rename("a.", ""),
        Regex("a", "b"),
        Drop("a"),
        Keep("a", enabled=False),
    ]

    assert list(kinds().values()) == [type(rule) for rule in made]
    assert [rule_of(rule.settings()) for rule in made] == made
    assert [next(iter(rule.settings())) for rule in made] == list(kinds())


def test_a_rule_that_cannot_work_is_refused_with_its_name_and_an_example() -> None:
    with pytest.raises(
        ConfigError, match=r"rule 'r': the regular expression '\(' with to: '' does not work"
    ) as refused:
        rewrite(["a"], {"r": Regex("(", "")})
    assert refused.value.hint == r"""'rules.r.regex="^layers\.(\d+)\."' 'rules.r.to="blocks.\1."'"""
