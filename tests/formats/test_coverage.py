from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.formats.dcp_metadata import Box, fault_of_cover


def cut(shape: tuple[int, ...], cuts: list[list[int]]) -> list[Box]:
    """The boxes of a grid."""
    edges = [sorted({0, size, *(c % size for c in own)}) for size, own in zip(shape, cuts, strict=True)]
    spans = [list(itertools.pairwise(own)) for own in edges]
    return [
        (tuple(low for low, _ in corner), tuple(high - low for low, high in corner))
        for corner in itertools.product(*spans)
    ]


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Box]]:
    shape = tuple(draw(st.lists(st.integers(1, 6), max_size=3)))
    return shape, draw(st.permutations(cut(shape, [draw(st.lists(st.integers(0, 5), max_size=3)) for _ in shape])))


@given(grids())
def test_a_grid_covers_its_tensor(grid: tuple[tuple[int, ...], list[Box]]) -> None:
    shape, boxes = grid
    assert fault_of_cover(shape, boxes) == ""


@given(grids(), st.data())
def test_a_grid_without_one_box_leaves_a_gap_and_with_one_twice_overlaps(
    grid: tuple[tuple[int, ...], list[Box]], data: st.DataObject
) -> None:
    shape, boxes = grid
    place = data.draw(st.integers(0, len(boxes) - 1))
    assert fault_of_cover(shape, boxes[:place] + boxes[place + 1 :]) == "leave a gap"
    assert fault_of_cover(shape, [*boxes, boxes[place]]) == "overlap"


@pytest.mark.parametrize(
    ("boxes", "fault"),
    [
        ([], "leave a gap"),
        ([((0,), (2,)), ((2,), (2,))], "differ from the tensor in the number of dimensions"),
        ([((0, 0), (3, 2))], "exceed its shape [2, 2]"),
        ([((0, 0), (2, 1))], "leave a gap"),
        ([((0, 0), (2, 2)), ((1, 1), (1, 1))], "overlap"),
        ([((0, 0), (1, 2)), ((1, 0), (1, 1)), ((1, 1), (1, 1))], ""),
    ],
)
def test_boxes_are_told_apart(boxes: list[Box], fault: str) -> None:
    assert fault_of_cover((2, 2), boxes) == fault


def test_an_empty_tensor_has_no_pieces() -> None:
    assert fault_of_cover((0, 3), []) == ""
    assert fault_of_cover((0, 3), [((0, 0), (0, 3))]) == "exceed the tensor, which is empty"


def test_very_many_pieces_take_a_bounded_time() -> None:
    assert fault_of_cover((1 << 40,), [((i,), (1,)) for i in range(20_000)]) == "leave a gap"
    stairs = [((i, 0), (20_000 - i, 1)) for i in range(20_000)]
    assert fault_of_cover((20_000, 2), stairs) in {
        "overlap",
        "leave a gap",
        "are laid out in a more complex way than parallel training splits tensors",
    }
