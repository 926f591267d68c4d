"""Inputs for the forward pass: as asked for, as proposed, and what is said where neither works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader import CheckpointError, ConfigError, VerificationError
from loader.verify.inputs import describe, is_spec, make_inputs
from loader.verify.proposal import propose
from tests.jobs import carry_out, save
from tests.models import Behaving, Lazy, Scalars, TwoInputs, filled

CPU = torch.device("cpu")


def made(raw: Any, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[torch.Tensor]:
    return make_inputs(raw, dtype, CPU, seed).args


def test_one_spec_is_one_positional_argument() -> None:
    inputs = make_inputs({"shape": [2, 3]}, torch.float32, CPU, 0, "verify.input")
    assert [tuple(value.shape) for value in inputs.args] == [(2, 3)]
    assert (inputs.kwargs, inputs.origin) == ({}, "verify.input")
    assert describe(inputs.named()) == "[2, 3] float32"


def test_a_list_of_specs_is_positional_and_a_mapping_goes_by_keyword() -> None:
    inputs = make_inputs([{"shape": [1]}, {"shape": [2], "dtype": "int64"}], torch.float32, CPU, 0)
    assert describe(inputs.named()) == "[1] float32, [2] int64"
    inputs = make_inputs({"x": {"shape": [1]}, "mask": {"value": True}}, torch.float32, CPU, 0)
    assert list(inputs.kwargs) == ["x", "mask"]
    assert describe(inputs.named()) == "x [1] float32, mask [] bool"


@pytest.mark.parametrize(
    ("raw", "spec"),
    [({"shape": [1]}, True), ({"value": 1}, True), ({"path": "x"}, True), ({"x": {"shape": [1]}}, False), ([1], False)],
)
def test_a_spec_is_known_by_its_keys(raw: Any, spec: bool) -> None:
    assert is_spec(raw) is spec


def test_the_seed_alone_decides_the_values() -> None:
    spec = {"shape": [2, 3]}
    assert torch.equal(made(spec)[0], made(spec)[0])
    assert not torch.equal(made(spec)[0], made(spec, seed=1)[0])
    assert torch.equal(made(spec, torch.float64)[0], made(spec)[0].double())
    first, second = made([spec, spec])
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"shape": [2], "kind": "zeros"}, torch.zeros(2)),
        ({"shape": [2], "kind": "ones"}, torch.ones(2)),
        ({"shape": [2], "kind": "ones", "dtype": "int64"}, torch.ones(2, dtype=torch.int64)),
        ({"shape": [2], "value": 3}, torch.full((2,), 3.0)),
        ({"shape": [1], "value": 7, "dtype": "int32"}, torch.full((1,), 7, dtype=torch.int32)),
        ({"value": [[1, 2]]}, torch.tensor([[1, 2]])),
        ({"value": [[1, 2]], "dtype": "float16"}, torch.tensor([[1, 2]], dtype=torch.float16)),
        ({"value": 0.5}, torch.tensor(0.5)),
        ({"shape": []}, None),
    ],
)
def test_kinds_of_values(spec: dict[str, Any], expected: torch.Tensor | None) -> None:
    (value,) = made(spec)
    if expected is None:
        assert value.shape == torch.Size([])
    else:
        assert value.dtype == expected.dtype
        assert torch.equal(value, expected)


@pytest.mark.parametrize("kind", ["randn", "uniform"])
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "float8_e4m3fn", "complex128"])
def test_every_dtype_sees_the_same_values_rounded(kind: str, dtype: str) -> None:
    kinds: torch.dtype = getattr(torch, dtype)
    base = "complex64" if kinds.is_complex else "float32"
    (wide,) = make_inputs({"shape": [50], "kind": kind, "dtype": base}, torch.float32, CPU, 3).args
    (named,) = make_inputs({"shape": [50], "kind": kind, "dtype": dtype}, torch.float32, CPU, 3).args
    assert torch.equal(named.to(wide.dtype), wide.to(kinds).to(wide.dtype))
    if not kinds.is_complex:
        (models,) = make_inputs({"shape": [50], "kind": kind}, kinds, CPU, 3).args
        assert torch.equal(models.to(wide.dtype), named.to(wide.dtype))


def test_torchs_defaults_do_not_change_the_values() -> None:
    specs = [{"shape": [4]}, {"shape": [4], "kind": "randint"}, {"shape": [2], "kind": "ones"}, {"value": [1, 2]}]
    expected = make_inputs(specs, torch.float32, CPU, 3).args
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = make_inputs(specs, torch.float32, CPU, 3).args
    finally:
        torch.set_default_dtype(before)
    assert all(map(torch.equal, found, expected))


def test_whole_numbers_stay_below_the_limit() -> None:
    (tokens,) = made({"shape": [500], "kind": "randint", "high": 3})
    assert tokens.dtype == torch.int64
    assert set(tokens.tolist()) == {0, 1, 2}
    assert made({"shape": [500], "dtype": "int32"})[0].dtype == torch.int32
    assert set(made({"shape": [50], "dtype": "bool"})[0].tolist()) == {True, False}
    assert made({"shape": [4], "kind": "randint", "dtype": "float32"})[0].dtype == torch.float32


def test_uniform_numbers_are_from_0_to_1() -> None:
    (value,) = made({"shape": [500], "kind": "uniform"})
    assert 0 <= float(value.min()) < 0.1
    assert 0.9 < float(value.max()) < 1
    assert value.dtype == torch.float32
    assert made({"shape": [2], "kind": "uniform", "dtype": "float16"})[0].dtype == torch.float16
    (pairs,) = made({"shape": [8], "kind": "uniform", "dtype": "complex64"})
    assert bool((pairs.imag > 0).all())


def test_complex_numbers_have_both_parts() -> None:
    (value,) = made({"shape": [8], "dtype": "complex64"})
    assert value.dtype == torch.complex64
    assert bool((value.imag != 0).any())


def test_an_input_can_come_out_of_a_file(tmp_path: Path) -> None:
    path = save(torch.tensor([[1.0, 2.0]]), tmp_path / "input.pt")
    assert made({"path": str(path)})[0].tolist() == [[1.0, 2.0]]
    assert made({"path": str(path), "dtype": "float64"})[0].dtype == torch.float64
    two = save({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "two.pt")
    with pytest.raises(ConfigError) as refusal:
        made({"path": str(two)})
    assert refusal.value.message == f"'verify.input.path': {two} holds 2 tensors, expected one"
    assert refusal.value.hint == "torch.save(tensor, 'input.pt')   # writes such a file"
    with pytest.raises(CheckpointError, match=r"no\.pt"):
        made({"path": str(tmp_path / "no.pt")})


REFUSED: list[tuple[Any, str, str]] = [
    (
        "text",
        "'verify.input' is 'text', expected a spec, a list of specs or a mapping of specs",
        "'verify.input={shape: [1, 3, 224, 224]}'",
    ),
    (3, "'verify.input' is '3', expected a spec, a list of specs or a mapping of specs", "shape"),
    ({"x": 3}, "'verify.input.x' is '3', expected a spec such as {shape: [1, 784]}", "'verify.input.x={shape: [1]}'"),
    (
        [[1, 2], {"value": 3}, 4],
        "'verify.input[0]' is '[1, 2]', expected a spec such as {shape: [1, 784]}",
        "'verify.input=[{shape: [1, 2]}, {value: 3}, {shape: [1, 784]}]'",
    ),
    ([1, 8], "'verify.input' is '[1, 8]', expected a spec such as {shape: [1, 8]}", "'verify.input={shape: [1, 8]}'"),
    (
        {"x": [1, 8]},
        "'verify.input.x' is '[1, 8]', expected a spec such as {shape: [1, 8]}",
        "'verify.input.x={shape: [1, 8]}'",
    ),
    (
        {"shap": [1, 8], "kind": "ones"},
        "unknown config key 'verify.input.shap' (did you mean 'shape'?)",
        "'verify.input={shape: [1, 8], kind: ones}'",
    ),
    ({"shape": [1], "qqq": 1}, "unknown config key 'verify.input.qqq'", "an input's spec takes shape, dtype, kind, "),
    (
        {"shape": [1], "knd": "ones"},
        "unknown config key 'verify.input.knd' (did you mean 'kind'?)",
        "'verify.input={shape: [1], kind: ones}'",
    ),
    (
        {"shape": [1], "kind": "rand"},
        "'verify.input.kind' is 'rand', expected one of randn, uniform, zeros, ones, randint (did you mean 'randn'?)",
        "verify.input.kind=randn",
    ),
    ({"shape": 3}, "'verify.input.shape' is '3', expected a list of sizes", "'verify.input.shape=[1,784]'"),
    ({"shape": [1, -1]}, "'verify.input.shape' is '[1, -1]', expected a list of sizes", "shape"),
    ({"shape": [1, True]}, "'verify.input.shape' is '[1, True]', expected a list of sizes", "shape"),
    (
        {"shape": [1], "dtype": "floot32"},
        "'verify.input.dtype' is 'floot32', expected a torch dtype (did you mean 'float32'?)",
        "verify.input.dtype=float32",
    ),
    ({"value": [[1], [1, 2]]}, "'verify.input' does not describe a tensor: ", "'verify.input={value: [[1.0, 2.0]]}'"),
    ({"value": "text"}, "'verify.input' does not describe a tensor: ", "value"),
    ({"shape": [1], "value": "text"}, "'verify.input' does not describe a tensor: ", "value"),
    ({"shape": [1], "value": [1, 2]}, "'verify.input' does not describe a tensor: ", "value"),
    (
        {"shape": [1], "kind": "randint", "high": "many"},
        "'verify.input.high' is 'many', expected a whole number above 0",
        "verify.input.high=1000",
    ),
    ({"shape": [1], "kind": "randint", "high": 0}, "'verify.input.high' is '0'", "high"),
    ({"shape": [10**15]}, "'verify.input' does not describe a tensor: ", ""),
]


@pytest.mark.parametrize(("raw", "told", "hint"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_a_wrong_spec_is_a_wrong_config(raw: Any, told: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(told)) as refusal:
        made(raw)
    assert hint in refusal.value.hint


# Proposals.

PROPOSED: list[tuple[nn.Module, dict[str, Any], str]] = [
    (nn.Linear(784, 2), {"shape": [1, 784]}, "the model (Linear)"),
    (nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), {"shape": [1, 6]}, "1 (Linear)"),
    (nn.Embedding(50, 4), {"shape": [1, 8], "dtype": "int64", "kind": "randint", "high": 50}, "the model (Embedding)"),
    (nn.Conv1d(3, 4, 2), {"shape": [1, 3, 64]}, "the model (Conv1d)"),
    (nn.Conv2d(3, 4, 2), {"shape": [1, 3, 64, 64], "kind": "uniform"}, "the model (Conv2d)"),
    (nn.Conv3d(1, 4, 2), {"shape": [1, 1, 64, 64, 64]}, "the model (Conv3d)"),
    (nn.LSTM(5, 2), {"shape": [1, 8, 5]}, "the model (LSTM)"),
    (nn.LayerNorm([3, 4]), {"shape": [1, 3, 4]}, "the model (LayerNorm)"),
    (nn.MultiheadAttention(4, 2), {"shape": [1, 8, 4]}, "the model (MultiheadAttention)"),
    (TwoInputs(), {"shape": [1, 3]}, "linear (Linear)"),
]


@pytest.mark.parametrize(("model", "spec", "layer"), PROPOSED, ids=[type(case[0]).__name__ for case in PROPOSED])
def test_the_first_layer_tells_the_input(model: nn.Module, spec: dict[str, Any], layer: str) -> None:
    assert propose(model) == (spec, layer)


@pytest.mark.parametrize("model", [nn.BatchNorm1d(3), nn.ReLU(), nn.PReLU(), Scalars()], ids=lambda m: type(m).__name__)
def test_a_first_layer_that_tells_nothing_proposes_nothing(model: nn.Module) -> None:
    assert propose(model) is None


def test_a_lazy_layer_that_was_loaded_tells_its_input(tmp_path: Path) -> None:
    saved = Lazy()
    saved(torch.zeros(1, 3))
    report = carry_out("Lazy", save(filled(saved).state_dict(), tmp_path / "lazy.pt"), verify={}).report
    assert report.verification.inputs[0]["shape"] == [1, 3]


def test_a_proposal_is_told(tmp_path: Path) -> None:
    path = save(filled(Behaving()).state_dict(), tmp_path / "linear.pt")
    report = carry_out("Behaving", path, verify={}).report
    assert report.verification.inputs == [
        {
            "name": "0",
            "shape": [1, 2],
            "dtype": "float32",
            "origin": "proposed from the model (Behaving); verify.input sets another",
        }
    ]


def test_no_proposal_says_which_override_to_give(tmp_path: Path) -> None:
    path = save({"scale": torch.ones(()), "steps": torch.tensor(1)}, tmp_path / "scalars.pt")
    with pytest.raises(VerificationError) as refusal:
        carry_out("Scalars", path, verify={})
    assert refusal.value.message == (
        "the dummy forward pass needs an input, and the model's first layer does not determine its shape"
    )
    assert refusal.value.hint == (
        "'verify.input={shape: [1, 3, 224, 224]}'   # the shape your model takes\n"
        "verify.forward=false   # leaves it out"
    )
    assert refusal.value.exit_code == 5


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int64"])
def test_integers_are_drawn_from_what_their_dtype_holds(dtype: str) -> None:
    (drawn,) = made({"shape": [5000], "dtype": dtype})
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) == {"int8": 127, "uint8": 255}.get(dtype, 999)


def test_more_than_a_dtype_holds_is_refused() -> None:
    assert int(made({"shape": [5000], "dtype": "int8", "high": 128})[0].min()) == 0
    with pytest.raises(ConfigError) as refusal:
        made({"shape": [4], "dtype": "int8", "high": 129})
    assert refusal.value.message == "'verify.input.high' is 129, and int8 holds numbers up to 127"
    assert refusal.value.hint == "verify.input.high=128"


@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_numbers_from_0_to_1_are_not_drawn_as_integers(dtype: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        made({"shape": [4], "kind": "uniform", "dtype": dtype})
    assert refusal.value.message == (
        f"'verify.input.kind' is uniform (from 0 to 1), which needs a floating-point 'verify.input.dtype', not {dtype}"
    )
    assert refusal.value.hint == f"'verify.input={{shape: [4], kind: randint, dtype: {dtype}}}'"
    assert 0 < float(made({"shape": [4], "kind": "uniform", "dtype": "float16"})[0].max()) < 1
