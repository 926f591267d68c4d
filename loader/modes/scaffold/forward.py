"""Whether the dummy forward pass has an input.

Guarantees: computes with shapes alone; only what a shape decides counts as a failure.
"""

from __future__ import annotations

import torch
from torch import nn

from ...verify.forward import Pass, run
from ...verify.inputs import make_inputs
from ...verify.proposal import propose
from .page import Line

_GIVE = "then give verify.input={shape: …} and take this out"


def forward_lines(module: nn.Module) -> list[Line]:
    """Switches the forward pass off where no input can be proposed, or where the proposed one does not go through.

    Args:
        module: The model, which is moved to the meta device.
    """
    proposal = propose(module)
    if proposal is None:
        return [Line("forward", False, f"the first layer does not tell the input's shape; {_GIVE}")]
    trouble = _trouble(module, proposal[0])
    return [Line("forward", False, f"proposed from {proposal[1]}: {trouble}; {_GIVE}")] if trouble else []


def _trouble(module: nn.Module, spec: dict[str, object]) -> str:
    """What a forward pass without data says; empty where it goes through, or cannot be tried without data."""
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    inputs = make_inputs(spec, dtype, torch.device("meta"), 0)
    item = run(Pass("", module.to("meta").eval(), inputs, proposed="verify.input"), 0)
    return "" if "meta" in item.undone else item.undone.partition(". Its input was")[0]
