from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.builder.arguments import problems, signature_of, written
from loader.text.lines import together
from tests.laws import examples


def net(width: int, depth: int = 2, *, name: str, **rest: Any) -> None: ...


def strict(width: int, depth: int = 2, *, name: str = "x") -> None: ...


def positional(width: int, /, depth: int) -> None: ...


def many(*widths: int, name: str = "x") -> None: ...


def check(
    function: Callable[..., Any], count: int, named: dict[str, object], *, partial: bool = False
) -> tuple[list[str], str]:
    found, fixes = problems(inspect.signature(function), count, named, partial, "model.net")
    return found, together(fixes).line


def test_a_call_that_fits_has_no_problems() -> None:
    assert check(net, 1, {"name": "a", "anything": 1}) == ([], "")
    assert check(strict, 2, {}) == ([], "")
    assert check(many, 9, {}) == ([], "")


def test_missing_arguments_are_told_together_with_what_to_type() -> None:
    assert check(net, 0, {}) == (["missing width, name"], "+model.net.width=… +model.net.name=…")


def test_an_unexpected_argument_is_told_with_the_one_it_may_stand_for() -> None:
    assert check(strict, 0, {"widht": 3}) == (
        ["missing width", "unexpected widht (did you mean 'width'?)"],
        "'~model.net.widht' +model.net.width=3",
    )


def test_an_unexpected_argument_like_no_other_is_to_be_taken_out() -> None:
    assert check(strict, 1, {"zzz": 3}) == (["unexpected zzz"], "'~model.net.zzz'")


def test_an_argument_called_target_is_another_class() -> None:
    assert check(strict, 1, {"target": "my_pkg.Net"}) == (
        ["unexpected target (did you mean '_target_'?)"],
        "model.net._target_=my_pkg.Net '~model.net.target'",
    )


def test_an_argument_that_is_set_already_is_not_suggested() -> None:
    assert check(strict, 1, {"widht": 3}) == (["unexpected widht"], "'~model.net.widht'")


def test_an_argument_given_twice_is_told() -> None:
    assert check(strict, 1, {"width": 3})[0] == ["given twice, in _args_ and by name: width"]


def test_too_many_positional_arguments_are_told() -> None:
    assert check(strict, 3, {})[0] == ["3 positional arguments, expected at most 2"]


def test_a_positional_only_argument_cannot_be_given_by_name() -> None:
    found, _ = check(positional, 0, {"width": 1, "depth": 2})
    assert found == ["missing width", "unexpected width"]


def test_a_partial_call_may_leave_arguments_out_but_not_invent_any() -> None:
    assert check(strict, 0, {}, partial=True) == ([], "")
    assert check(strict, 0, {"zzz": 1}, partial=True)[0] == ["unexpected zzz"]


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        (None, "+model.net.width=null"),
        (True, "+model.net.width=true"),
        (0.5, "+model.net.width=0.5"),
        ("gelu", "+model.net.width=gelu"),
        ("a b", "'+model.net.width=\"a b\"'"),
        ([1], "'+model.net.width=[1]'"),
        ("x" * 150, "+model.net.width=…"),
        (object(), "+model.net.width=…"),
        ("a\x1b", "+model.net.width=…"),
    ],
)
def test_a_value_is_repeated_where_it_can_be_retyped(value: object, typed: str) -> None:
    assert check(strict, 0, {"widht": value})[1] == f"'~model.net.widht' {typed}"


def test_a_name_that_a_shell_would_act_on_is_in_no_line() -> None:
    found, fixes = check(strict, 1, {"$(touch x)": 1, "na\x1bme": "$(touch x)"})

    assert found == ["unexpected $(touch x)", "unexpected na\\x1bme (did you mean 'name'?)"]
    assert fixes == "'+model.net.name=\"$(touch x)\"'"


def test_the_signature_is_shown_as_it_was_written() -> None:
    def own(x: int = 3) -> object: ...

    assert written("a.b.strict", inspect.signature(strict)) == "strict(width: int, depth: int = 2, *, name: str = 'x')"
    own.__annotations__["x"] = int
    assert written("own", inspect.signature(own)) == "own(x: int = 3)"


def test_a_callable_without_a_known_signature_is_left_alone() -> None:
    class Odd:
        __signature__ = 3

        def __call__(self) -> None: ...

    assert signature_of(Odd()) is None


@settings(deadline=None, max_examples=examples(60))
@given(st.integers(0, 4), st.sets(st.sampled_from(["width", "depth", "name", "zzz", "widht"])), st.booleans())
@pytest.mark.parametrize("function", [net, strict, positional, many])
def test_a_call_has_problems_exactly_if_python_refuses_it(
    function: Callable[..., Any], count: int, named: set[str], partial: bool
) -> None:
    signature = inspect.signature(function)
    values: dict[str, object] = dict.fromkeys(named, 1)
    try:
        (signature.bind_partial if partial else signature.bind)(*range(count), **values)
    except TypeError:
        accepted = False
    else:
        accepted = True
    assert (problems(signature, count, values, partial, "model")[0] == []) == accepted
