from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from loader.config.quoting import (
    Refused,
    is_function,
    parse_value,
    split_elements,
)
from loader.text.lines import quoted

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
AWKWARD = st.lists(st.sampled_from(["a", "=", ",", " ", "\\", "'", '"', "${", "}", "(", "]", "1e5", "#", "ü"])).map(
    "".join
)


def through_hydra(value: str) -> object:
    parsed = OverridesParser.create().parse_override(f"key={value}").value()
    return OmegaConf.to_container(OmegaConf.create({"key": parsed}), resolve=True)["key"]  # type: ignore[index,call-overload]


@settings(deadline=None)
@given(TEXT | AWKWARD)
def test_quoted_text_reaches_the_config_unchanged(text: str) -> None:
    assert through_hydra(quoted(text)) == text


@settings(deadline=None)
@given(st.lists(AWKWARD, min_size=1, max_size=4))
def test_quoted_values_stay_apart_in_a_sweep(texts: list[str]) -> None:
    assert split_elements(",".join(map(quoted, texts))) == list(map(quoted, texts))


@settings(deadline=None)
@given(st.lists(st.text("abc.=/()[]{}\" '-_", max_size=8), min_size=1, max_size=5))
def test_cutting_loses_no_character(texts: list[str]) -> None:
    value = ",".join(texts)
    assert ",".join(split_elements(value)) == value


@pytest.mark.parametrize(
    ("value", "elements"),
    [
        ("a,b", ["a", "b"]),
        ("", [""]),
        ("a=1.pt,b=2.pt", ["a=1.pt", "b=2.pt"]),
        ("'a,b',c", ["'a,b'", "c"]),
        (r"a\,b,c", [r"a\,b", "c"]),
        ("[1,2],[3]", ["[1,2]", "[3]"]),
        ("{a: [1,2], b: '}'}, {c: 3}", ["{a: [1,2], b: '}'}", " {c: 3}"]),
        ("choice(a,b),c", ["choice(a,b)", "c"]),
        ("it's.pt,b.pt", ["it's.pt", "b.pt"]),
        ("run (1,2).pt", ["run (1", "2).pt"]),
        ("[1,2", ["[1", "2"]),
        ("a\\", ["a\\"]),
    ],
)
def test_a_value_is_cut_where_a_sweep_separates(value: str, elements: list[str]) -> None:
    assert split_elements(value) == elements


@pytest.mark.parametrize("value", ["a=b", "(1)", "a, 'b", "{a: b=c}"])
def test_what_the_grammar_refuses_is_told_apart(value: str) -> None:
    assert parse_value(value) is Refused


@pytest.mark.parametrize(
    ("value", "expected"), [("choice(a,b)", True), ("str(1)", True), ("runs(1).pt", False), ("a", False)]
)
def test_hydras_functions_are_known(value: str, expected: bool) -> None:
    assert is_function(value) is expected
