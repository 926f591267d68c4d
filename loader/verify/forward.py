"""The dummy forward pass.

Guarantees: runs in eval mode, without gradients, from a seed, on a copy of its input. The model is left as it was, also
after a failure (`loader.apply.snapshot`); parameters that were written to and are too large to be restored are named.
Whatever the model's code does, raising and exiting included, becomes one refusal that names the input.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..apply.snapshot import Snapshot
from ..errors import VerificationError
from ..module.dtype import floating_dtype
from ..schema import VerifyConfig
from ..text.lines import Fix, line, under
from ..text.wording import safe_text
from .golden import Record
from .inputs import Inputs, describe, is_spec, make_inputs, smallest
from .outputs import flatten
from .proposal import Proposal, no_proposal, other_sizes, propose
from .untouched import left_alone


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass of one model or part."""

    name: str
    """The part's submodule; ``""`` is the whole model."""
    module: nn.Module
    inputs: Inputs
    golden: Record | None = None
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    proposed: str = ""
    """The config path of an input that was not given; empty if it was."""
    undone: str = ""
    """Why the pass was not done: every input that could be proposed failed."""
    seconds: float = 0.0
    """The time that the model took for the outputs, on its device."""


def plan_passes(
    model: nn.Module,
    parts: list[str],
    config: VerifyConfig,
    records: Mapping[str, Record],
    device: torch.device,
    seed: int,
) -> list[Pass]:
    """Decides which modules run on which inputs.

    The whole model runs where it has a forward pass; a container of several models (`nn.ModuleDict`) runs part by part,
    or child by child if one file fills it all.

    Args:
        model: The loaded model.
        parts: The submodules that parts fill; ``[""]`` for a plain job.
        config: How to verify.
        records: Golden records by part; their inputs are used if the config has none.
        device: Where the model is.
        seed: For random inputs.
    """
    passes = []
    for name, own, where in _runs(model, parts, config):
        module = _at(model, name)
        golden = records.get(name)
        if own is not None:
            passes.append(Pass(name, module, make_inputs(own, floating_dtype(module), device, seed, where), golden))
        elif golden is not None:
            passes.append(Pass(name, module, _placed(golden.inputs, module, device), golden))
        else:
            passes.append(Pass(name, module, _first_proposed(module, device, seed, where), proposed=where))
    return passes


def check_passes(model: nn.Module, parts: list[str], config: VerifyConfig, recorded: Collection[str]) -> None:
    """Refuses invalid specs, and models without an input, before anything is loaded.

    Args:
        model: The architecture; it may have no data.
        parts: The submodules that parts fill.
        config: How to verify.
        recorded: The parts whose inputs a golden record has.
    """
    cpu = torch.device("cpu")
    for name, own, where in _runs(model, parts, config):
        module = _at(model, name)
        if own is not None:
            make_inputs(smallest(own), floating_dtype(module), cpu, 0, where)
        elif name not in recorded and not any(map(is_lazy, module.parameters())) and propose(module) is None:
            raise no_proposal(where)


def _runs(model: nn.Module, parts: list[str], config: VerifyConfig) -> Iterator[tuple[str, Any, str]]:
    """Yields the modules to run: name, the input that the config gives it, and the config path of that input."""
    raw, runs = config.input, _has_forward(model)
    within = [name for name in parts if name] or ([] if runs else [name for name, _ in model.named_children()])
    by_part = isinstance(raw, dict) and not is_spec(raw) and bool(raw) and set(raw) <= {*within}
    for name in (within if by_part or not runs else []) or [""]:
        own = raw.get(name) if by_part else raw
        yield name, own, f"verify.input.{name}" if name and (by_part or own is None) else "verify.input"


def _at(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name) if name else model  # scripted modules do not have the method


def run(item: Pass, seed: int, arguments: Mapping[str, Any] | None = None) -> Pass:
    """Runs one pass; returns it with its outputs.

    A proposed input that fails is tried again at other sizes; if all of them fail, the pass is not done.

    Args:
        item: The pass.
        seed: For random values.
        arguments: The model's arguments in the config, if it has one.

    Raises:
        VerificationError: The forward pass fails on a given input, or returns no tensor.
    """
    try:
        done = _ran(item, item.inputs, seed)
    except ForwardError as error:
        if not item.proposed:
            raise error.refusal from error.__cause__
        done = _with_others(item, seed, arguments or {}, error)
    if done.undone or done.outputs:
        return done
    if done.proposed:
        undone = f"the forward pass{_of(item.name)} returns no tensor. Its input was {_shown(done.inputs)}"
        return replace(done, undone=undone)
    raise VerificationError(
        f"the forward pass{_of(item.name)} returns no tensor", Fix("verify.forward=false", "leaves it out")
    )


