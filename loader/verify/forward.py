"""The dummy forward pass.

Guarantees: runs in eval mode without gradients and from a seed, on a copy of its input; leaves the model as it was,
also where it fails (`loader.snapshot`), and names the parameters that it wrote to where they are too large to be kept;
whatever the model's code does, raising and exiting included, comes back as one refusal that names the input.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from loader.config.schema import VerifyConfig
from loader.errors import VerificationError
from loader.place import floating_dtype
from loader.snapshot import Snapshot
from loader.verify.golden import Record
from loader.verify.inputs import Inputs, describe, is_spec, make_inputs, no_proposal, propose
from loader.verify.outputs import flatten
from loader.wording import listing, safe_text


@dataclass(slots=True)
class Pass:
    """One forward pass of one model or part."""

    name: str
    """The part's submodule; ``""`` is the whole model."""
    module: nn.Module
    inputs: Inputs
    golden: Record | None = None
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)


def plan_passes(
    model: nn.Module,
    parts: list[str],
    config: VerifyConfig,
    records: dict[str, Record],
    device: torch.device,
    seed: int,
) -> list[Pass]:
    """Decides which modules are run on which inputs.

    The whole model runs where it has a forward pass; a container of several models (`nn.ModuleDict`) runs part by part,
    or child by child where one file fills it all.

    Args:
        model: The loaded model.
        parts: The submodules that parts fill; ``[""]`` for a plain job.
        config: How to verify.
        records: Golden records by part; their inputs are used where the config gives none.
        device: Where the model is.
        seed: For random inputs.
    """
    raw, runs = config.input, _has_forward(model)
    within = [name for name in parts if name] or ([] if runs else [name for name, _ in model.named_children()])
    by_part = isinstance(raw, dict) and not is_spec(raw) and bool(raw) and set(raw) <= {*within}
    names = within if by_part or not runs else [""]
    passes = []
    for name in names or [""]:
        module = model.get_submodule(name) if name else model  # scripted modules do not have the method
        own, where = (raw.get(name), f"verify.input.{name}") if by_part else (raw, "verify.input")
        golden = records.get(name)
        if own is not None:
            inputs = make_inputs(own, floating_dtype(module), device, seed, where)
        elif golden is not None:
            inputs = _placed(golden.inputs, module, device)
        else:
            inputs = _proposed(module, device, seed, where if by_part or not name else f"verify.input.{name}")
        passes.append(Pass(name, module, inputs, golden))
    return passes


def run(item: Pass, seed: int) -> None:
    """Runs one pass and keeps its outputs.

    Raises:
        VerificationError: The model's forward pass fails, or gives no tensor.
    """
    item.outputs = forward(item.module, item.inputs, item.name, seed)
    if not item.outputs:
        raise VerificationError(
            f"the forward pass{_of(item.name)} gives no tensor", "verify.forward=false leaves it out"
        )


def run_on_record(item: Pass, device: torch.device, seed: int) -> dict[str, torch.Tensor]:
    """Runs a module on its golden record's own inputs."""
    if item.golden is None:
        return {}
    if item.inputs.origin == item.golden.inputs.origin:
        return item.outputs
    inputs = _placed(item.golden.inputs, item.module, device)
    return forward(item.module, inputs, item.name, seed)


def forward(module: nn.Module, inputs: Inputs, name: str, seed: int) -> dict[str, torch.Tensor]:
    """The tensors that one forward pass gives: in eval mode, without gradients, from a seed.

    Raises:
        VerificationError: It fails, or writes to parameters that are too large to be kept.
    """
    before = Snapshot(module)
    try:
        outputs = _outputs(module, inputs, name, seed, before)
    finally:
        before.restore()
    written = {id(tensor) for tensor in before.written()}
    if written:
        changed = [key for key, parameter in module.named_parameters() if id(parameter) in written]
        raise VerificationError(
            f"the forward pass{_of(name)} writes to {listing(changed)}, parameters that it should only read, and "
            "that are too large to be kept",
            "verify.forward=false leaves it out",
        )
    return outputs


def _outputs(module: nn.Module, inputs: Inputs, name: str, seed: int, before: Snapshot) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    args = [value.clone() for value in inputs.args]
    kwargs = {key: value.clone() for key, value in inputs.kwargs.items()}
    try:
        with torch.no_grad():
            outputs = flatten(module(*args, **kwargs))
            # What is put back afterwards is not to change an output that looks into it.
            return {key: output.clone() if before.holds(output) else output for key, output in outputs}
    except (Exception, SystemExit) as error:
        reason = safe_text(str(error).strip().splitlines()[0] if str(error).strip() else "no message", 300)
        raise VerificationError(
            f"the forward pass{_of(name)} raised {type(error).__name__}: {reason}. "
            f"Its input was {describe(inputs.named())} ({inputs.origin})",
            f"'verify.input{'.' + name if name else ''}={{shape: [1, 3, 224, 224]}}' (the shape your model takes; a "
            "list for several inputs, names for keyword arguments), or verify.forward=false",
        ) from error


def _of(name: str) -> str:
    return f" of {safe_text(name)}" if name else ""


def _has_forward(module: nn.Module) -> bool:
    # A scripted module has it on the instance alone, and its class refuses to be asked.
    own = getattr(module, "forward", None)
    return own is not None and getattr(own, "__func__", None) is not nn.Module.forward


def _proposed(module: nn.Module, device: torch.device, seed: int, where: str) -> Inputs:
    proposal = propose(module)
    if proposal is None:
        raise no_proposal(where)
    spec, layer = proposal
    inputs = make_inputs(spec, floating_dtype(module), device, seed, where)
    inputs.origin = f"proposed from {layer}; {where} sets another"
    return inputs


def _placed(inputs: Inputs, module: nn.Module, device: torch.device) -> Inputs:
    """A record's inputs where the model is, in the floating dtype that it computes in."""
    dtype = floating_dtype(module)

    def move(value: torch.Tensor) -> torch.Tensor:
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)

    return Inputs(
        [move(value) for value in inputs.args],
        {name: move(value) for name, value in inputs.kwargs.items()},
        inputs.origin,
    )
