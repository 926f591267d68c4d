"""The law of folding: every row is in exactly one place, and folded rows look alike."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loader.formats.tree import Container, Storage, TensorEntry
from loader.modes.inspect.contents import list_contents
from loader.modes.inspect.tree import MOST_LINES, SCREEN, Known, draw, fold

SEGMENTS = st.sampled_from(["a", "b", "layers", "0", "1", "2", "{x}", "weight", "", "\x1b[31m", "e" * 300])
TREES = st.dictionaries(
    st.lists(SEGMENTS, min_size=1, max_size=5).map(".".join), st.tuples(st.integers(1, 2), st.booleans()), max_size=20
)


def container(content: dict[str, tuple[int, bool]]) -> Container:
    children = {
        key: TensorEntry("float32" if wide else "int8", (size,), (1,), 0, Storage(key, 0, size * (4 if wide else 1)))
        for key, (size, wide) in content.items()
    }
    return Container("dict", "dict", dict(children))


@given(TREES)
def test_every_tensor_is_counted_once(content: dict[str, tuple[int, bool]]) -> None:
    found = list_contents(container(content))
    tree = fold(found.tensors, found.entries)
    assert sum(node.tensors for node in tree.below.values()) == len(content)
    assert sum(node.bytes for node in tree.below.values()) == sum(row["bytes"] for row in found.tensors)
    for _, node in tree.walk():
        below = sum(child.tensors for child in node.below.values())
        assert node.tensors >= below
        assert node.row is not None or node.tensors == below


@given(TREES, st.none() | st.integers(1, 4))
def test_lines_are_bounded_and_harmless(content: dict[str, tuple[int, bool]], depth: int | None) -> None:
    found = list_contents(container(content))
    lines = draw(fold(found.tensors, found.entries), Known({}, {}), depth)
    assert len(lines) <= (SCREEN if depth is None else MOST_LINES) + 2
    assert all(line.isprintable() and len(line) < 400 for line in lines)
    assert bool(lines) == bool(content)


def test_only_what_is_alike_is_folded() -> None:
    content = {f"layers.{n}.weight": (1, True) for n in range(4)} | {"layers.4.weight": (2, True)}
    found = list_contents(container(content))
    assert draw(fold(found.tensors, found.entries), Known({}, {}), None) == [
        "layers  (5 tensors, 24 B)",
        "  {0..3}.weight  [1] float32",
        "  4.weight       [2] float32",
    ]