def run_on_record(item: Pass, device: torch.device, seed: int) -> dict[str, torch.Tensor]:
    """Runs a module on its golden record's own inputs."""
    if item.golden is None:
        return {}
    if item.inputs.origin == item.golden.inputs.origin:
        return item.outputs
    inputs = _placed(item.golden.inputs, item.module, device)
    try:
        return forward(item.module, inputs, item.name, seed)[0]
    except ForwardError as error:
        raise error.refusal from error.__cause__


def _ran(item: Pass, inputs: Inputs, seed: int) -> Pass:
    outputs, seconds = forward(item.module, inputs, item.name, seed)
    return replace(item, inputs=inputs, outputs=outputs, seconds=seconds)


class ForwardError(Exception):
    """An exception of the model's own code in a forward pass.

    Args:
        reason: The exception in one line.
        refusal: The refusal, if it is one.
    """

    def __init__(self, reason: str, refusal: VerificationError) -> None:
        self.reason = reason
        self.refusal = refusal
        super().__init__(reason)


def forward(module: nn.Module, inputs: Inputs, name: str, seed: int) -> tuple[dict[str, torch.Tensor], float]:
    """Returns the tensors of one forward pass, in eval mode, without gradients, from a seed, and how long it took.

    Raises:
        ForwardError: The model's code raises.
        VerificationError: It writes to parameters that are too large to back up.
    """
    with left_alone(module, f"the forward pass{_of(name)}", Fix("verify.forward=false", "leaves it out")) as before:
        return _outputs(module, inputs, name, seed, before)


def _outputs(
    module: nn.Module, inputs: Inputs, name: str, seed: int, before: Snapshot
) -> tuple[dict[str, torch.Tensor], float]:
    torch.manual_seed(seed)
    args = [value.clone() for value in inputs.args]
    kwargs = {key: value.clone() for key, value in inputs.kwargs.items()}
    try:
        with torch.no_grad():
            start = time.perf_counter()
            outputs = dict(flatten(module(*args, **kwargs)))
            if any(output.device.type not in ("cpu", "meta") for output in outputs.values()):
                torch.accelerator.synchronize()  # the model is done when its device is
            seconds = time.perf_counter() - start
            # Restoring the model must not change an output that shares its memory.
            return {key: value.clone() if before.holds(value) else value for key, value in outputs.items()}, seconds
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise ForwardError(reason, _raised(reason, inputs, name)) from error


def _with_others(item: Pass, seed: int, arguments: Mapping[str, Any], error: ForwardError) -> Pass:
    """Returns the pass with the first other input that works, or with the reason why it is not done."""
    device = next(iter(item.inputs.named().values())).device
    for proposal in other_sizes(item.module, arguments, error.reason):
        inputs = _proposed(proposal, item.module, device, seed, item.proposed)
        try:
            return _ran(item, inputs, seed)
        except ForwardError:
            continue
    return replace(item, undone=error.refusal.message)


def _raised(reason: str, inputs: Inputs, name: str) -> VerificationError:
    place = under("verify.input", name) if name else "verify.input"
    note = "the shape your model takes, a list for several inputs, names for keyword arguments"
    return VerificationError(
        f"the forward pass{_of(name)} raised {reason}. Its input was {_shown(inputs)}",
        line(place, {"shape": [1, 3, 224, 224]}, note=note),
        Fix("verify.forward=false", "leaves it out"),
    )


def _first_line(error: BaseException) -> str:
    try:
        text = str(error).strip()
    except Exception:  # noqa: BLE001  # an exception of the model's own may raise when it is printed
        text = ""
    return safe_text(text.splitlines()[0], 300) if text else "no message"


def _of(name: str) -> str:
    return f" of {safe_text(name)}" if name else ""


def _has_forward(module: nn.Module) -> bool:
    # A scripted module has it on the instance alone, and asking its class raises.
    own = getattr(module, "forward", None)
    return own is not None and getattr(own, "__func__", None) is not nn.Module.forward


def _first_proposed(module: nn.Module, device: torch.device, seed: int, where: str) -> Inputs:
    proposal = propose(module)
    if proposal is None:
        raise no_proposal(where)
    return _proposed(Proposal(*proposal), module, device, seed, where)


def _proposed(proposal: Proposal, module: nn.Module, device: torch.device, seed: int, where: str) -> Inputs:
    inputs = make_inputs(proposal.spec, floating_dtype(module), device, seed, where)
    return replace(inputs, origin=f"proposed from {proposal.source}; {where} sets another")


def _shown(inputs: Inputs) -> str:
    return f"{describe(inputs.named())} ({inputs.origin})"


def _placed(inputs: Inputs, module: nn.Module, device: torch.device) -> Inputs:
    """Returns a record's inputs on the model's device, in the floating dtype that it computes in."""
    dtype = floating_dtype(module)

    def move(value: torch.Tensor) -> torch.Tensor:
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)

    return Inputs(
        [move(value) for value in inputs.args],
        {name: move(value) for name, value in inputs.kwargs.items()},
        inputs.origin,
    )
