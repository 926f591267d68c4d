"""Outputs as plain data, and the fingerprint that says two models compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from loader.verify.outputs import fingerprint, flatten, statistics
from tests.jobs import carry_out, save, target
from tests.models import Two, filled

INPUT = {"input": {"shape": [2, 4]}}


def mark(path: Path, model: Any = "Two", **settings: Any) -> str:
    settings.setdefault("verify", INPUT)
    found = carry_out(model, path, **settings).report.verification.fingerprint
    assert found is not None
    return found


def test_the_fingerprint_does_not_depend_on_the_container(tmp_path: Path) -> None:
    state = filled(Two()).state_dict()
    plain = save(state, tmp_path / "two.pth")
    expected = mark(plain)
    save_file(state, tmp_path / "two.safetensors")
    assert len(expected) == 64
    assert mark(plain, checkpoint={"mmap": False}) == expected
    assert mark(save(state, tmp_path / "legacy.pth", legacy=True)) == expected
    assert mark(tmp_path / "two.safetensors") == expected
    assert mark(tmp_path / "two.safetensors", checkpoint={"mmap": False}) == expected
    nested = save({"deep": {"state": state}, "epoch": 1}, tmp_path / "nested.pth")
    assert mark(nested, checkpoint={"key": "deep.state"}) == expected
    prefixed = save({f"module.{key}": value for key, value in state.items()}, tmp_path / "ddp.pth")
    assert mark(prefixed, rules={"ddp": {"strip": "module."}}) == expected


def test_the_fingerprint_tells_other_weights_inputs_and_code(tmp_path: Path) -> None:
    path = save(filled(Two(), 1).state_dict(), tmp_path / "one.pth")
    marks = {
        mark(path),
        mark(save(filled(Two(), 2).state_dict(), tmp_path / "two.pth")),
        mark(path, seed=1),
        mark(path, verify={"input": {"shape": [3, 4]}}),
        mark(path, verify={"input": {"shape": [2, 4], "kind": "ones"}}),
        mark(path, model=target("Two", activation="tanh")),
        mark(path, dtype="float64"),
    }
    assert len(marks) == 7


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_outputs_of_every_kind_are_reported(tmp_path: Path) -> None:
    path = save(filled(nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")
    for how in ("well", "nested", "complex", "conjugate", "sparse", "quantized", "empty"):
        report = carry_out(target("Behaving", how=how), path, verify={}).report
        assert report.verification.fingerprint, how
        json.dumps(report.verification.outputs, allow_nan=False)


def test_the_numbers_of_an_output(tmp_path: Path) -> None:
    numbers = statistics("logits", torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert (numbers.name, numbers.shape, numbers.dtype, numbers.device) == ("logits", [2, 2], "float32", "cpu")
    assert (numbers.min, numbers.max, numbers.mean, numbers.finite) == (1.0, 6.0, 3.0, True)
    assert numbers.std == pytest.approx(3.5**0.5)


def test_numbers_that_json_does_not_know_are_left_out() -> None:
    numbers = statistics("0", torch.tensor([1.0, float("inf")]))
    assert (numbers.min, numbers.max, numbers.mean, numbers.finite) == (1.0, None, None, False)
    for output in (torch.empty(2, device="meta"), torch.empty(0), torch.zeros(2, dtype=torch.complex64)):
        assert statistics("0", output).mean is None


def test_nested_outputs_are_flattened_in_order() -> None:
    a, b, c = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    assert [name for name, _ in flatten({"x": (a, [b]), "y": {"z": c}, "note": "text", "none": None})] == [
        "x.0", "x.1.0", "y.z",
    ]  # fmt: skip
    assert [name for name, _ in flatten(a)] == ["0"]
    ragged = torch.nested.nested_tensor([a, b], layout=torch.jagged)
    assert [(name, output.numel()) for name, output in flatten({"x": ragged})] == [("x.0", 1), ("x.1", 2)]


def test_no_fingerprint_without_data() -> None:
    assert fingerprint({}) is None
    assert fingerprint({"0": torch.empty(2, device="meta")}) is None


def test_a_fingerprint_tells_names_dtypes_and_shapes() -> None:
    zeros = torch.zeros(4)
    marks = {
        fingerprint({"0": zeros}),
        fingerprint({"1": zeros}),
        fingerprint({"0": zeros.to(torch.int32)}),
        fingerprint({"0": zeros.reshape(2, 2)}),
        fingerprint({"0": zeros, "1": torch.zeros(0)}),
    }
    assert len(marks) == 5
