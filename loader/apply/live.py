"""Checks that a live module can be loaded into: the module before anything is opened, its tensors before any write.

Guarantees: changes nothing, and a tensor that cannot be written to is found before the first write; imports none of the
libraries that wrap or split modules, since a module that one of them made has it imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import ConfigError, FitError
from ..formats.elements import flat
from ..formats.tensor import is_plain
from ..keys.plan import Plan
from ..module.slots import Slot, storage_id, without_data
from ..text.lines import NO_FIX, Fix, python_text
from ..text.wording import counted, listing, phrases, safe_text

_LOAD_FIRST = "loader.load_into(net, …)"
_FOLDED = "several of its elements share one memory location"


def refuse_unfit(module: nn.Module) -> None:
    """Raises ConfigError if loading into a module would not reach its weights, or only those of some processes."""
    _refuse_dispatched(module)
    _refuse_split(module)
    _refuse_replicated(module)
    _refuse_empty(module)


def _refuse_dispatched(module: nn.Module) -> None:
    """Refuses Accelerate's hooks: they fetch weights for every forward pass, and the module's own are not used."""
    dispatched = [name or "the module itself" for name, child in module.named_modules() if _fetches(child)]
    if dispatched:
        raise ConfigError(
            f"accelerate keeps weights outside the module and fetches them for each forward pass: "
            f"{listing(dispatched)}; weights loaded into the module would not be used",
            Fix("accelerate.hooks.remove_hook_from_module(module, recurse=True)", "load first, dispatch after"),
        )


def _fetches(module: nn.Module) -> bool:
    pending = [vars(module).get("_hf_hook")]
    while pending:
        hook: Any = pending.pop()
        if getattr(hook, "offload", False) or getattr(hook, "weights_map", None) is not None:
            return True
        pending.extend(getattr(hook, "hooks", ()))
    return False


def _refuse_split(module: nn.Module) -> None:
    """Refuses split modules: each process holds only a share, and not all of them may load."""
    shares = [f"{name} ({kind})" for name, kind in _shares(module)]
    if shares:
        raise ConfigError(
            f"{counted(len(shares), 'tensor')} of the module {'is' if len(shares) == 1 else 'are'} split between "
            f"processes, and a split model cannot be loaded into yet: {listing(shares)}",
            Fix(_LOAD_FIRST, "load first, split after"),
        )


def _shares(module: nn.Module) -> Iterator[tuple[str, str]]:
    tensors: Any = sys.modules.get("torch.distributed.tensor")
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    for prefix, child in module.named_modules():
        if fsdp is not None and isinstance(child, fsdp.FullyShardedDataParallel):
            yield prefix or "the module itself", "FullyShardedDataParallel"
        for name, tensor in (*child._parameters.items(), *child._buffers.items()):
            key = f"{prefix}.{name}" if prefix else name
            if tensors is not None and isinstance(tensor, tensors.DTensor):
                yield key, "DTensor"
            elif hasattr(tensor, "ds_tensor"):
                yield key, "DeepSpeed"


def _refuse_replicated(module: nn.Module) -> None:
    """Refuses replicated modules: one process may be refused a file that another one loads."""
    replicated = [
        name or "the module itself"
        for name, child in module.named_modules()
        if isinstance(child, nn.parallel.DistributedDataParallel) and _processes(child) > 1
    ]
    if replicated:
        raise ConfigError(
            f"{listing(replicated)} is replicated by DistributedDataParallel, whose processes may not all load: if "
            "one of them failed to load, the replicas would differ",
            Fix(_LOAD_FIRST, "before it is wrapped: every process is then given the weights of the first"),
        )


def _processes(module: nn.parallel.DistributedDataParallel) -> int:
    return torch.distributed.get_world_size(module.process_group)


def _refuse_empty(module: nn.Module) -> None:
    empty = [name for name in without_data(module) if not _is_lazy(module, name)]
    if empty:
        # to_empty discards the values of all tensors; the file restores only those of the state dict.
        filled = Fix() if _has_own_values(module) else Fix("module.to_empty(device='cpu')", "gives it some")
        raise ConfigError(
            f"{counted(len(empty), 'tensor')} of the module {'has' if len(empty) == 1 else 'have'} no memory to load "
            f"into: {listing(empty)}",
            filled,
            Fix("loader.load_model(…)", "builds and loads in one go"),
        )


def _has_own_values(module: nn.Module) -> bool:
    return any(child._non_persistent_buffers_set for child in module.modules())


def _is_lazy(module: nn.Module, name: str) -> bool:
    prefix, _, leaf = name.rpartition(".")
    found = getattr(module.get_submodule(prefix), leaf, None)
    return isinstance(found, torch.Tensor) and is_lazy(found)


def refuse_unwritable(places: Mapping[str, Slot], plan: Plan, state: Mapping[str, object]) -> None:
    """Raises FitError, which names every key of a live model that cannot be written to."""
    refused = {}
    for match in plan.matches:
        slot = places[match.key]
        if slot.kind != "extra" and (reason := _refusal(slot.tensor, state.get(match.taken.key))):
            refused[match.key] = reason
    if refused:
        folded = next((key for key, reason in refused.items() if reason == _FOLDED), None)
        raise unwritable(refused, NO_FIX if folded is None else _unfolding(folded, places[folded]))


def unwritable(reasons: Mapping[str, str], fix: Fix = NO_FIX) -> FitError:
    """The refusal of keys that cannot be written to: key → reason."""
    keys = [f"{safe_text(key)} ({safe_text(reason.partition(chr(10))[0], 160)})" for key, reason in reasons.items()]
    return FitError(f"the model has tensors that cannot be written to: {phrases(keys)}", fix)


def _unfolding(key: str, slot: Slot) -> Fix:
    get = f"module.get_{slot.kind}({python_text(key)})"
    return Fix(f"{get}.data = {get}.detach().clone()", "gives each element its own memory")


def is_folded(tensor: torch.Tensor) -> bool:
    """Whether elements of a tensor share one memory location, as in an expanded one; torch refuses to write to it."""
    steps = zip(tensor.shape, tensor.stride(), strict=True) if _is_dense(tensor) and tensor.numel() else ()
    return any(size > 1 and step == 0 for size, step in steps)


def overlapping(places: Mapping[str, Slot], keys: Iterable[str]) -> dict[str, list[str]]:
    """Maps each key whose memory partly overlaps with that of others to these others."""
    by_storage: dict[int, list[str]] = {}
    found: dict[str, list[str]] = {}
    for key in keys:
        slot = places[key]
        if slot.kind != "extra" and _is_dense(tensor := slot.tensor):
            by_storage.setdefault(storage_id(tensor), []).append(key)
            if (
                not tensor.is_contiguous()
                and _run(tensor)[1] - _run(tensor)[0] < tensor.numel() * tensor.element_size()
            ):
                found[key] = [key]
    for together in by_storage.values():
        furthest, holder = -1, ""
        for (start, end), key in sorted((_run(places[key].tensor), key) for key in together if len(together) > 1):
            if start < furthest:
                found.setdefault(key, []).append(holder)
                found.setdefault(holder, []).append(key)
            if end > furthest:
                furthest, holder = end, key
    return found


def _is_crowded(tensor: torch.Tensor) -> bool:
    """Whether a tensor has more elements than places in memory."""
    start, end = _run(tensor)
    return end - start < tensor.numel() * tensor.element_size()


def _run(tensor: torch.Tensor) -> tuple[int, int]:
    """The range of bytes in its storage from the first element of a tensor to the last one."""
    width, start = tensor.element_size(), int(tensor.storage_offset())
    last = sum(int(size - 1) * int(step) for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return start * width, (start + last + 1) * width if tensor.numel() else start * width


def holds(tensor: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether a dense tensor holds a value, bit for bit, in its own dtype."""
    own = tensor.detach()
    return torch.equal(*(flat(side).view(torch.uint8) for side in (own, value.to(own))))


