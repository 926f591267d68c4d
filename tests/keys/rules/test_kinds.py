"""A kind of rule from outside of the package: one class and one registration."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, make_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from loader import ConfigError, FitError, load
from loader.keys import rules
from loader.keys.rules import kinds, register, rewrite, rule_of
from loader.keys.rules.key import Add, Drop, Keep, Regex, Rename, Strip
from loader.keys.rules.tensors import TensorRule
from loader.keys.written import rules_override
from loader.schema import KeyRule, Rule, Step
from tests.command import REPOSITORY, run_afresh
from tests.rules import parse_rules

LINEAR = ["model._target_=torch.nn.Linear", "+model.in_features=2", "+model.out_features=3"]


@dataclass(frozen=True, slots=True)
class Lower(KeyRule):
    """Writes the names that match a glob in small letters."""

    lower: str
    first: int = 0

    def step(self) -> Step:
        """Returns the name in small letters."""
        return lambda name: name.lower() if fnmatchcase(name, self.lower) and name != name.lower() else None


@pytest.fixture
def kinds_restored() -> Iterator[None]:
    before = dict(rules.table.KINDS)
    yield
    rules.table.KINDS.clear()
    rules.table.KINDS.update(before)


@pytest.fixture
def lower(kinds_restored: None) -> None:
    register(Lower)


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
    assert str(Lower("*")) == "lower: *"
    assert parse_rules({"r": {"lower": "*", "first": 1}}) == {"r": Lower("*", 1)}
    assert rules_override("rules", {"r": Lower("*", 1)}) == 'rules={r: {lower: "*", first: 1}}'
    assert rule_of(Lower("*", optional=True).settings()) == Lower("*", optional=True)
    with pytest.raises(ConfigError, match=r"exactly one of strip, add, rename, regex, drop, keep, .*, lower\n"):
        parse_rules({"r": {}})
    with pytest.raises(ConfigError, match="has 'first', which only lower take"):
        parse_rules({"r": {"strip": "a.", "first": 1}})
    with pytest.raises(ConfigError, match=r"unknown config key 'rules.r.lowr' \(did you mean 'lower'"):
        parse_rules({"r": {"lowr": "*"}})
    with pytest.raises(FitError, match=r"'r' \(lower: x\*\)"):
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
        *(rule_of(kind.example) for kind in kinds().values() if issubclass(kind, TensorRule)),
    ]

    assert {next(iter(rule.settings())): type(rule) for rule in made} == kinds()
    assert [rule_of(rule.settings()) for rule in made] == made


def test_a_rule_that_cannot_work_is_refused_with_its_name_and_an_example() -> None:
    with pytest.raises(
        ConfigError, match=r"rule 'r': the regular expression '\(' with to: '' does not work"
    ) as refused:
        rewrite(["a"], {"r": Regex("(", "")})
    assert refused.value.hint == r"""'rules.r.regex="^layers\.(\d+)\."' 'rules.r.to="blocks.\1."'"""


def kind_of(step: Callable[..., object], field: str = "lower", **settings: Any) -> type[Rule]:
    """A kind of rule with one text field; its step is a function of the rule."""
    made = make_dataclass("Made", [(field, str)], bases=(KeyRule,), frozen=True, namespace={"step": step, **settings})
    made.__module__ = "mine"
    return cast("type[Rule]", made)


def rule_with(step: Callable[..., object], **settings: Any) -> Rule:
    values: dict[str, Any] = {"lower": "*"}
    return kind_of(step, **settings)(**values)


class NotData(KeyRule):
    """No dataclass of its own."""

    def step(self) -> Step:
        """Hits nothing."""
        return lambda _: None


@dataclass(frozen=True)
class Bare(KeyRule):
    """No field of its own."""

    def step(self) -> Step:
        """Hits nothing."""
        return lambda _: None


@dataclass(frozen=True)
class Stepless(KeyRule):
    """No step."""

    stepless: str


@dataclass(frozen=True)
class Both(Lower):
    """A second setting that names another kind."""

    strip: str = ""


FROM_OUTSIDE = "expected a frozen dataclass below Rule"


@pytest.mark.usefixtures("kinds_restored")
@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        *(
            (kind_of(lambda _: str.lower, name), f"the kind of rule Made has '{name}', a name that rules have already")
            for name in ("strip", "keep", "to", "anywhere", "enabled", "optional", "exclusive", "settings")
        ),
        (Both, "the kind of rule Both has 'strip', a name that rules have already"),
        (NotData, f"NotData is not a kind of rule, {FROM_OUTSIDE}"),
        (dict, f"dict is not a kind of rule, {FROM_OUTSIDE}"),
        (Bare, "the kind of rule Bare has no field of its own"),
        (Stepless, "the kind of rule Stepless has no step"),
    ],
)
def test_a_kind_that_no_config_could_use_is_refused_when_it_is_registered(kind: type[Rule], fault: str) -> None:
    before = kinds()
    with pytest.raises(ValueError, match=f"^{fault}$"):
        register(kind)
    assert kinds() == before


@pytest.mark.usefixtures("lower")
def test_a_kind_is_registered_once() -> None:
    with pytest.raises(ValueError, match="the kind of rule Lower has 'lower', a name that rules have already"):
        register(Lower)


def divide(_: object) -> Step:
    return lambda _: str(1 / 0)


def leave(_: object) -> Step:
    return lambda _: sys.exit(0)


STEPS: dict[str, tuple[Callable[..., object], str]] = {
    "step raises": (lambda _: dict[str, str]()["x"], "KeyError: 'x'"),
    "step returns nothing": (lambda _: None, "TypeError: its step() returned NoneType, expected a function"),
    "function raises": (divide, "ZeroDivisionError: division by zero"),
    "function exits": (leave, "SystemExit: 0"),
    "function refuses": (lambda _: int, "ValueError: invalid literal for int() with base 10: 'a'"),
    "function returns a number": (lambda _: len, "TypeError: its step gave int, expected a name, a Fate or None"),
    "function returns true": (lambda _: str.islower, "TypeError: its step gave bool, expected a name, a Fate or None"),
}


@pytest.mark.parametrize("case", STEPS)
def test_a_rule_whose_code_fails_is_named_with_its_class(case: str) -> None:
    step, fault = STEPS[case]
    rule = rule_with(step)
    with pytest.raises(ConfigError) as refused:
        rewrite(["a"], {"r": rule})
    assert refused.value.message == f"rule 'r' (mine.Made) failed with {fault}"
    assert refused.value.hint == "leave the rule out"


def test_metadata_is_guarded_alike() -> None:
    rule = rule_with(divide)
    with pytest.raises(ConfigError, match=r"rule 'r' \(mine\.Made\) failed with ZeroDivisionError"):
        rules.rewrite_metadata({"a": {}}, {"r": rule})


def test_a_rule_that_says_why_it_cannot_work_gets_no_line_of_another_kind() -> None:
    def step(_: object) -> Step:
        raise ValueError("no such table")

    with pytest.raises(ConfigError) as refused:
        rewrite(["a"], {"r": rule_with(step)})
    assert str(refused.value) == "rule 'r': no such table\nleave the rule out"
    with pytest.raises(ConfigError) as refused:
        rewrite(["a"], {"r": rule_with(step, example={"lower": "*"})})
    assert refused.value.hint == "'rules.r.lower=*'"


@pytest.mark.usefixtures("kinds_restored")
def test_a_rule_whose_constructor_fails_is_a_problem_of_the_config() -> None:
    register(kind_of(divide, __post_init__=lambda self: len(self.nothing)))
    with pytest.raises(ConfigError) as refused:
        parse_rules({"r": {"lower": "*"}})
    fault = "AttributeError: 'Made' object has no attribute 'nothing'"
    assert refused.value.message == f"rule 'rules.r' (mine.Made) failed with {fault}"
    assert refused.value.hint == "leave the rule out"


SCRIPT = """
from hydra_loader import main

import kinds_of_mine

if __name__ == "__main__":
    main()
"""

KIND = """
from dataclasses import dataclass

from hydra_loader.keys.rules import register
from hydra_loader.schema import KeyRule


@register
@dataclass(frozen=True, slots=True)
class Lower(KeyRule):
    lower: str

    def step(self):
        return str.lower
"""


@pytest.mark.damaged_reports  # the schema knows no kinds from outside
@pytest.mark.slow
def test_a_script_that_imports_a_kind_first_is_a_command_line_that_knows_it(shouted: Path) -> None:
    folder = shouted.parent
    (folder / "own.py").write_text(SCRIPT)
    (folder / "kinds_of_mine.py").write_text(KIND)
    job = [*LINEAR, "+rules={r: {lower: '*'}}", "device=cpu"]
    environment = {"PYTHONPATH": str(REPOSITORY)}
    one = run_afresh(sys.executable, "own.py", *job, f"checkpoint.path={shouted}", cwd=folder, **environment)
    assert "rules: r hit 2" in one.stdout
    paths = f"checkpoint.path={shouted},{shouted}"
    several = run_afresh(sys.executable, "own.py", "-m", *job, paths, cwd=folder, **environment)
    assert "2 of 2 jobs ok" in several.stdout
