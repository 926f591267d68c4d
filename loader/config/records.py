"""One section of the config as one record.

Guarantees: keys, types and values that must be given are checked by the record's own fields; what is wrong is
collected, so that every problem of a config is told in one refusal.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError
from ..text.lines import MISSING, line, typed
from ..text.wording import did_you_mean, safe_text

_Record = TypeVar("_Record")
Raw = Mapping[str, Any]

_EXPECTED: Mapping[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list[str]: "a list of names",
    list[int]: "a list of whole numbers",
}


class Problems:
    """Collects what is wrong, so that it is told at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.hints: list[str] = []

    def add(self, line: str, hint: str = "") -> None:
        """Keeps one problem, and the line to type for it."""
        self.lines.append(line)
        if hint and hint not in self.hints:
            self.hints.append(hint)

    def unknown(self, raw: Raw, record: type, where: str) -> None:
        """Adds the keys that a record has no field for."""
        known = [field.name for field in dataclasses.fields(record)]
        for key in raw:
            if key not in known:
                place = f"{where}.{key}" if where else str(key)
                self.add(f"unknown config key '{safe_text(place)}'{did_you_mean(str(key), known)}")

    def raise_any(self) -> None:
        """Raises ConfigError with all that was added, if anything was."""
        if self.lines:
            raise ConfigError("; ".join(self.lines), "\n".join(self.hints))


def read_section(
    kind: type[_Record], raw: Any, where: str, problems: Problems, defaults: _Record | None = None
) -> _Record:
    """Checks one section's keys and types; null is a value where the type allows it, and means unset elsewhere."""
    record = copy.copy(defaults) if defaults is not None else kind()
    if not isinstance(raw, Mapping):
        problems.add(f"'{where}' is {safe_text(raw)!r}, expected a mapping", typed(f"{where}={{…}}"))
        return record
    problems.unknown(raw, kind, where)
    hints = _hints(kind)  # type: ignore[arg-type]  # a class is hashable
    for name in (name for name in raw if name in hints):
        place = f"{where}.{name}" if where else str(name)
        if isinstance(raw[name], str) and raw[name] == MISSING:
            problems.add(f"'{place}' must be given", line(place, "FILE" if name == "path" else "VALUE"))
        elif raw[name] is not None or type(None) in _alternatives(hints[name]):
            _assign(record, name, hints[name], raw[name], place, problems)
    return record


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _assign(record: Any, name: str, hint: Any, value: Any, place: str, problems: Problems) -> None:
    if hint == list[str] and isinstance(value, str):
        value = [value]
    try:
        setattr(record, name, _converted(value, hint))
    except (OmegaConfBaseException, TypeError):
        kinds = [_EXPECTED.get(kind, "null") for kind in _alternatives(hint)]
        default = getattr(type(record)(), name)
        hint_line = "" if default == "" or isinstance(default, list) else line(place, default)
        problems.add(f"'{place}' is {shown(value)}, expected {' or '.join(kinds)}", hint_line)


def _converted(value: Any, hint: Any) -> Any:
    """A value in the type of its field, by the conversions of OmegaConf's structured configs: 10 is text as well."""
    if type(value) in _alternatives(hint):
        return value
    if hint == list[str] and isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return list(value)
    if "${" in str(value) and str not in _alternatives(hint):
        raise TypeError(value)  # OmegaConf would take an interpolation on trust
    field = dataclasses.make_dataclass("Field", [("value", hint)])
    checked = OmegaConf.merge(OmegaConf.structured(field), {"value": value})
    return OmegaConf.to_container(checked, resolve=False)["value"]  # type: ignore[index,call-overload]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that a field's hint allows: its own, or those of a union."""
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def shown(value: Any) -> str:
    """A value as a message shows it."""
    return "null" if value is None else repr(safe_text(value))
