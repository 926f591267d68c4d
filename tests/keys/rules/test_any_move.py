"""Rules with any settings on any tensors: a plan that can be read, or a refusal."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.errors import ConfigError, FitError
from loader.formats.memory import MemoryCheckpoint
from loader.formats.tree import TensorEntry
from loader.keys.rules import Rewritten, rewrite
from tests.laws import examples
from tests.rules import parse_rules

NUMBER = st.integers(-3, 9)
SIZES = st.lists(st.integers(-1, 4), max_size=4)
EXPRESSION = st.sampled_from(["a", "^", "$", r"\.(\d)", r"(a)|(b)", r"(\w)", "(", "", "b.", r"a\.(\d)\.(\w)"])
NAME = st.sampled_from(["", "q", r"\1", r"\2", "q{}", "{}", "q.", r"x\1", "\\"])
PATTERN = st.one_of(
    st.sampled_from(
        ["a b -> b a", "... -> ... 1", "a ... -> (a ...)", "(a b) c -> a b c", "a -> a a", "a b -> a", "->"]
    ),
    st.text("ab()1 .->c", max_size=12),
)
SETTINGS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "split": {
        "split": EXPRESSION,
        "into": st.one_of(NAME, st.lists(st.none() | NAME, max_size=4)),
        "dim": NUMBER,
        "sizes": st.none() | SIZES,
        "groups": NUMBER,
    },
    "merge": {
        "merge": st.one_of(EXPRESSION, st.lists(EXPRESSION, max_size=3)),
        "to": NAME,
        "dim": NUMBER,
        "groups": NUMBER,
        "by": st.sampled_from([None, None, "sum", "mean", "weight_norm", "none", {"sum": {"a": 1}}, {}]),
    },
    "rearrange": {
        "rearrange": st.sampled_from(["*", "a*", ""]),
        "pattern": PATTERN,
        "axes": st.none() | st.dictionaries(st.sampled_from("abc"), NUMBER, max_size=2),
        "reduce": st.sampled_from([None, "sum", "mean"]),
    },
    "take": {
        "take": st.sampled_from(["*", "a*", "["]),
        "index": st.one_of(SIZES, st.sampled_from([":", "1:", ":-1", "::2", "x", "1", "9:", "-99:"])),
        "dim": NUMBER,
    },
    "copy": {
        "copy": EXPRESSION,
        "into": st.one_of(NAME, st.lists(NAME, max_size=3)),
        "times": st.none() | NUMBER,
    },
}
TENSOR = st.builds(
    lambda shape, dtype: torch.ones(shape).to(dtype),
    st.lists(st.sampled_from([0, 1, 2, 4, 6]), max_size=3),
    st.sampled_from([torch.float32, torch.float32, torch.float32, torch.int8]),
)
STATE = st.dictionaries(st.sampled_from(["a", "b", "a.0.w", "a.1.w", "a.2.w", "ab", "b.q"]), TENSOR, max_size=5)


@pytest.mark.parametrize("kind", SETTINGS)
@given(data=st.data())
@settings(max_examples=examples(400))
def test_a_rule_makes_tensors_that_can_be_read_or_is_refused(kind: str, data: st.DataObject) -> None:
    state = data.draw(STATE)
    optional = {"enabled", "optional"} | {"dim", "sizes", "groups", "by", "axes", "reduce", "times"}
    chosen = {
        name: data.draw(values)
        for name, values in SETTINGS[kind].items()
        if name not in optional or data.draw(st.booleans())
    }
    shapes = {name: tuple(data.draw(SIZES)) for name in data.draw(st.sets(st.sampled_from(["q", "aq", "q.", "b"])))}
    with closing(MemoryCheckpoint(state)) as checkpoint:
        made, refusal = dict[str, Rewritten](), ""
        try:
            made = rewrite(checkpoint.root.tensors(), parse_rules({"r": chosen}), "the file", shapes).made
        except (ConfigError, FitError) as refused:
            refusal = refused.message
        assert " failed with " not in refusal
        for one in made.values():
            assert isinstance(one.entry, TensorEntry)
            assert one.sources
            value = checkpoint.read(one.entry, mmap=False)
            assert tuple(value.shape) == one.entry.shape
