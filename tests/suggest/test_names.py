from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from loader.keys.segments import is_number, ranges, segments
from loader.suggest.names import Group, group, likeness, stem, template


def test_a_deep_key_keeps_its_end_together() -> None:
    deep = ".".join(["a"] * 100)

    assert ".".join(segments(deep)) == deep
    assert len(segments(deep)) < 30


def test_numbers_are_taken_out_of_a_template() -> None:
    assert template(("layers", "11", "w")) == (("layers", "{}", "w"), (11,))
    assert not is_number("²")
    assert not is_number("1234567")
    assert not is_number("layer1")
    assert stem("layer12") == "layer"


def test_names_that_mean_the_same_are_alike() -> None:
    query = ("layers", "{}", "attention", "query", "weight")

    assert likeness(query, ("blocks", "{}", "attn", "q", "weight")) > likeness(
        query, ("blocks", "{}", "mlp", "fc", "weight")
    )
    assert likeness(("bn", "gamma"), ("bn", "weight")) > 0.9
    assert likeness(("classifer", "weight"), ("classifier", "weight")) > 0.9


def test_names_that_contradict_each_other_are_not_alike() -> None:
    assert likeness(("fc", "weight"), ("fc", "bias")) == 0
    assert likeness(("attn", "q", "weight"), ("attn", "k", "weight")) == 0
    assert likeness(("bn", "running_mean"), ("bn", "running_var")) == 0


SEGMENT = st.sampled_from(["a", "b", "layers", "0", "1", "2", "3", "10", "weight", "bias", "", "01"])
KEYS = st.lists(st.lists(SEGMENT, min_size=1, max_size=5).map(".".join), unique=True, max_size=30)
SHAPES = st.sampled_from([(1,), (2,), (2, 3), None])


def expand(pattern: str, universe: list[str]) -> set[str]:
    """The keys that a pattern means, by the notation alone."""
    pieces = [_alternatives(piece) for piece in re.split(r"(\{[^{}]*\})", pattern)]
    plain = {"".join(way) for way in itertools.product(*pieces)}
    return {key for key in universe for name in plain if key == name or _below(key, name)}


def _alternatives(piece: str) -> list[str]:
    if not piece.startswith("{"):
        return [piece]
    return [label for part in piece[1:-1].split(",") for label in _counted(part)]


def _counted(part: str) -> Iterator[str]:
    first, dots, last = part.partition("..")
    yield from map(str, range(int(first), int(last) + 1)) if dots else [part]


def _below(key: str, name: str) -> bool:
    return name.endswith(".*") and key.startswith(name[:-1])


@given(KEYS, st.data())
def test_expanding_a_group_gives_back_exactly_its_keys(universe: list[str], data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(universe), unique=True)) if universe else []
    shapes = {key: data.draw(SHAPES) for key in keys}

    groups = group(shapes, universe, star=data.draw(st.booleans()))

    assert sorted(key for found in groups for key in found.keys) == sorted(keys)
    for found in groups:
        assert expand(found.pattern, universe) == set(found.keys), found


@given(KEYS, st.data())
def test_without_stars_keys_of_different_shapes_are_never_one_group(keys: list[str], data: st.DataObject) -> None:
    shapes = {key: data.draw(SHAPES) for key in keys}

    for found in group(shapes, keys, star=False):
        assert {shapes[key] for key in found.keys} == {found.detail}


def keys_of(text: str) -> list[str]:
    return text.split()


def patterns(groups: list[Group]) -> list[str]:
    return [found.pattern for found in groups]


def test_whole_layers_are_one_line() -> None:
    keys = {f"encoder.layers.{n}.{name}.{leaf}": (4,) for n in range(12) for name in "qk" for leaf in ("w", "b")}
    universe = [*keys, "encoder.norm"]

    (found,) = group(keys, universe)

    assert found.pattern == "encoder.layers.*"
    assert len(found.keys) == 48
    assert patterns(group(keys, [*universe, "encoder.layers.12.q.w"])) == ["encoder.layers.{0..11}.*"]


def test_gaps_are_written_truthfully() -> None:
    keys = {f"layers.{n}.w": (4,) for n in (0, 2, 3, 4, 5)}

    assert patterns(group(keys, [*keys, "layers.1.w"])) == ["layers.{0,2..5}.*"]
    assert ranges([3]) == "3"
    assert ranges([1, 0]) == "{0,1}"
    assert ranges([0, 1, 2, 4, 5, 7]) == "{0..2,4,5,7}"


def test_different_index_sets_are_not_merged() -> None:
    keys = {"layers.0.mlp.1.w": (4,), "layers.1.mlp.2.w": (4,)}

    assert patterns(group(keys, [*keys, "layers.0.x", "layers.1.x"])) == ["layers.0.mlp.*", "layers.1.mlp.*"]


def test_different_shapes_are_not_merged() -> None:
    keys = {f"layers.{n}.w": (n // 2,) for n in range(4)}

    assert patterns(group(keys, [*keys, "layers.4.w"])) == ["layers.{0,1}.*", "layers.{2,3}.*"]


def test_one_leaf_of_every_layer() -> None:
    keys = {f"layers.{n}.bias": (4,) for n in range(3)}
    universe = [*keys, *(f"layers.{n}.weight" for n in range(3))]

    assert patterns(group(keys, universe)) == ["layers.{0..2}.bias"]


def test_names_alike_are_gathered_and_the_notations_own_signs_stand_alone() -> None:
    keys = {f"attn.{name}.w": (4,) for name in "qkv"} | {"attn.{x}.w": (4,), "attn.1,2.w": (4,)}

    found = patterns(group(keys, [*keys, *(f"attn.{n}.b" for n in ("q", "k", "v", "{x}", "1,2"))]))

    assert found == ["attn.{q,k,v}.w", "attn.{x}.w", "attn.1,2.w"]


def test_a_deep_key_costs_no_recursion() -> None:
    deep = ".".join(["a"] * 50_000)

    assert group({deep: (1,)}, [deep])[0].keys == (deep,)
