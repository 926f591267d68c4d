from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from loader.builder import build_model
from loader.formats.tree import Container, TensorEntry
from loader.suggest.alternatives import goals_of
from loader.suggest.sizes import CERTAIN, FREE, LOOSE, OPEN, SHARED, Solution, begin, solve, sure
from loader.suggest.sizes.arguments import Knob, knobs_of
from loader.suggest.sizes.probe import Probe
from tests.modes.scaffold import nets

SMALL = st.integers(1, 40)


def inferred(
    made: nn.Module, hints: Mapping[str, Any] | None = None, most: int = 600, **fixed: Any
) -> tuple[Solution, dict[str, str]]:
    """What is found of a model from its shapes."""
    kind = type(made)
    knobs = [knob for knob in knobs_of(inspect.signature(kind)) if knob.name not in fixed]
    node = {"_target_": f"{kind.__module__}.{kind.__qualname__}", **fixed}
    probe = Probe(lambda values: build_model({**node, **values}).module, most, 600)
    start = begin(probe, knobs, hints or {})
    assert start is not None
    root = file_of(made)
    solution = solve(probe, knobs, start, lambda seen: goals_of(root, None, {}, seen))
    assert solution is not None
    return solution, sure(probe, knobs, solution)


def file_of(module: nn.Module) -> Container:
    entries = {key: TensorEntry("float32", tuple(value.shape)) for key, value in module.state_dict().items()}
    return Container("dict", "dict", dict(entries))


def values(solution: Solution, made: type[nn.Module]) -> dict[str, Any]:
    """All arguments, the defaults too."""
    defaults = {knob.name: knob.default for knob in knobs_of(inspect.signature(made)) if not knob.required}
    return {**defaults, **solution.values}


@settings(max_examples=15, deadline=None)
@given(SMALL, SMALL, SMALL, st.integers(1, 6), st.booleans())
def test_an_mlp_is_recovered(inside: int, hidden: int, out: int, depth: int, bias: bool) -> None:
    solution, how = inferred(nets.MLP(inside, hidden, out, depth, bias))

    assert solution.distance == (0, 0, 0)
    found = values(solution, nets.MLP)
    assert [found[n] for n in ("in_features", "hidden", "out_features", "depth", "bias")] == [
        inside, hidden, out, depth, bias,
    ]  # fmt: skip
    assert how["dropout"] == FREE
    assert set(how.values()) <= {CERTAIN, FREE}


@settings(max_examples=10, deadline=None)
@given(st.lists(SMALL, min_size=2, max_size=6), st.booleans())
def test_a_list_of_widths_is_recovered(sizes: list[int], norm: bool) -> None:
    solution, how = inferred(nets.Widths(sizes, norm))

    assert solution.values["sizes"] == sizes
    assert values(solution, nets.Widths)["norm"] is norm
    assert how == {"sizes": CERTAIN, "norm": CERTAIN}


@settings(max_examples=8, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 12), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 7),
    st.integers(1, 20),
)  # fmt: skip
def test_a_conv_net_is_recovered(channels: int, width: int, blocks: list[int], kernel: int, classes: int) -> None:
    solution, how = inferred(nets.ConvNet(channels, width, tuple(blocks), kernel, classes))

    found = values(solution, nets.ConvNet)
    assert [found[n] for n in ("in_channels", "width", "kernel", "classes")] == [channels, width, kernel, classes]
    assert list(found["blocks"]) == blocks
    assert set(how.values()) == {CERTAIN}


@settings(max_examples=8, deadline=None)
@given(
    st.integers(2, 50), st.integers(1, 10), st.sampled_from([1, 2, 3]), st.integers(1, 4), SMALL,
    st.sampled_from([1.0, 2.0, 4.0]),
)  # fmt: skip
def test_a_transformer_is_recovered_but_for_its_heads(
    vocab: int, size: int, heads: int, layers: int, length: int, ratio: float
) -> None:
    solution, how = inferred(nets.Transformer(vocab, size * heads, heads, layers, length, ratio))

    assert solution.distance == (0, 0, 0)
    found = values(solution, nets.Transformer)
    assert [found[n] for n in ("vocab", "d_model", "num_layers", "max_len", "mlp_ratio")] == [
        vocab, size * heads, layers, length, ratio,
    ]  # fmt: skip
    assert how["nhead"] == FREE


@settings(max_examples=10, deadline=None)
@given(SMALL, st.integers(1, 8), st.integers(1, 16))
def test_what_only_a_product_tells_is_never_called_sure(dim: int, heads: int, head_dim: int) -> None:
    solution, how = inferred(nets.Attention(dim, heads, head_dim))

    found = values(solution, nets.Attention)
    assert solution.distance == (0, 0, 0)
    assert found["heads"] * found["head_dim"] == heads * head_dim
    assert how == {"dim": CERTAIN, "heads": SHARED, "head_dim": SHARED}


