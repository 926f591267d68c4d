"""Tensors of classes that wrap others: those of several processes, and quantized ones.

Guarantees: what is in the file as a whole is a tensor like any other; of anything else shape and dtype alone are known,
and why its values are not there. Neither the class nor anything that it names is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ...errors import CheckpointError
from ...text.wording import counted, phrases, safe_text, shape
from ..tree import Node, TensorEntry
from .records import Global, PickledDict, Reduced
from .views import dtype_name, outline

WITHHELD = "withheld"
"""The detail that says why a tensor's values are not in the file, or not as they are."""
WHOLE = (
    "save it whole and plain, where it was made: for processes "
    "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)) of "
    "torch.distributed.checkpoint.state_dict, of quantized tensors their .dequantize()"
)
"""What to do about it."""
_REBUILT = frozenset({"torch._tensor._rebuild_from_type_v2", "torch.tensor._rebuild_from_type_v2"})
_WRAPPER = "torch._utils._rebuild_wrapper_subclass"
_PARAMETERS = frozenset({"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"})


def wrapped_tensor(record: object) -> TensorEntry | None:
    """The tensor that a record of a wrapping class stands for; None where the record is something else."""
    if isinstance(record, Reduced) and record.type in _PARAMETERS and isinstance(record.args, tuple) and record.args:
        record = record.args[0]
    args = record.args if isinstance(record, Reduced) and record.type in _REBUILT else None
    if not isinstance(args, tuple) or len(args) != 4:
        return None
    function, kind, made_of, state = args
    if not isinstance(function, Global) or function.full_name != _WRAPPER or not isinstance(kind, Global):
        return None
    dtype = dtype_name(made_of[1]) if isinstance(made_of, tuple) and len(made_of) == 8 else None
    if dtype is None:
        return None
    whole = outline(dtype, made_of[2], made_of[3])
    attributes = _attributes(state)
    if kind.name.rpartition(".")[2] == "DTensor":
        return _of_dtensor(whole, attributes)
    if kind.name.rpartition(".")[2] == "ShardedTensor":
        return _of_sharded_tensor(whole, state)
    return _withheld(whole, f"a {safe_text(kind.full_name)}, whose values its class computes from other tensors")


def refuse_withheld(label: str, entries: Iterable[tuple[str, Node]]) -> None:
    """Raises CheckpointError where the values of tensors that are needed are not in the file.

    Args:
        label: How messages name the file.
        entries: What is needed, by key.
    """
    found = {k: e.details[WITHHELD] for k, e in entries if isinstance(e, TensorEntry) and WITHHELD in e.details}
    if found:
        told = phrases(f"{safe_text(key)} is {why}" for key, why in found.items())
        raise CheckpointError(f"{label} does not hold {counted(len(found), 'tensor')} as a whole: {told}", WHOLE)


def _of_dtensor(whole: TensorEntry, attributes: Mapping[str, object]) -> TensorEntry:
    local, spec = attributes.get("_local_tensor"), attributes.get("_spec")
    placements = _attributes(spec.state).get("placements") if isinstance(spec, Reduced) else None
    if not isinstance(local, TensorEntry) or not isinstance(placements, tuple):
        return _withheld(whole, "a DTensor whose local tensor is not in the file")
    partial = any(isinstance(each, Reduced) and "Partial" in each.type for each in placements)
    if partial or (local.shape, local.dtype) != (whole.shape, whole.dtype):
        return _withheld(whole, f"a share {shape(local.shape)} of a DTensor {shape(whole.shape)}")
    return local


def _of_sharded_tensor(whole: TensorEntry, state: object) -> TensorEntry:
    shards = state[0] if isinstance(state, tuple) and state and isinstance(state[0], list) else []
    found = [_attributes(each.state).get("tensor") for each in shards if isinstance(each, Reduced)]
    if len(found) == 1 and isinstance(found[0], TensorEntry) and found[0].shape == whole.shape:
        return found[0]
    told = [shape(each.shape) for each in found if isinstance(each, TensorEntry)]
    return _withheld(whole, f"a share {' and '.join(told[:3]) or '(none)'} of a ShardedTensor {shape(whole.shape)}")


def _withheld(whole: TensorEntry, why: str) -> TensorEntry:
    return replace(whole, details={WITHHELD: why})


def _attributes(state: object) -> dict[str, object]:
    """What BUILD gives to an object; a class with slots has a tuple of both."""
    states = state if isinstance(state, tuple) else (state,)
    return {
        name: value
        for each in states
        if isinstance(each, PickledDict)
        for name, value in each.pairs()
        if type(name) is str
    }
