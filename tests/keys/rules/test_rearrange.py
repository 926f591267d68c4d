"""Elements in another order or shape: `rearrange`, compared with einops."""

from __future__ import annotations

import math
from typing import Any

import einops
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loader.errors import ConfigError, FitError
from tests.keys.rules.moving import counted, moved, rewriting


def rearranged(value: torch.Tensor, pattern: str, **axes: int) -> torch.Tensor:
    return moved({"w": value}, {"rearrange": "w", "pattern": pattern, "axes": axes})["w"]


@pytest.mark.parametrize(
    ("shape", "pattern", "axes"),
    [
        ((3, 4), "i o -> o i", {}),
        ((3, 4), "i o -> (i o)", {}),
        ((12,), "(a b) -> a b", {"a": 3}),
        ((12, 5), "(h d r) i -> (h r d) i", {"d": 2, "r": 2}),
        ((4, 1, 1), "o 1 1 -> o", {}),
        ((4, 3), "o i -> o i 1 1", {}),
        ((4, 3), "o i -> o i ()", {}),
        ((4, 1), "o () -> o", {}),
        ((2, 3, 4), "... i o -> ... o i", {}),
        ((2, 3, 4), "a ... -> (a ...)", {}),
        ((), "-> 1", {}),
        ((0, 3), "a b -> b a", {}),
    ],
)
def test_it_is_what_einops_makes(shape: tuple[int, ...], pattern: str, axes: dict[str, int]) -> None:
    value = counted(*shape)
    assert torch.equal(rearranged(value, pattern, **axes), einops.rearrange(value, pattern, **axes))


@pytest.mark.parametrize(
    ("shape", "pattern", "axes"),
    [
        ((3, 4), "i o -> i k o", {"k": 3}),
        ((3, 4), "i o -> (i k) o", {"k": 2}),
        ((3, 4), "i o -> 5 o i", {}),
        ((3,), "i -> i (k l)", {"k": 2, "l": 2}),
    ],
)
def test_a_new_axis_repeats(shape: tuple[int, ...], pattern: str, axes: dict[str, int]) -> None:
    value = counted(*shape)
    assert torch.equal(rearranged(value, pattern, **axes), einops.repeat(value, pattern, **axes))


@given(st.data())
def test_any_pattern_is_what_einops_makes_and_its_sides_swapped_are_the_inverse(data: st.DataObject) -> None:
    names = [f"a{at}" for at in range(data.draw(st.integers(0, 5)))]
    sizes = {name: data.draw(st.integers(1, 4)) for name in names}

    def side() -> tuple[str, list[int]]:
        order, dims = data.draw(st.permutations(names)), list[list[str]]()
        while order:
            count = data.draw(st.integers(1, len(order)))
            dims.append(order[:count])
            order = order[count:]
        for _ in range(data.draw(st.integers(0, 2))):
            dims.insert(data.draw(st.integers(0, len(dims))), [])
        text = " ".join(one[0] if len(one) == 1 else f"({' '.join(one)})" for one in dims)
        return text, [math.prod(sizes[name] for name in one) for one in dims]

    (left, shape), (right, _) = side(), side()
    value = counted(*shape)
    made = rearranged(value, f"{left} -> {right}", **sizes)

    assert torch.equal(made, einops.rearrange(value, f"{left} -> {right}", **sizes))
    assert torch.equal(rearranged(made, f"{right} -> {left}", **sizes), value)


