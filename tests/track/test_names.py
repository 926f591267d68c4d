"""Names and values as a tracker takes them."""

from __future__ import annotations

import posixpath
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.text.redaction import HIDDEN
from loader.track.names import LONGEST_NAME, accepted, shortened


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("accuracy", "accuracy"),
        ("train/loss-1 x_y.z", "train/loss-1 x_y.z"),
        ("model.layers[0]", "model.layers_0_"),
        ("a:b?c", "a_b_c"),
        ("größe", "größe"),
        ("/etc/passwd", "_etc_passwd"),
        ("../up", "__.up".replace(".", "_")),
        ("a//b", "a__b"),
        ("a/./b", "a_._b"),
        (".", "_"),
        ("", "_"),
        ("x" * 300, "x" * LONGEST_NAME),
    ],
)
def test_a_character_that_is_not_taken_becomes_a_line(name: str, taken: str) -> None:
    assert accepted([name]) == {name: taken}


def test_names_that_would_be_one_are_numbered() -> None:
    assert accepted(["a:b", "a?b", "a_b", "a:b"]) == {"a:b": "a_b", "a?b": "a_b_2", "a_b": "a_b_3"}
    long = ["x" * 300, "x" * 301]
    assert [len(name) for name in accepted(long).values()] == [LONGEST_NAME, LONGEST_NAME]
    assert accepted(long)[long[1]].endswith("x_2")


@given(st.lists(st.text() | st.text(alphabet="a./:_ ", max_size=6), max_size=20))
def test_different_names_stay_different_and_none_is_a_path_to_elsewhere(names: list[str]) -> None:
    taken = accepted(names)
    assert taken.keys() == set(names)
    assert len(set(taken.values())) == len(taken)
    for name in taken.values():
        assert re.fullmatch(r"[\w\-. /]{1,250}", name)
        assert posixpath.normpath(name) == name
        assert not name.startswith(("/", ".."))


def test_values_are_written_as_in_a_config_and_cut() -> None:
    assert [shortened(value, 20) for value in (None, True, 0.5, [1, "a"], "ä")] == [
        "null",
        "true",
        "0.5",
        '[1, "a"]',
        "ä",
    ]
    assert shortened("x" * 30, 20) == "x" * 19 + "…"
    assert shortened("https://me:word@host/a.pt", 60) == f"https://{HIDDEN}@host/a.pt"
