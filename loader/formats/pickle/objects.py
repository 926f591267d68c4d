"""Pickled modules as state dicts, and objects of classes that wrap tensors (DTensor, quantized tensors) as tensors.

Guarantees: no class or hook is needed or run. A module's parameters, persistent buffers and submodules are read from
the records of `_parameters`, `_buffers` and `_modules`, in the order of `nn.Module.state_dict`; modules that contain
themselves, or are shared so often that their state dicts would explode, are refused. A wrapped tensor that the file
holds completely is a tensor like any other; of the others only shape and dtype are known, and why their values are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ...errors import CheckpointError
from ...text.lines import Fix
from ...text.wording import counted, phrases, safe_text, shape
from ..limits import MOST_MODULE_LEVELS, MOST_REPEATS, MUCH_WORK
from ..tree import Details, Node, Pickled, TensorEntry
from .records import Global, PickledDict, PickledSet, Reduced
from .storages import dtype_name, outline


@dataclass(slots=True)
class _Tables:
    """The direct content of one module."""

    own: list[tuple[str, object]]
    below: list[tuple[str, object]]


def module_tables(record: object) -> PickledDict | None:
    """Returns the attributes of a pickled module; None if the record is not a module."""
    if not isinstance(record, Reduced):
        return None
    for state in (record.state, *(record.args if isinstance(record.args, tuple) else ())):
        if isinstance(state, PickledDict):
            names = {name for name, _ in state.pairs() if type(name) is str}
            if names >= {"_parameters", "_buffers", "_modules"}:
                return state
    return None


class ModuleReader:
    """Reads the modules of one file, within one budget for all of them."""

    def __init__(self) -> None:
        self._known: dict[int, _Tables | None] = {}
        self._distinct = 0
        self._work = 0

    def state_dict(self, record: Reduced) -> dict[str, object]:
        """Returns what `state_dict()` of this module would hold, by full key.

        Raises:
            CheckpointError: The module contains itself, is nested or shared beyond reason, or has a duplicate key.
        """
        found: dict[str, object] = {}
        pending: list[tuple[str, object, int]] = [("", record, 0)]
        while pending:
            prefix, module, level = pending.pop()
            tables = self._tables(module)
            if tables is None:
                continue
            self._work += 1 + len(tables.own) + len(tables.below)
            if level > MOST_MODULE_LEVELS or self._work > MUCH_WORK + MOST_REPEATS * self._distinct:
                raise _refusal("it contains itself, or is nested or shared beyond reason")
            for name, value in tables.own:
                if prefix + name in found:
                    raise _refusal(f"duplicate key '{safe_text(prefix + name)}'")
                found[prefix + name] = value
            pending.extend((f"{prefix}{name}.", child, level + 1) for name, child in reversed(tables.below))
        return found

    def _tables(self, module: object) -> _Tables | None:
        if id(module) not in self._known:
            state = module_tables(module)
            tables = None if state is None else _Tables(_own_entries(state), _table(state, "_modules"))
            self._known[id(module)] = tables
            self._distinct += 1 + len(state.flat if state is not None else ())
        return self._known[id(module)]


def _refusal(what: str) -> CheckpointError:
    return CheckpointError(
        f"invalid pickled module: {what}", Fix(note="do not load this file; ask whoever made it for a state dict")
    )


def _own_entries(state: PickledDict) -> list[tuple[str, object]]:
    # Modules saved before torch 1.5 lack the set: all their buffers are persistent.
    transient = state.get("_non_persistent_buffers_set")
    items = transient.items if isinstance(transient, PickledSet) else ()
    skipped = {name for name in items if type(name) is str}
    entries = _table(state, "_parameters")
    entries += [(name, value) for name, value in _table(state, "_buffers") if name not in skipped]
    return [(name, value) for name, value in entries if value is not None]


def _table(state: PickledDict, name: str) -> list[tuple[str, object]]:
    table = state.get(name)
    if not isinstance(table, PickledDict):
        return []
    return [(key, value) for key, value in table.pairs() if type(key) is str]


WHOLE = Fix(
    note="where it was made, save complete plain tensors: for distributed models "
    "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)) of "
    "torch.distributed.checkpoint.state_dict, for quantized ones tensor.dequantize()"
)
"""The fix for such a file."""
_REBUILT = frozenset({"torch._tensor._rebuild_from_type_v2", "torch.tensor._rebuild_from_type_v2"})
_WRAPPER = "torch._utils._rebuild_wrapper_subclass"
_PARAMETERS = frozenset({"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"})


def wrapped_tensor(record: object) -> TensorEntry | None:
    """Returns the tensor that an object of a wrapping class represents; None if the record is something else."""
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
    return _withheld(whole, f"a {safe_text(kind.full_name)}, whose class computes its values from other tensors")


def withheld(entry: Node) -> str:
    """Why the file does not hold a tensor's values; empty if it does."""
    pickled = entry.details.pickled if isinstance(entry, TensorEntry) else None
    return pickled.withheld if pickled is not None else ""


def refuse_withheld(label: str, entries: Iterable[tuple[str, Node]]) -> None:
    """Raises CheckpointError if the file does not hold the values of needed tensors.

    Args:
        label: How messages name the file.
        entries: The needed entries, by key.
    """
    found = {key: why for key, entry in entries if (why := withheld(entry))}
    if found:
        reasons = phrases(f"{safe_text(key)} is {why}" for key, why in found.items())
        raise CheckpointError(f"{label} does not hold all values of {counted(len(found), 'tensor')}: {reasons}", WHOLE)


def _of_dtensor(whole: TensorEntry, attributes: Mapping[str, object]) -> TensorEntry:
    local, spec = attributes.get("_local_tensor"), attributes.get("_spec")
    placements = _attributes(spec.state).get("placements") if isinstance(spec, Reduced) else None
    if not isinstance(local, TensorEntry) or not isinstance(placements, tuple):
        return _withheld(whole, "a DTensor whose local tensor is not in the file")
    partial = any(isinstance(each, Reduced) and "Partial" in each.type for each in placements)
    if partial or (local.shape, local.dtype) != (whole.shape, whole.dtype):
        return _withheld(whole, f"a shard {shape(local.shape)} of a DTensor {shape(whole.shape)}")
    return local


def _of_sharded_tensor(whole: TensorEntry, state: object) -> TensorEntry:
    shards = state[0] if isinstance(state, tuple) and state and isinstance(state[0], list) else []
    found = [_attributes(each.state).get("tensor") for each in shards if isinstance(each, Reduced)]
    if len(found) == 1 and isinstance(found[0], TensorEntry) and found[0].shape == whole.shape:
        return found[0]
    local = [shape(each.shape) for each in found if isinstance(each, TensorEntry)]
    return _withheld(whole, f"a shard {' and '.join(local[:3]) or '(none)'} of a ShardedTensor {shape(whole.shape)}")


def _withheld(whole: TensorEntry, why: str) -> TensorEntry:
    return replace(whole, details=Details(pickled=Pickled(withheld=why)))


def _attributes(state: object) -> dict[str, object]:
    """The attributes that BUILD gives an object; for a class with slots, the slots as well."""
    states = state if isinstance(state, tuple) else (state,)
    return {
        name: value
        for each in states
        if isinstance(each, PickledDict)
        for name, value in each.pairs()
        if type(name) is str
    }
