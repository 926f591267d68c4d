"""A state dict in memory as a checkpoint.

Guarantees: the caller's mapping and its tensors are read, never written; its ``_metadata`` is copied.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..text.lines import Fix
from ..text.wording import counted, phrases, safe_text
from .opened import Checkpoint
from .tree import Bits, Container, Details, Layout, Leaf, Node, Storage, TensorEntry

_NOT_FOR_FILES = "assign_to_params_buffers"
"""A switch in a dict's `_metadata` that would make torch assign instead of copy."""


class MemoryCheckpoint(Checkpoint):
    """A mapping of names to tensors as a checkpoint."""

    in_memory = True

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._state = {str(key): value for key, value in state.items()}
        _refuse_valueless(self._state)
        root = Container("dict", type(state).__name__, {key: _node(key, v) for key, v in self._state.items()})
        root.metadata = {
            str(prefix): {str(k): v for k, v in dict(values).items() if k != _NOT_FOR_FILES}
            for prefix, values in dict(getattr(state, "_metadata", {})).items()
        }
        nbytes = sum(entry.nbytes for entry in root.tensors().values())
        super().__init__(Path("<state dict in memory>"), "memory", root, nbytes)

    def verify(self, entries: Iterable[TensorEntry], *, mmap: bool = True) -> None:
        """Memory has no checksums."""

    def read(self, entry: TensorEntry, *, mmap: bool = True) -> torch.Tensor:
        """The caller's own tensor, or what the rules make of such tensors."""
        key = entry.details.key
        own = self.root.children.get(key) is entry
        return self._state[key].detach() if own else super().read(entry, mmap=mmap)

    def will_need(self, entries: Sequence[TensorEntry]) -> None:
        """Memory needs no reading ahead."""

    def check_unchanged(self) -> None:
        """Memory is the caller's to keep."""

    def digest(self) -> str:
        """Raises CheckpointError: memory is not a file."""
        raise CheckpointError("a state dict in memory has no digest", Fix(note="leave checkpoint.sha256 unset"))

    @property
    def files(self) -> Sequence[CheckpointFile]:
        """None."""
        return ()

    def close(self) -> None:
        """Nothing is open."""


def _refuse_valueless(state: Mapping[str, Any]) -> None:
    """Raises CheckpointError for tensors without plain values of their own: fake, distributed or nested ones."""
    odd = {key: kind for key, value in state.items() if (kind := _oddity(value))}
    if odd:
        listed = [f"{safe_text(key)} ({kind})" for key, kind in odd.items()]
        split = "DTensor" in odd.values()
        raise CheckpointError(
            f"the state dict holds {counted(len(odd), 'unsupported tensor')}: {phrases(listed)}",
            Fix(
                "state = {key: value.full_tensor() if hasattr(value, 'full_tensor') else value for key, value in "
                "state.items()}"
            )
            if split
            else Fix(),
        )


def _oddity(value: object) -> str:
    """The kind of a tensor whose values cannot be copied; empty for ordinary ones."""
    fakes: Any = sys.modules.get("torch._subclasses.fake_tensor")
    shares: Any = sys.modules.get("torch.distributed.tensor")
    if not isinstance(value, torch.Tensor):
        return ""
    if fakes is not None and isinstance(value, fakes.FakeTensor):
        return "FakeTensor, a shape without values"
    if shares is not None and isinstance(value, shares.DTensor):
        return "DTensor"
    return "nested" if value.is_nested else ""


def _node(key: str, value: Any) -> Node:
    if isinstance(value, torch.Tensor):
        stride = tuple(value.stride()) if value.layout == torch.strided else ()
        name = "quantized" if value.is_quantized else str(value.layout).removeprefix("torch.")
        dtype = str(value.dtype).removeprefix("torch.")
        layout, shape, details = cast("Layout", name), tuple(value.shape), Details(key=key)
        if layout != "strided" or value.is_meta or type(value.untyped_storage()) is not torch.UntypedStorage:
            return TensorEntry(dtype, shape, stride, layout=layout, details=details)
        memory, bits = value.untyped_storage(), Bits(value.is_conj(), value.is_neg())
        storage = Storage(key, 0, memory.nbytes(), memory=memory, big_endian=sys.byteorder == "big")
        details = Details(key=key, bits=bits if bits != Bits() else None)
        return TensorEntry(dtype, shape, stride, int(value.storage_offset()), storage, layout=layout, details=details)
    return Leaf(type(value).__name__, record=value)
