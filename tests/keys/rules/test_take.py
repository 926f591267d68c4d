"""Some indices of a tensor: `take`; and several tensors with the same values: `copy`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loader.errors import ConfigError, FitError
from tests.keys.rules.moving import counted, moved, rewriting

HEAD = {"head.weight": counted(8, 3), "head.bias": counted(8), "other": counted(2)}


def test_take_takes_the_indices_in_their_order() -> None:
    taken = moved(HEAD, {"take": "head.*", "index": [7, 0, 3, 3, -1]})

    assert torch.equal(taken["head.weight"], HEAD["head.weight"][[7, 0, 3, 3, -1]])
    assert torch.equal(taken["head.bias"], HEAD["head.bias"][[7, 0, 3, 3, -1]])
    assert torch.equal(taken["other"], HEAD["other"])


def test_a_slice_is_a_view() -> None:
    made = rewriting(HEAD, {"r": {"take": "head.weight", "index": "1::2"}}).made["head.weight"].entry

    assert (made.shape, made.stride, made.offset) == ((4, 3), (6, 1), 3)  # type: ignore[union-attr]


@given(st.data())
def test_any_indices_are_what_torch_takes(data: st.DataObject) -> None:
    value = counted(*data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    dim = data.draw(st.integers(-value.dim(), value.dim() - 1))
    index = data.draw(st.lists(st.integers(-value.shape[dim], value.shape[dim] - 1), min_size=1, max_size=9))

    taken = moved({"w": value}, {"take": "w", "index": index, "dim": dim})["w"]

    assert torch.equal(taken, value.index_select(dim, torch.tensor(index) % value.shape[dim]))


@given(st.integers(1, 9), st.sampled_from([":", "0:", "::1", "-9:"]))
def test_take_of_all_changes_nothing(size: int, index: str) -> None:
    value = counted(size, 2)
    shown = index.replace("9", str(size))
    assert torch.equal(moved({"w": value}, {"take": "w", "index": shown})["w"], value)
    assert torch.equal(moved({"w": value}, {"take": "w", "index": list(range(size))})["w"], value)


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ({"index": [0, 8]}, "head.weight [8, 3] has no index 8 along dim 0, expected -8 to 7"),
        ({"index": [-9]}, "head.weight [8, 3] has no index -9 along dim 0, expected -8 to 7"),
        ({"index": "1:9"}, "head.weight [8, 3] has no index 9 along dim 0, expected -8 to 8"),
        ({"index": "3:3"}, "head.weight [8, 3] has no index in 3:3: along dim 0, whose size is 8"),
        ({"index": [0], "dim": 2}, "head.weight [8, 3] has 2 dims, none of which is dim 2"),
    ],
)
def test_an_index_out_of_range_is_refused(rule: dict[str, Any], fault: str) -> None:
    with pytest.raises(FitError) as refused:
        rewriting(HEAD, {"r": {"take": "head.weight", **rule}})

    assert refused.value.message.endswith(f"does not fit the file: {fault}")


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ([], "'index' is an empty list, expected an index or more"),
        ("3", "'index' is '3', expected a list of whole numbers, or a slice such as '1:'"),
        ("::-1", "'index' is '::-1', expected a step from 1, or a list in another order"),
        ("::0", "'index' is '::0', expected a step from 1, or a list in another order"),
    ],
)
def test_an_index_that_cannot_work_is_refused(index: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^rule 'r': {reason}"):
        rewriting(HEAD, {"r": {"take": "head.*", "index": index}})


MLP = {"l.0.mlp.w": counted(2, 3), "norm": counted(2)}


def test_copies_are_numbered_or_named() -> None:
    numbered = moved(MLP, {"copy": r"\.mlp\.", "into": ".experts.{}.", "times": 3})
    named = moved(MLP, {"copy": r"\.(mlp)\.", "into": [r".\1.", ".twin."]})

    assert list(numbered) == ["l.0.experts.0.w", "l.0.experts.1.w", "l.0.experts.2.w", "norm"]
    assert list(named) == ["l.0.mlp.w", "l.0.twin.w", "norm"]
    for value in [*numbered.values(), *named.values()]:
        assert torch.equal(value, counted(*value.shape))


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"into": ".e.", "times": 2}, "'into' is '.e.', expected a list of names, or one with {}"),
        ({"into": ".e.{}."}, "'times' is required where 'into' is one name with a number"),
        ({"into": ".e.{}.", "times": 0}, "'times' is 0, expected a whole number from 1"),
        ({"into": ["a"], "times": 2}, "'times' has no meaning where 'into' is a list"),
        ({"into": []}, "'into' names no copy"),
        ({"into": [r"\1"]}, r"does not work: invalid group reference 1"),
    ],
)
def test_a_copy_that_cannot_work_is_refused(rule: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^rule 'r': .*{reason}"):
        rewriting(MLP, {"r": {"copy": r"\.mlp\.", **rule}})


def test_tensors_by_number_are_bounded() -> None:
    with pytest.raises(FitError, match="it would make 300,000 tensors, expected 200,000 at most"):
        rewriting(MLP, {"r": {"copy": r"\.mlp\.", "into": ".e.{}.", "times": 300_000}})
    with pytest.raises(FitError, match="it would make 1,000,000,000 tensors, expected 200,000 at most"):
        rewriting({"w": torch.zeros(1).expand(10**9)}, {"r": {"split": "w", "into": "e.{}"}})