def test_a_transposed_tensor_is_a_view_of_what_is_there() -> None:
    made = rewriting({"w": counted(3, 4)}, {"r": {"rearrange": "w", "pattern": "i o -> o i"}}).made["w"].entry

    assert (made.shape, made.stride, made.storage.made) == ((4, 3), (1, 4), None)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("shape", "pattern", "axes", "fault"),
    [
        ((3, 4), "a b c -> a b c", {}, "w [3, 4] has 2 dims, but the left side of the pattern has 3"),
        ((3,), "a b ... -> ... a b", {}, "w [3] has 1 dim, but the left side of the pattern has 2 or more"),
        ((3, 4), "(a b) c -> a b c", {"a": 2}, "w [3, 4] does not fit the pattern: dim 0 is 3, expected a = 2 · b"),
        ((3, 4), "a b -> b a", {"b": 5}, "w [3, 4] does not fit the pattern: dim 1 is 4, expected b = 5"),
        ((3, 4), "a 1 -> a", {}, "w [3, 4] does not fit the pattern: dim 1 is 4, expected 1"),
        ((3, 4), "a () -> a", {}, "w [3, 4] does not fit the pattern: dim 1 is 4, expected 1"),
    ],
)
def test_a_tensor_of_another_shape_is_refused(
    shape: tuple[int, ...], pattern: str, axes: dict[str, int], fault: str
) -> None:
    with pytest.raises(FitError) as refused:
        rewriting({"w": counted(*shape)}, {"r": {"rearrange": "w", "pattern": pattern, "axes": axes}})

    assert refused.value.message.startswith(f"rule 'r' (rearrange: w, pattern: {pattern}")
    assert refused.value.message.endswith(f"does not fit the file: {fault}")


EXAMPLE = r" \(a valid one is '\(h d r\) i -> \(h r d\) i'\)"


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"pattern": "i o"}, "the pattern 'i o' is malformed: expected two sides" + EXAMPLE),
        ({"pattern": "i -> o -> i"}, "is malformed: expected two sides"),
        ({"pattern": "i (o -> o i"}, "is malformed: parentheses do not match"),
        ({"pattern": "i o) -> o i"}, "is malformed: parentheses do not match"),
        ({"pattern": "((i) o) -> o i"}, "is malformed: parentheses do not match"),
        ({"pattern": "i, o -> o i"}, "is malformed: ',' has no meaning there"),
        ({"pattern": "i i -> i"}, "is malformed: i occurs twice on one side"),
        ({"pattern": "i o -> o i ..."}, "is malformed: '...' is on one side only"),
        ({"pattern": "(... o) -> ... o"}, "is malformed: '...' in parentheses has no meaning on the left"),
        ({"pattern": "i 0 -> i"}, "is malformed: 0 is not a size"),
        ({"pattern": "i" * 600}, "is malformed: it is too long"),
        ({"pattern": "(a b) o -> a b o"}, "the sizes of a, b are unknown, expected all but one in 'axes'"),
        ({"pattern": "i o -> o i k"}, "k is new on the right and has no size, expected one in 'axes'"),
        ({"pattern": "i o -> i"}, "o disappears on the right, expected 'reduce': sum or mean"),
        ({"pattern": "i 3 -> i"}, "3 disappears on the right, expected 'reduce': sum or mean"),
        ({"pattern": "i o -> o i", "axes": {"k": 2}}, "'axes' has k, which the pattern 'i o -> o i' does not have"),
        ({"pattern": "i o -> o i", "axes": {"i": 0}}, "'axes.i' is 0, expected a whole number from 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(rule: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^rule 'r': .*{reason}"):
        rewriting({"w": counted(3, 4)}, {"r": {"rearrange": "w", **rule}})


def test_an_axis_without_a_value_is_required() -> None:
    with pytest.raises(ConfigError, match=r"^'rules\.r\.axes\.d' is required\n") as refused:
        rewriting({}, {"r": {"rearrange": "w", "pattern": "(d r) -> (r d)", "axes": {"d": "???"}}})

    assert refused.value.hint == "rules.r.axes.d=VALUE"


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize(
    ("shape", "pattern"), [((3, 4), "i o -> o"), ((6, 2, 4), "(a b) i 4 -> i a"), ((2, 3), "... ->")]
)
def test_an_axis_that_disappears_is_reduced(shape: tuple[int, ...], pattern: str, reduce: str) -> None:
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    axes = {"a": 3} if "a" in pattern else {}
    made = moved({"w": value}, {"rearrange": "w", "pattern": pattern, "axes": axes, "reduce": reduce})["w"]

    torch.testing.assert_close(made, einops.reduce(value, pattern, reduce, **axes))


def test_integers_are_not_reduced() -> None:
    rule = {"rearrange": "w", "pattern": "i o -> i", "reduce": "sum"}
    with pytest.raises(FitError, match=r"w \[3, 4\] is int64, and arithmetic needs floating-point numbers"):
        rewriting({"w": counted(3, 4).long()}, {"r": rule})