def test_a_product_of_which_one_factor_is_given_is_sure() -> None:
    solution, how = inferred(nets.Attention(12, 6, 16), head_dim=16)

    assert solution.values["heads"] == 6
    assert how["heads"] == CERTAIN


def test_a_size_that_neighbours_share_is_found_and_not_called_sure() -> None:
    solution, how = inferred(nets.Patches(96, 8, 20))

    assert solution.distance == (0, 0, 0)
    assert solution.values["image"] // 8 == 12
    assert how == {"image": LOOSE, "patch": CERTAIN, "dim": CERTAIN}


def test_defaults_that_fit_are_left_alone() -> None:
    solution, how = inferred(nets.Attention(12))

    assert solution.values == {"dim": 12}
    assert how["heads"] == SHARED


def test_values_that_the_file_carries_are_the_start() -> None:
    solution, _ = inferred(nets.Attention(12, 2, 16), {"heads": 2, "head_dim": 16})

    assert (solution.values["heads"], solution.values["head_dim"]) == (2, 16)


def test_a_value_that_the_shapes_contradict_gives_way() -> None:
    solution, how = inferred(nets.MLP(5, 9, 3, 4), {"hidden": 12, "depth": 2})

    assert solution.distance == (0, 0, 0)
    assert (solution.values["hidden"], solution.values["depth"]) == (9, 4)
    assert how["hidden"] == CERTAIN


def test_a_value_with_which_nothing_can_be_built_is_passed_over() -> None:
    solution, _ = inferred(nets.Transformer(7, 6, 3), {"nhead": -5, "d_model": 6})

    assert solution.distance == (0, 0, 0)


def test_another_architecture_stays_away() -> None:
    root = file_of(nets.Attention(12))
    knobs = knobs_of(inspect.signature(nets.MLP))
    probe = Probe(lambda v: build_model({"_target_": "tests.modes.scaffold.nets.MLP", **v}).module, 50, 600)
    start = begin(probe, knobs, {})

    assert start is not None
    assert solve(probe, knobs, start, lambda seen: goals_of(root, None, {}, seen)) is None


def test_builds_are_bounded() -> None:
    knobs = knobs_of(inspect.signature(nets.MLP))
    probe = Probe(lambda v: build_model({"_target_": "tests.modes.scaffold.nets.MLP", **v}).module, 5, 600)
    start = begin(probe, knobs, {})
    root = file_of(nets.MLP(5, 9, 3, 4))

    assert start is not None
    assert solve(probe, knobs, start, lambda seen: goals_of(root, None, {}, seen)) is not None
    assert probe.spent == 5


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        ("int", "int"), ("int | None", "int"), ("Optional[int]", "int"), ("list[int]", "sizes"), ("bool", "choice"),
        ("typing.Sequence[int]", "sizes"), ("float", "float"), ("str", ""), ("nn.Module", ""), (int | None, "int"),
        (tuple[int, ...], "sizes"), (nn.Module, ""),
    ],
)  # fmt: skip
def test_annotations_tell_the_kind_of_an_argument(annotation: Any, kind: str) -> None:
    parameter = inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, annotation=annotation)

    assert knobs_of(inspect.Signature([parameter]))[0].kind == kind


def test_a_default_tells_the_kind_of_an_argument() -> None:
    defaults = {"a": 3, "b": True, "c": (1, 2), "d": 0.5, "e": "gelu", "f": None, "g": ...}
    kind = inspect.Parameter.KEYWORD_ONLY
    knobs = knobs_of(inspect.Signature([inspect.Parameter(n, kind, default=v) for n, v in defaults.items()]))

    assert [knob.kind for knob in knobs] == ["int", "choice", "sizes", "float", "", "", ""]
    assert knobs[1] == Knob("b", "choice", True, (False, True))


def test_a_search_is_bounded_in_time_and_calls_nothing_sure_after_that() -> None:
    knobs = knobs_of(inspect.signature(nets.MLP))
    clock = itertools.count()
    build = functools.partial(build_model, trusted=None)
    probe = Probe(
        lambda v: build({"_target_": "tests.modes.scaffold.nets.MLP", **v}).module, 600, 6, lambda: next(clock)
    )
    start = begin(probe, knobs, {})
    root = file_of(nets.MLP(5, 9, 3, 4))

    assert start is not None
    solution = solve(probe, knobs, start, lambda seen: goals_of(root, None, {}, seen))
    assert solution is not None
    assert (probe.cut_off, probe.spent) == (True, 6)
    assert set(sure(probe, knobs, solution).values()) == {OPEN}
