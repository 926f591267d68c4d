"""Builds a model without computing the initial values of its weights.

A checkpoint overwrites every parameter, so drawing random initial values is wasted, and for a large model it is most of
the loading time. Here the constructor runs in a mode that leaves them out (`skip`); afterwards the parameters, and the
persistent buffers that depend on left-out values, are moved to the meta device. All other buffers and attributes are
as the plain constructor makes them.

Guarantees: loading every key of its state dict into the result gives, bit for bit, what `torch.manual_seed(seed)`, the
plain constructor and `load_state_dict` give. Where that cannot be known nothing is handed out: when the constructor
reads left-out values; when torch's random state moved, so that something was drawn past the mode; and when memory
that was left unset, or that belonged to a parameter, is still alive afterwards: a buffer that is not saved, an
attribute, a hook's closure or a cache holds it. That memory is not searched for, it is watched by weak references.

The mode belongs to the thread that enters it. Nothing global is changed, so nothing can stay changed, and a model that
another thread builds meanwhile is untouched. One thing cannot be seen: a constructor that builds a parameter from
*outside* the build into its model (a cached layer, say) has that one emptied too.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import swap_tensors

from loader.build.randomness import torch_states
from loader.build.skip import InexactError, Skipping

Holders = dict[int, list[tuple[nn.Module, str]]]


def build_hollow(construct: Callable[[], nn.Module], mode: Skipping | None = None) -> nn.Module:
    """Runs a constructor without computing initial values, and returns its model with the parameters on meta.

    Args:
        construct: Makes the model; called once.
        mode: A fresh mode, for whoever wants to see afterwards which memory is still unset.

    Raises:
        InexactError: The result would not be exact.
        Exception: What the constructor raises for reasons of its own.
    """
    mode = mode or Skipping()
    before = torch_states()
    try:
        with mode:
            module = construct()
    except Exception:
        if not mode.reason:
            raise
    if mode.reason:
        raise InexactError(mode.reason)
    if not all(map(torch.equal, before, torch_states())):
        raise InexactError(
            "torch's random state moved meanwhile: its constructor seeds, or something out of reach draws numbers"
        )
    _empty(module, mode)
    return module


def holds_unset(module: nn.Module, mode: Skipping) -> bool:
    """Tells whether a model, or a tensor among its attributes, looks into memory that a hollow build left unset.

    A plain build after a hollow one does if the constructor takes tensors from a cache that the hollow build filled.

    Args:
        module: The plainly built model.
        mode: What the hollow build ran in.
    """
    gc.collect()
    return bool(mode.unset) and any(mode.any_unset(vars(part).values()) for part in module.modules())


def _empty(module: nn.Module, mode: Skipping) -> None:
    """Moves the parameters and the unset persistent buffers to meta, and checks that their memory is gone."""
    loaded, holders = _loaded(module, mode)
    if not all(mode.watch(tensor) for tensor in loaded.values()):
        raise InexactError("two of its parameters share memory without being one, or one is of a kind without memory")
    while loaded:
        _to_meta(loaded.popitem()[1], holders)
    if mode.unset:
        gc.collect()
    if mode.unset:
        raise InexactError("it keeps values that depend on its parameters or on chance outside its state dict")


def _loaded(module: nn.Module, mode: Skipping) -> tuple[dict[int, Tensor], Holders]:
    """Returns the tensors that a checkpoint overwrites, by identity, and which modules hold each."""
    loaded: dict[int, Tensor] = {}
    holders: Holders = {}
    for owner in module.modules():
        tensors: list[tuple[str, Tensor | None]] = [*owner._parameters.items()]
        for name, buffer in owner._buffers.items():
            if buffer is not None and name not in owner._non_persistent_buffers_set and mode.is_unset(buffer):
                tensors.append((name, buffer))
        for name, tensor in tensors:
            if tensor is not None and not is_lazy(tensor):
                loaded[id(tensor)] = tensor
                holders.setdefault(id(tensor), []).append((owner, name))
    return loaded, holders


def _to_meta(tensor: Tensor, holders: Holders) -> None:
    """Empties a tensor in place, so that whoever holds it (lists, ties, closures) holds the empty one."""
    places, kind, attributes = holders[id(tensor)], type(tensor), vars(tensor)
    try:
        empty: Tensor = torch.empty_like(tensor, device="meta", requires_grad=False)
    except (RuntimeError, NotImplementedError) as error:
        raise InexactError(f"its {places[0][1]} cannot be moved to the meta device") from error
    if isinstance(tensor, nn.Parameter):
        empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
    try:
        swap_tensors(tensor, empty)  # type: ignore[no-untyped-call]
    except RuntimeError:
        # Weak references to the tensor, which recurrent layers keep, forbid the swap. An empty one takes its place;
        # if anything else holds the old one its memory stays alive, and that is noticed.
        for owner, name in places:
            setattr(owner, name, empty)
        tensor = empty
    if type(tensor) is not kind:
        tensor.__class__ = kind
    if attributes:
        vars(tensor).update(attributes)
    if not getattr(*places[0]).is_meta:
        raise InexactError(f"its {places[0][1]} cannot be moved to the meta device")
