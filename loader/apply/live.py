"""Whether a live module can be loaded into, before anything is opened.

Guarantees: changes nothing; imports none of the libraries that wrap or split modules, since a module that one of them
made has it imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from ..module.tensors import without_data
from ..text.wording import counted, listing

_LOAD_FIRST = "loader.load_into(net, …) before the module is wrapped or split"


def refuse_unfit(module: nn.Module) -> None:
    """Raises ConfigError where loading into a module would not reach its weights, or only some processes' weights."""
    _refuse_dispatched(module)
    _refuse_split(module)
    _refuse_replicated(module)
    _refuse_empty(module)


def _refuse_dispatched(module: nn.Module) -> None:
    """Accelerate's hooks bring weights from elsewhere for every forward pass: those in the module are not at work."""
    dispatched = [name or "the module itself" for name, child in module.named_modules() if _fetches(child)]
    if dispatched:
        raise ConfigError(
            f"accelerate keeps weights outside of the module, and brings them in for each forward pass: "
            f"{listing(dispatched)}; what is loaded into the module would not be used",
            "accelerate.hooks.remove_hook_from_module(module, recurse=True)   # load first, dispatch after",
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
    """Each process holds a share alone: which, and whether all of them load, is not settled here."""
    shares = [f"{name} ({kind})" for name, kind in _shares(module)]
    if shares:
        raise ConfigError(
            f"{counted(len(shares), 'tensor')} of the module {'is' if len(shares) == 1 else 'are'} split between "
            f"processes, and a split model cannot be loaded into yet: {listing(shares)}",
            f"{_LOAD_FIRST}: load first, split after",
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
    """One process may be refused what another one loads; their replicas would then differ."""
    replicated = [
        name or "the module itself"
        for name, child in module.named_modules()
        if isinstance(child, nn.parallel.DistributedDataParallel) and _processes(child) > 1
    ]
    if replicated:
        raise ConfigError(
            f"{listing(replicated)} is replicated by DistributedDataParallel, whose processes may not all load: where "
            "one of them is refused its file, the replicas would differ",
            f"{_LOAD_FIRST}: DistributedDataParallel then gives every process the weights of the first",
        )


def _processes(module: nn.parallel.DistributedDataParallel) -> int:
    return torch.distributed.get_world_size(module.process_group)


def _refuse_empty(module: nn.Module) -> None:
    empty = [name for name in without_data(module) if not _is_lazy(module, name)]
    if empty:
        # to_empty takes the values of every other tensor as well; the file brings back those of the state dict alone.
        filled = "" if _has_own_values(module) else "module.to_empty(device='cpu') gives it some; "
        raise ConfigError(
            f"{counted(len(empty), 'tensor')} of the module {'has' if len(empty) == 1 else 'have'} no memory to load "
            f"into: {listing(empty)}",
            f"{filled}loader.load_model builds and loads in one go",
        )


def _has_own_values(module: nn.Module) -> bool:
    return any(child._non_persistent_buffers_set for child in module.modules())


def _is_lazy(module: nn.Module, name: str) -> bool:
    prefix, _, leaf = name.rpartition(".")
    found = getattr(module.get_submodule(prefix), leaf, None)
    return isinstance(found, torch.Tensor) and nn.parameter.is_lazy(found)
