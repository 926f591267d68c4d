"""What stays unloaded is cast as carefully as what is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader import FitError, load_model
from tests.jobs import carry_out, save, snapshot


class Wide(nn.Module):
    """A parameter of its own that float16 cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.wide = nn.Parameter(torch.tensor([1.0, 1e30]))


UNPROVEN = {"forward": False, "expect": {"finite": False}}
NODE = {"_target_": f"{__name__}.Wide"}


@pytest.mark.parametrize("way", ["live", "built"])
def test_values_that_stay_unloaded_do_not_become_infinite(way: str, tmp_path: Path) -> None:
    path = save(nn.Linear(2, 2).state_dict(prefix="layer."), tmp_path / "layer.pt")
    live = Wide()
    before = snapshot(live)
    ways: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
        "live": lambda allow: load_model(live, path, dtype="float16", allow=allow, device="cpu"),
        "built": lambda allow: carry_out(NODE, path, dtype="float16", allow=allow, verify=UNPROVEN).model,
    }
    with pytest.raises(FitError) as refusal:
        ways[way]({"missing": ["wide"]})
    assert refusal.value.message == (
        "a cast would change values: wide (float32 → float16: 1 element becomes inf or nan)"
    )
    assert refusal.value.hint == ("dtype=null keeps the model's own dtypes; 'allow.mismatched=[wide]' takes the loss")
    assert snapshot(live) == before
    model = ways[way]({"missing": ["wide"], "mismatched": ["wide"]})
    assert model.get_parameter("wide").tolist() == [1.0, float("inf")]
