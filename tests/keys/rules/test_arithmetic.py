"""Rules whose results are computed, without a file: what they make of entries, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import loader
from loader import ConfigError, FitError
from loader.formats.formulas.records import Scaled, Summed, WeightNormed
from loader.formats.tree import Details, Storage, TensorEntry, contiguous
from loader.keys.rules import rewrite
from loader.keys.rules.arithmetic import Mean, Scale, Sum, WeightNorm, common_dtype, unfit_values
from loader.keys.rules.joins import JOINS
from loader.keys.rules.tensors import Unfit, no_context
from tests.rules import parse_rules


def entry(*shape: int, dtype: str = "float32", **settings: Any) -> TensorEntry:
    return TensorEntry(dtype, shape, contiguous(shape), storage=Storage("", 0, 10_000), **settings)


def test_scale_computes_its_formula_of_every_key_that_matches() -> None:
    entries = {"a.norm.weight": entry(4), "a.weight": entry(2, 2, dtype="int64")}
    made = rewrite(entries, {"r": Scale("*.norm.weight", by=2.0, plus=1.0)})

    found = made.made["a.norm.weight"]
    assert isinstance(found.entry, TensorEntry)
    assert (found.entry.formula, found.entry.inputs) == (Scaled(2.0, 1.0), (entries["a.norm.weight"],))
    assert (found.entry.dtype, found.entry.shape) == ("float32", (4,))
    assert (found.sources, found.rules) == (("a.norm.weight",), ("r",))
    assert made.made["a.weight"].entry is entries["a.weight"]
    assert [hits.hits for hits in made.hits] == [1]


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (entry(4, dtype="int64"), "a [4] is int64, and arithmetic needs floating-point numbers"),
        (entry(4, dtype="uint8"), "a [4] is uint8, and arithmetic needs floating-point numbers"),
        (entry(4, dtype="bool"), "a [4] is bool, and arithmetic needs floating-point numbers"),
        (entry(4, dtype="complex64"), "a [4] is complex64, and arithmetic needs floating-point numbers"),
        (entry(4, layout="sparse_coo"), "a [4] is sparse_coo, and arithmetic needs a dense tensor"),
        (TensorEntry("float32", (4,), (1,)), "a [4] has no data"),
    ],
)
def test_scale_refuses_everything_but_dense_floating_point_numbers(found: TensorEntry, fault: str) -> None:
    with pytest.raises(FitError) as refused:
        rewrite({"a": found}, {"plus": Scale("a", plus=1.0)}, "file.pt")
    assert refused.value.message == f"rule 'plus' (scale: a, plus: 1.0) does not fit file.pt: {fault}"
    assert refused.value.exit_code == 4


def test_all_tensors_without_numbers_are_refused_at_once() -> None:
    with pytest.raises(FitError, match=r"a \[4\] is int64.*, b \[2\] is bool"):
        rewrite({"a": entry(4, dtype="int64"), "b": entry(2, dtype="bool")}, {"r": Scale("*")})


@pytest.mark.parametrize(("setting", "value"), [("by", "inf"), ("plus", "nan"), ("by", "-inf")])
def test_scale_refuses_numbers_that_are_not_finite(setting: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        rewrite({"a": entry(4)}, parse_rules({"r": {"scale": "a", setting: float(value)}}))
    assert refused.value.message == f"rule 'r': '{setting}' is {value}, expected a finite number"
    assert refused.value.hint == f"rules.r.{setting}=1.0"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn"])
def test_all_floating_dtypes_are_numbers(dtype: str) -> None:
    assert unfit_values(entry(4, dtype=dtype)) == ""


def test_a_dtype_that_sources_share_stays() -> None:
    assert common_dtype(["bfloat16", "bfloat16"]) == "bfloat16"
    assert common_dtype(["bfloat16", "float16"]) == "float32"
    assert common_dtype(["bfloat16", "float64"]) == "float64"


def test_the_joins_are_registered() -> None:
    assert {"sum": Sum, "mean": Mean, "weight_norm": WeightNorm}.items() <= JOINS.items()


@pytest.mark.parametrize(("join", "mean"), [(Sum(), False), (Mean(), True)])
def test_a_sum_and_a_mean_take_any_number_of_tensors_of_one_shape(join: Sum | Mean, mean: bool) -> None:
    members = {str(at): entry(3, 2, dtype="bfloat16") for at in range(3)}
    made = join.joined(members, no_context())
    assert (made.formula, made.inputs) == (Summed(mean=mean), tuple(members.values()))
    assert (made.dtype, made.shape) == ("bfloat16", (3, 2))


def test_a_sum_refuses_other_shapes_and_integers() -> None:
    with pytest.raises(Unfit, match=r"have the shapes \[3, 2\] and \[2, 3\], expected one for all terms"):
        Sum().joined({"0": entry(3, 2), "1": entry(2, 3)}, no_context())
    with pytest.raises(Unfit, match=r"have a member '1' that is int64"):
        Mean().joined({"0": entry(3), "1": entry(3, dtype="int64")}, no_context())


@pytest.mark.parametrize(
    ("magnitude", "direction", "dim"),
    [
        ((4, 1, 1), (4, 3, 5), 0),
        ((1, 3, 1), (4, 3, 5), 1),
        ((1, 1, 5), (4, 3, 5), 2),
        ((4, 1), (4, 4), 0),
        ((1, 4), (4, 4), 1),
        ((4,), (4,), 0),
        ((1, 1), (1, 5), 0),
        ((), (4, 3), None),
        ((1,), (4, 3), None),
    ],
)
def test_the_shape_of_the_magnitude_shows_the_dim(
    magnitude: tuple[int, ...], direction: tuple[int, ...], dim: int | None
) -> None:
    made = WeightNorm().joined({"g": entry(*magnitude), "v": entry(*direction)}, no_context())
    assert made.formula == WeightNormed(dim)
    assert made.shape == direction


def test_a_magnitude_of_another_shape_is_refused_with_both_shapes() -> None:
    fault = (
        r"have a magnitude g \[3\] that does not fit the direction v \[4, 3, 5\], expected one number, or those of one "
        r"dim such as \[4, 1, 1\]"
    )
    with pytest.raises(Unfit, match=fault):
        WeightNorm().joined({"g": entry(3), "v": entry(4, 3, 5)}, no_context())


def test_values_are_rounded_once() -> None:
    norm = torch.nn.LayerNorm(64, bias=False, dtype=torch.bfloat16)
    weight = torch.randn(64).bfloat16()
    loader.load_into(norm, {"weight": weight}, rules={"r": {"scale": "weight", "by": 1.1, "plus": 0.3}})
    assert torch.equal(norm.weight, (weight.float() * 1.1 + 0.3).bfloat16())
    assert not torch.equal(norm.weight, weight * 1.1 + 0.3)  # rounded twice


def test_a_float64_source_is_computed_in_float64() -> None:
    norm = torch.nn.LayerNorm(64, bias=False, dtype=torch.float64)
    weight = torch.randn(64, dtype=torch.float64)
    loader.load_into(norm, {"weight": weight}, rules={"r": {"scale": "weight", "by": 1.1, "plus": 0.3}})
    assert torch.equal(norm.weight, weight * 1.1 + 0.3)


def test_a_refusal_leaves_a_live_model_as_it_was() -> None:
    norm = torch.nn.LayerNorm(4)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    with pytest.raises(FitError, match=r"bias .* is int64"):
        loader.load_into(
            norm, {"weight": torch.ones(4), "bias": torch.ones(4, dtype=torch.int64)}, rules={"r": {"scale": "*"}}
        )
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


def test_the_state_dict_in_memory_stays_as_it_was() -> None:
    norm, state = torch.nn.LayerNorm(4), {"weight": torch.randn(4), "bias": torch.randn(4)}
    before = {key: value.clone() for key, value in state.items()}
    loader.load_into(norm, state, rules={"r": {"scale": "*", "by": 2.0}})
    assert all(torch.equal(state[key], before[key]) for key in state)
    assert torch.equal(norm.weight, state["weight"] * 2)


def test_details_of_a_tensor_do_not_stay_on_what_is_made_of_it() -> None:
    made = rewrite({"a": entry(4, details=Details(key="a"))}, {"r": Scale("a")}).made["a"].entry
    assert isinstance(made, TensorEntry)
    assert made.details == Details()
