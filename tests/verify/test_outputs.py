"""Outputs as plain data, and digests that say whether two runs computed the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader.verify.outputs import flatten, statistics
from tests.jobs import carry_out, save, target
from tests.models import Two, filled

INPUT = {"input": {"shape": [2, 4]}}


def digest(path: Path, model: Any = "Two", **settings: Any) -> str:
    settings.setdefault("verify", INPUT)
    (output,) = carry_out(model, path, **settings).report.verification.outputs
    assert len(output["sha256"]) == 64
    return str(output["sha256"])


def test_the_digest_of_an_output_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = save(filled(Two()).state_dict(), tmp_path / "two.pt")
    loaded = carry_out("Two", path, verify={"input": {"shape": [2, 4], "kind": "ones"}})
    with torch.no_grad():
        output = loaded.model(torch.ones(2, 4))
    assert loaded.report.verification.outputs[0]["sha256"] == hashlib.sha256(output.numpy().tobytes()).hexdigest()
    column = statistics("0", torch.arange(6.0).reshape(2, 3)[:, 1])
    assert column.sha256 == hashlib.sha256(torch.tensor([1.0, 4.0]).numpy().tobytes()).hexdigest()
    assert statistics("0", torch.empty(2, device="meta")).sha256 is None


def test_the_digest_of_an_output_tells_other_weights_inputs_and_code(tmp_path: Path) -> None:
    path = save(filled(Two(), 1).state_dict(), tmp_path / "one.pth")
    digests = {
        digest(path),
        digest(save(filled(Two(), 2).state_dict(), tmp_path / "two.pth")),
        digest(path, seed=1),
        digest(path, verify={"input": {"shape": [3, 4]}}),
        digest(path, verify={"input": {"shape": [2, 4], "kind": "ones"}}),
        digest(path, model=target("Two", activation="tanh")),
        digest(path, dtype="float64"),
    }
    assert len(digests) == 7


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_outputs_of_every_kind_are_reported(tmp_path: Path) -> None:
    path = save(filled(nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")
    for how in ("well", "nested", "complex", "conjugate", "sparse", "quantized", "empty"):
        report = carry_out(target("Behaving", how=how), path, verify={}).report
        assert all(len(output["sha256"]) == 64 for output in report.verification.outputs), how
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
