"""Dtypes that torch holds and cannot compute with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from loader import FitError, load_into
from loader.module.castable import can_cast
from tests.jobs import carry_out, checks, save

HELD = ["float4_e2m1fn_x2", "bits8", "bits16"]


class Packed(nn.Module):
    """A buffer of any dtype, beside a layer."""

    packed: torch.Tensor

    def __init__(self, dtype: str = "bits8") -> None:
        super().__init__()
        self.register_buffer("packed", packed(dtype, 0))
        self.layer = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x)
        return result


def packed(dtype: str, value: int) -> torch.Tensor:
    return torch.full((8,), value, dtype=torch.uint8).view(getattr(torch, dtype))


def raw(tensor: torch.Tensor) -> list[int]:
    found: list[int] = tensor.view(torch.uint8).tolist()
    return found


def test_what_torch_can_cast_is_asked_of_torch() -> None:
    assert can_cast(torch.float32, torch.float16)
    assert can_cast(torch.float8_e4m3fn, torch.float32)
    assert can_cast(torch.bits8, torch.bits8)
    assert not can_cast(torch.bits8, torch.float32)
    assert not can_cast(torch.float32, torch.bits16)


@pytest.mark.parametrize("dtype", HELD)
def test_packed_tensors_load_and_are_read_back(dtype: str, tmp_path: Path) -> None:
    state = {**Packed(dtype).state_dict(), "packed": packed(dtype, 9)}
    path = save(state, tmp_path / "packed.pt")
    node = {"_target_": f"{__name__}.Packed", "dtype": dtype}
    verify = {"input": {"shape": [1, 2]}}
    loaded = carry_out(node, path, verify=verify)
    assert raw(loaded.model.get_buffer("packed")) == [9] * 8
    assert checks(loaded.report)["read back"]
    half = carry_out(node, path, verify=verify, dtype="float16").model
    assert raw(half.get_buffer("packed")) == [9] * 8
    assert half.get_parameter("layer.weight").dtype == torch.float16
    live = Packed(dtype)
    load_into(live, path, verify=verify)
    assert raw(live.packed) == [9] * 8


@pytest.mark.parametrize("mode", ["plan", "load"])
@pytest.mark.parametrize(("theirs", "mine"), [("float4_e2m1fn_x2", "uint8"), ("bits8", "uint8"), ("uint8", "bits8")])
def test_a_cast_that_torch_does_not_have_is_refused_before_anything_is_read(
    mode: str, theirs: str, mine: str, tmp_path: Path
) -> None:
    path = save({**Packed(mine).state_dict(), "packed": packed(theirs, 9)}, tmp_path / "packed.pt")
    with pytest.raises(FitError) as refusal:
        carry_out({"_target_": f"{__name__}.Packed", "dtype": mine}, path, mode=mode)
    assert refusal.value.message == f"packed is {theirs} in the file and {mine} in the model"
    assert refusal.value.hint == "build the model in the same form, or save the file's tensor in the model's"
