from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.text.wording import closest, counted, did_you_mean, listing, phrases, printable, safe_text, shape, size

# Lone surrogates too: a pickled or JSON string may hold them.
ANY_TEXT = st.text(st.characters(exclude_categories=[]))
HARMFUL = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def harmful(text: str) -> list[str]:
    return [character for character in text if unicodedata.category(character) in HARMFUL]


@given(ANY_TEXT, st.integers(1, 200))
def test_safe_text_is_harmless_and_bounded(text: str, longest: int) -> None:
    shown = safe_text(text, longest)

    assert not harmful(shown)
    assert len(shown) <= longest
    shown.encode("utf-8")


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=80))
def test_safe_text_leaves_ordinary_names_as_they_are(text: str) -> None:
    assert safe_text(text) == text


@given(ANY_TEXT)
def test_safe_text_may_be_applied_twice(text: str) -> None:
    assert safe_text(safe_text(text)) == safe_text(text)


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
        ("a\u2028b", "a\\u2028b"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("[red]no markup[/red]", "[red]no markup[/red]"),
        ("größe.weight", "größe.weight"),
    ],
)
def test_safe_text_escapes_only_characters_that_act_on_a_terminal(hostile: str, shown: str) -> None:
    assert safe_text(hostile) == shown


def test_safe_text_says_where_it_cut() -> None:
    assert safe_text("x" * 80) == "x" * 80
    assert safe_text("x" * 81) == "x" * 79 + "…"
    assert safe_text("x" * 10_000_000, 5) == "xxxx…"


@given(ANY_TEXT)
def test_printable_keeps_lines_and_cuts_nothing(text: str) -> None:
    shown = printable(text)

    assert harmful(shown.replace("\n", "")) == []
    assert shown.count("\n") == text.count("\n")
    assert len(shown) >= len(text)


def test_a_list_names_the_first_few_and_counts_the_rest() -> None:
    assert listing([]) == ""
    assert listing(["a"]) == "a"
    assert listing("abcde") == "a, b, c, d, e"
    assert listing("abcdef") == "a, b, c, d, e and 1 more"
    assert listing((str(n) for n in range(3000)), most=2) == "0, 1 and 2,998 more"


@given(st.lists(ANY_TEXT, max_size=20))
def test_a_list_is_harmless_and_bounded(names: list[str]) -> None:
    shown = listing(names)

    assert not harmful(shown)
    assert len(shown) <= 5 * 82 + 20


def test_phrases_hold_several_names_without_cutting_them() -> None:
    name = "encoder.layers.11.self_attention.output_projection.weight"
    phrase = f"{name} and module.{name} both become {name}"

    assert phrases([phrase]) == phrase
    assert len(phrases(["x" * 1000])) == 400
    assert phrases("abcdefg", 2) == "a, b and 5 more"


def test_a_mistyped_name_is_answered_with_the_nearest_known_one() -> None:
    known = ["checkpoint", "model", "rules"]

    assert closest("chekpoint", known) == ["checkpoint"]
    assert did_you_mean("chekpoint", known) == " (did you mean 'checkpoint'?)"
    assert did_you_mean("zzz", known) == ""
    assert did_you_mean("", []) == ""


@given(st.lists(st.text("abc", min_size=1), unique=True))
def test_the_nearest_name_does_not_depend_on_the_order_of_the_known_ones(known: list[str]) -> None:
    assert closest("abc", known) == closest("abc", reversed(known))


@pytest.mark.parametrize(
    ("number", "plural", "expected"),
    [(0, "", "0 keys"), (1, "", "1 key"), (2, "", "2 keys"), (1200, "", "1,200 keys"), (2, "keyes", "2 keyes")],
)
def test_a_number_is_written_with_its_noun(number: int, plural: str, expected: str) -> None:
    assert counted(number, "key", plural) == expected


@pytest.mark.parametrize(
    ("nbytes", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_480_000_000, "1.5 GB"),
        (2_000_000, "2.0 MB"),
        (3.2e12, "3.2 TB"),
        (5e15, "5000.0 TB"),
        (999_960, "1.0 MB"),
    ],
)
def test_sizes_are_written_in_decimal_units(nbytes: float, expected: str) -> None:
    assert size(nbytes) == expected


def test_shapes_are_written_as_in_torch() -> None:
    assert shape((10, 784)) == "[10, 784]"
    assert shape([1]) == "[1]"
    assert shape(()) == "[]"
    assert shape(None) == "[not fixed yet]"
