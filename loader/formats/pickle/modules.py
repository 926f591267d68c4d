"""The state dict of a pickled module, taken out of the module's own tables.

Guarantees: neither the class nor any hook of the module is needed or run: parameters, persistent buffers and
submodules are read off the records of `_parameters`, `_buffers` and `_modules`, in the order in which
`nn.Module.state_dict` lists them. Modules that contain themselves, and ones shared so often that their state dicts
would explode, are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import CheckpointError
from ...text.wording import safe_text
from .records import PickledDict, PickledSet, Reduced

_MOST_LEVELS = 200
_MUCH_WORK = 100_000
_MOST_REPEATS = 20
"""Sharing layers is normal, doubling at every level is not: work per distinct entry, once there is much work."""


@dataclass(slots=True)
class _Tables:
    """What one module holds itself."""

    own: list[tuple[str, object]]
    below: list[tuple[str, object]]


def module_tables(record: object) -> PickledDict | None:
    """The attributes of a pickled module; None where the record is no module."""
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
        """Lists what `state_dict()` of this module would hold, by full key.

        Raises:
            CheckpointError: The module contains itself, is nested or shared beyond reason, or names an entry twice.
        """
        found: dict[str, object] = {}
        pending: list[tuple[str, object, int]] = [("", record, 0)]
        while pending:
            prefix, module, level = pending.pop()
            tables = self._tables(module)
            if tables is None:
                continue
            self._work += 1 + len(tables.own) + len(tables.below)
            if level > _MOST_LEVELS or self._work > _MUCH_WORK + _MOST_REPEATS * self._distinct:
                raise _refusal("contains itself, or its parts are nested or shared beyond reason")
            for name, value in tables.own:
                if prefix + name in found:
                    raise _refusal(f"names '{safe_text(prefix + name)}' twice")
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
        f"a pickled module of this file {what}", "do not load this file; ask whoever made it for a state dict"
    )


def _own_entries(state: PickledDict) -> list[tuple[str, object]]:
    # Modules saved before torch 1.5 do not have the set: all their buffers are persistent.
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