def conflict(differing: Iterable[str], shared: Mapping[str, list[str]]) -> FitError:
    """The refusal of keys that share memory and have different values in the file."""
    names = list(differing)
    pairs = [f"{safe_text(key)} and {listing(dict.fromkeys(shared[key]))}" for key in names]
    return FitError(
        f"the model has keys that share memory, and the file holds different values for them: {phrases(pairs)}",
        Fix(note="give each of them its own memory in the model"),
        Fix(note="load a file that was saved from a model that shares it"),
    )


def _refusal(tensor: torch.Tensor, value: object) -> str:
    """The reason why a tensor cannot take a value; empty if it can."""
    ordinary = is_plain(tensor) and _is_dense(tensor) and not tensor.is_inference()
    if is_lazy(tensor) or (ordinary and tensor.is_contiguous()):
        return ""
    if is_folded(tensor):
        return _FOLDED
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        return "it was made in inference mode"
    if ordinary:
        return ""
    try:
        probe = tensor.detach().clone()
        tensor.detach().copy_(probe)
        if isinstance(value, torch.Tensor):
            probe.copy_(value.reshape(tensor.shape) if value.shape != tensor.shape else value)
    except Exception as error:  # noqa: BLE001  # a tensor of somebody's own class may raise anything
        return f"{type(error).__name__}: {error}"
    return ""


def _is_dense(tensor: torch.Tensor) -> bool:
    return not tensor.is_meta and not is_lazy(tensor) and tensor.layout == torch.strided and not tensor.is_quantized
