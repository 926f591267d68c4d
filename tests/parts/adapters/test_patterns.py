"""PEFT's patterns: they match what PEFT's expression matches, and cannot keep the process busy."""

from __future__ import annotations

import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.formats.limits import LONGEST_PATTERN
from loader.parts.adapters.patterns import Patterns

NAMES = [
    "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.11.mlp.up", "q_proj", "lm_head",
    "decoder.layers.1.q_proj", "a.b", "b",
]  # fmt: skip
PATTERNS = [
    "q_proj", "self_attn.q_proj", "layers.1.self_attn.q_proj", "proj", ".*q_proj", r"layers\.\d+\.mlp\.up", "b", "a.b",
    r"model\.layers\.[0-9]+\.self_attn\.(q|k)_proj", "^model.*", "^layers.*", "(lm_head|b)", r"(?:.*\.)?up", "x{2}|b",
    r"layers.(0|1|2).self_attn.q_proj", "[^.]*", "b$", r"mod.l.lay?ers.*",
    "q.proj", ".", "..head", "layers.1..self_attn.q_proj", "layers...self_attn.q_proj", "mlp.u.",
]  # fmt: skip


def of_peft(patterns: dict[str, int], name: str) -> int:
    """As `peft.utils.other.get_pattern_key` decides."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), 0)


@given(st.permutations(PATTERNS), st.integers(0, len(PATTERNS)))
def test_the_first_that_matches_counts_as_in_peft(order: list[str], count: int) -> None:
    values = {pattern: at + 1 for at, pattern in enumerate(order[:count])}
    found = Patterns(values, NAMES)
    assert [found.get(name, 0) for name in NAMES] == [of_peft(values, name) for name in NAMES]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_matches_as_in_peft(pattern: str) -> None:
    found = Patterns({pattern: 1}, NAMES)
    assert [found.get(name, 0) for name in NAMES] == [of_peft({pattern: 1}, name) for name in NAMES]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a+)+$", "repeats what repeats or branches itself"),
        ("(a|a)*b", "repeats what repeats or branches itself"),
        ("((a*)b)*", "repeats what repeats or branches itself"),
        ("(a*){3}", "repeats what repeats or branches itself"),
        (".*" * 20 + "x", "can be tried in too many ways"),
        ("a?" * 60 + "a" * 60, "can be tried in too many ways"),
        ("(a|a)" * 36 + "b", "can be tried in too many ways"),
        ("[ab]*" * 30, "can be tried in too many ways"),
        ("x" * LONGEST_PATTERN + "*", f"at most {LONGEST_PATTERN} are supported"),
        (r"(a)\1", "back reference is unsupported"),
        ("(?=a)b", "'(?' is unsupported"),
        ("(?P<n>a)", "'(?' is unsupported"),
        ("(a", "an invalid expression"),
        ("a)", "an invalid expression"),
        ("*a", "an invalid expression"),
        ("[a", "an invalid expression"),
        ("a{99999999999999999999}", "an invalid expression"),
    ],
)
def test_what_could_backtrack_is_refused_before_it_is_tried(pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Patterns({pattern: 1}, ["a" * 60] * 3)


@given(st.text("ab.()|*+?{}[]^$\\12,:=", max_size=40))
def test_any_pattern_is_refused_or_ends(pattern: str) -> None:
    names = ["ab" * 20 + ".c", "a" * 45]
    try:
        found = Patterns({pattern: 1}, names)
    except ValueError:
        return
    for name in names:
        found.get(name, 0)


@given(st.lists(st.text("ab.", min_size=1, max_size=4), unique=True, max_size=6), st.text("ab.", max_size=8))
def test_dots_stand_for_any_sign_as_in_peft(patterns: list[str], name: str) -> None:
    values = {pattern: at + 1 for at, pattern in enumerate(patterns)}
    assert Patterns(values, [name]).get(name, 0) == of_peft(values, name)


def test_text_of_any_length_is_a_pattern() -> None:
    name = "x.y" * 1000
    assert Patterns({name: 3}, [name]).get(f"model.{name}", 0) == 3


def test_what_a_later_python_may_read_otherwise_warns_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Patterns({"[[]0": 3}, ["a"]).get("m.[0", 0) == 3
