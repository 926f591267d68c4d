from __future__ import annotations

import json
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from loader.config.compose import compose
from loader.config.elements import is_function, split_elements
from loader.config.grammar import (
    Refused,
    as_typed,
    literal,
    parse_value,
    real_key,
    stand_in,
)
from loader.errors import ConfigError
from loader.text.lines import quoted

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
AWKWARD = st.lists(st.sampled_from(["a", "=", ",", " ", "\\", "'", '"', "${", "}", "(", "]", "1e5", "#", "ü"])).map(
    "".join
)


def through_hydra(value: str) -> Any:
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
def test_values_that_the_grammar_refuses_are_recognised(value: str) -> None:
    assert parse_value(value) is Refused


@pytest.mark.parametrize(
    ("value", "expected"), [("choice(a,b)", True), ("str(1)", True), ("runs(1).pt", False), ("a", False)]
)
def test_hydras_functions_are_known(value: str, expected: bool) -> None:
    assert is_function(value) is expected


KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(["", "*", "a.b", "cuda:0", "1"])


@pytest.mark.parametrize(
    "value", ["1e-6", "on", "no", "010", "1:30", "True", "null", "~", "0x1F", "1_000", "2020-01-01", "a b", "'1'", "+1"]
)
@pytest.mark.parametrize("key", ["'eps'", '"eps"', '"e p s"'])
def test_a_value_means_the_same_after_a_quoted_key(key: str, value: str) -> None:
    unquoted = literal(f"{{eps: {value}}}")

    assert list(through_hydra(literal(f"{{{key}: {value}}}")).values()) == list(through_hydra(unquoted).values())


@pytest.mark.parametrize(
    "key", ["", "*", "a.b", "cuda:0", "1", "null", "a b", "é", "#", "a'b", "{", "_quoted_61_", "\n"]
)
def test_a_quoted_key_is_that_text(key: str) -> None:
    quote = '"' if "'" in key else "'"

    assert through_hydra(literal(f"{{{quote}{key}{quote}: {{x: 1}}}}")) == {key: {"x": 1}}


@settings(deadline=None)
@given(KEYS)
def test_a_key_has_its_own_name_again_in_the_config(key: str) -> None:
    assert real_key(stand_in(key)) == key
    assert through_hydra(f"{{{stand_in(key)}: 1}}") == {key: 1}
    assert through_hydra(literal(as_typed(f"{{{stand_in(key)}: 1}}"))) == {key: 1}


def test_only_keys_get_another_name() -> None:
    assert through_hydra(literal("{a: _quoted_61_, _quoted_61_: b}")) == {"a": "_quoted_61_", "_quoted_61_": "b"}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (
            "{path: runs/epoch=3.ckpt, n: 1, f: 0.5, x: null, t: true}",
            {"path": "runs/epoch=3.ckpt", "n": 1, "f": 0.5, "x": None, "t": True},
        ),
        ('{"a": [1, "b c"]}', {"a": [1, "b c"]}),
        ('{"a": 1,\n "b": [\n1,\t2]\n}', {"a": 1, "b": [1, 2]}),
        ("[a=b, c]", ["a=b", "c"]),
        ("{a b=c: {d: '#'}}", {"a b=c": {"d": "#"}}),
        ("{é: a=b}", {"é": "a=b"}),
        ("{cuda:0: 20GB}", {"cuda:0": "20GB"}),
        ("{cuda:0: 20GB, cpu: 1}", {"cuda:0": "20GB", "cpu": 1}),
        ("{s3://b/x: [1]}", {"s3://b/x": [1]}),
        (r"{cuda\:0: 20GB}", {"cuda:0": "20GB"}),
        ("{path: s3://b/x, url:s3://b/x}", {"path": "s3://b/x", "url": "s3://b/x"}),
        ('{"a": "b: c", d: \'e: f\'}', {"a": "b: c", "d": "e: f"}),
        ('{"a": runs(1).pt}', {"a": "runs(1).pt"}),
        ('{"a": str(1)}', {"a": "1"}),
        ('{"a": {}, "b": [], "c": [[], {"": 1}]}', {"a": {}, "b": [], "c": [[], {"": 1}]}),
        ("{1: a, false: b, 0.5: c}", {1: "a", False: "b", 0.5: "c"}),
    ],
)
def test_lists_and_mappings_keep_their_meaning(typed: str, meant: object) -> None:
    assert through_hydra(literal(typed)) == meant


def test_interpolations_stay() -> None:
    assert literal('{"a": ${model.x}, b: 1}') == "{a:${model.x},b:1}"
    assert literal('{"a": ${oc.env:HOME,x}}') == "{a:${oc.env:HOME,x}}"


@pytest.mark.parametrize(
    "value", ["{a: 1}", "[1,2]", "{a: b=c", '{"a": "b}', "{'a' 1}", "{'a': }", "{'a': 1,}", "{'a': 'b'c}"]
)
def test_values_that_hydra_reads_and_malformed_ones_are_unchanged(value: str) -> None:
    assert literal(value) == value


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        ("{cuda:0:20GB}", ['\'memory={"cuda:0": "20GB"}\'', "'memory={cuda: \"0:20GB\"}'"]),
        ("{a: b: c}", ["'memory={\"a:b\": c}'", "'memory={a: \"b: c\"}'"]),
    ],
)
def test_a_mapping_that_can_be_read_in_two_ways_is_refused(value: str, lines: list[str]) -> None:
    with pytest.raises(ConfigError, match="can be read in two ways") as refusal:
        literal(value, "memory")

    assert refusal.value.hint.splitlines() == lines


@settings(deadline=None)
@given(st.dictionaries(KEYS.filter(lambda key: "\\" not in key), st.integers() | st.booleans() | st.none(), max_size=4))
def test_json_means_itself(data: dict[str, Any]) -> None:
    typed = json.dumps(data, ensure_ascii=False)

    if "\\" not in typed:  # Hydra's grammar knows JSON's escapes no more behind a colon than before it
        assert through_hydra(literal(typed)) == data


def test_the_config_has_the_typed_values() -> None:
    config = compose(['model={"_target_": my.Net, "eps": 1e-6, "sizes": {"cuda:0": on, "": 010}}'])

    assert config["model"] == {"_target_": "my.Net", "eps": 1e-6, "sizes": {"cuda:0": "on", "": "010"}}


def test_a_refused_scalar_is_text() -> None:
    assert parse_value("(1") is Refused
    assert through_hydra(literal("{a: (1}")) == {"a": "(1"}
