"""One section of the config as one record; the keys that exist, and the one that a mistyped key was meant to be.

Guarantees: keys, types and required values are checked against the record's own fields; problems are collected, so that
one refusal reports every problem of a config.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import Problems
from ..schema import AUTO, JobConfig
from ..text.lines import MISSING, NO_FIX, Fix, line, override, removal, typed
from ..text.wording import closest, did_you_mean, listing, safe_text

_Record = TypeVar("_Record")
Raw = Mapping[str, Any]

_EXTRAS = ("joblib", "submitit", "ray", "optuna")
"""The extras that have a launcher or a sweeper."""

_EXPECTED: Mapping[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list[str]: "a list of names",
    list[float]: "a list of numbers",
    list[int]: "a list of whole numbers",
}


def add_unknown(problems: Problems, raw: Raw, known: Collection[str], where: str) -> None:
    """Adds the keys that are not among the known ones."""
    for key in raw:
        if key not in known:
            place = f"{where}.{key}" if where else str(key)
            problems.add(f"unknown config key '{safe_text(place)}'{did_you_mean(str(key), known)}")


def read_section(
    kind: type[_Record], raw: Any, where: str, problems: Problems, defaults: _Record | None = None
) -> _Record:
    """Checks one section's keys and types; null is a value if the type allows it, and otherwise means unset."""
    record = copy.copy(defaults) if defaults is not None else kind()
    if not isinstance(raw, Mapping):
        problems.add(f"'{where}' is {safe_text(raw)!r}, expected a mapping", line(where, {}))
        return record
    add_unknown(problems, raw, names_of(kind), where)
    for key in raw:
        if key not in names_of(kind):
            near = closest(str(key), names_of(kind), most=1)
            old = removal(f"{where}.{key}" if where else str(key))
            problems.add_fixes(*(typed(override(f"{where}.{name}" if where else name, raw[key]), old) for name in near))
            problems.add_fixes(NO_FIX if near else typed(old, note="leaves it out"))
    for name, value in read_values(kind, raw, where, problems).items():
        setattr(record, name, value)
    return record


def read_values(kind: type, raw: Raw, where: str, problems: Problems) -> dict[str, Any]:
    """Returns the values that a mapping has for a record's fields, in their types; invalid ones are problems."""
    hints, values = _hints(kind), dict[str, Any]()
    for field in dataclasses.fields(kind):
        name, hint = field.name, hints[field.name]
        place = f"{where}.{name}" if where else name
        if absent := list(gaps(raw.get(name), place)):
            for gap in absent:
                problems.add(f"'{safe_text(gap)}' is required", line(gap, "FILE" if name == "path" else "VALUE"))
        elif name in raw and (raw[name] is not None or type(None) in _alternatives(hint)):
            value = [raw[name]] if hint == list[str] and isinstance(raw[name], str) else raw[name]
            choices = [one for other in _alternatives(hint) if get_origin(other) is Literal for one in get_args(other)]
            try:
                values[name] = _converted(value, hint)
            except (OmegaConfBaseException, TypeError):
                kinds = [_expected(kind) for kind in _alternatives(hint)]
                fix = NO_FIX if field.default in (dataclasses.MISSING, "") else line(place, field.default)
                if hint == dict[str, Any]:
                    fix = line(place, {})
                problems.add(f"'{place}' is {shown(value)}, expected {' or '.join(kinds)}", fix)
            if choices and (values.get(name) or choices[0]) not in choices:
                near, meant = did_you_mean(values[name], choices), closest(values[name], choices, most=1) or choices
                expected = f"expected one of {', '.join(choices)}{near}"
                problems.add(f"'{place}' is {shown(values[name])}, {expected}", line(place, meant[0]))
    return values


def gaps(node: Any, where: str) -> Iterator[str]:
    """Yields the places in a free-form node whose required value is not set."""
    if isinstance(node, str):
        if node == MISSING:
            yield where
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from gaps(value, f"{where}.{key}")
    elif isinstance(node, Sequence):
        for index, value in enumerate(node):
            yield from gaps(value, f"{where}.{index}")


def names_of(record: type) -> list[str]:
    """Returns the names of a record's fields."""
    return [field.name for field in dataclasses.fields(record)]


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _converted(value: Any, hint: Any) -> Any:
    """Converts a value to its field's type, as OmegaConf's structured configs do: 10 is valid text."""
    options = _alternatives(hint)
    if hint is Any or type(value) in options:
        return value
    container = next((kind for kind in options if _holds(kind, value)), None)
    if get_origin(container) is dict:
        return {str(key): _converted(item, get_args(container)[1]) for key, item in value.items()}
    if container is not None and len(options) > 1:
        return [_converted(item, get_args(container)[0]) for item in value]
    if container is None:
        hint = _scalar(options, value)
    if hint == list[str] and isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return list(value)
    if "${" in str(value) and str not in _alternatives(hint):
        raise TypeError(value)  # OmegaConf would not check an interpolation
    field = dataclasses.make_dataclass("Field", [("value", hint)])
    checked = OmegaConf.merge(OmegaConf.structured(field), {"value": value})
    return OmegaConf.to_container(checked, resolve=False)["value"]  # type: ignore[index,call-overload]


def _holds(kind: Any, value: Any) -> bool:
    """Returns whether a type is that of a list or mapping, like the value."""
    if get_origin(kind) is dict:
        return isinstance(value, Mapping)
    return get_origin(kind) is list and isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _scalar(options: Sequence[Any], value: Any) -> Any:
    """Returns the type of those that a value takes that is neither a list nor a mapping; raises TypeError."""
    kinds = [str if get_origin(kind) is Literal else kind for kind in options if get_origin(kind) not in (dict, list)]
    if not set(kinds) - {NoneType}:
        raise TypeError(value)
    return functools.reduce(operator.or_, kinds)


def _expected(kind: Any) -> str:
    """Writes what a type takes."""
    if kind in _EXPECTED or kind is NoneType:
        return _EXPECTED.get(kind, "null")
    if get_origin(kind) is dict:
        return "a mapping"
    return "a list" if get_origin(kind) is list else "text"


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """Returns the types that a field's hint allows: the hint itself, or the members of a union."""
    is_union = get_origin(hint) in (UnionType, Union)  # of typing, if a Literal is among its members
    return get_args(hint) if is_union else (hint,)


def shown(value: Any) -> str:
    """Writes a value for a message."""
    return "null" if value is None else repr(safe_text(value))


def known_keys() -> list[str]:
    """Lists every dotted key of the config, and the group `experiment`, which is not a key."""
    return sorted({*_fields(JobConfig, ""), "experiment"})


def _fields(record: type, prefix: str) -> Iterator[str]:
    for name, hint in get_type_hints(record).items():
        yield f"{prefix}{name}"
        for kind in _alternatives(hint):
            if dataclasses.is_dataclass(kind):
                yield from _fields(kind, f"{prefix}{name}.")  # type: ignore[arg-type]


def package_of(group: str, option: str) -> str:
    """Returns the package, or our extra, that probably has a launcher or sweeper which is not installed."""
    extra = option.partition("_")[0]  # of submitit_local
    return f"hydra-loader[{extra}]" if extra in _EXTRAS else f"hydra-{option}-{group.removeprefix('hydra/')}"


def suggestion(key: str) -> str | None:
    """Returns the key that a mistyped one was probably meant to be, or None."""
    known = known_keys()
    pieces = key.split(".")
    ends = [name for name in known if name.endswith(f".{pieces[-1]}")]
    if len(pieces) == 1:
        return _bare(key, ends, known)
    for depth in range(len(pieces)):
        parent = "".join(f"{piece}." for piece in pieces[:depth])
        siblings = [name.removeprefix(parent) for name in known if name.startswith(parent)]
        siblings = [name for name in siblings if "." not in name]
        if pieces[depth] not in siblings:
            near = closest(pieces[depth], siblings, most=1)
            meant = ".".join([*pieces[:depth], *near, *pieces[depth + 1 :]])
            if near and (meant in known or not any(name.startswith(f"{parent}{near[0]}.") for name in known)):
                return meant
            break
    return ends[0] if len(ends) == 1 else next(iter(closest(key, known, most=1)), None)


def _bare(name: str, ends: Sequence[str], known: Sequence[str]) -> str | None:
    """Returns the key that a name without a dot was probably meant to be; the settings of `checkpoint` come first."""
    if len(ends) == 1:
        return ends[0]
    if f"checkpoint.{name}" in ends:
        return f"checkpoint.{name}"
    settings = [found.removeprefix("checkpoint.") for found in known if found.startswith("checkpoint.")]
    near = [f"checkpoint.{found}" for found in closest(name, settings, most=1)]
    return next(iter([*closest(name, known, most=1), *near]), None)


def no_such_rules(where: str, names: Sequence[Any], unknown: Sequence[Any], options: Sequence[str]) -> tuple[str, Fix]:
    """Returns the refusal of a list with unknown ready-made rules, and the overrides that were probably meant."""
    shown_names = [f"'{safe_text(name)}'{did_you_mean(str(name), options)}" for name in unknown]
    near = [known for name in names if isinstance(name, str) for known in closest(name, options, most=1)]
    own = {f"mine{at or ''}": rule for at, rule in enumerate(name for name in unknown if isinstance(name, Mapping))}
    words = [override(where, near or ["ddp"])] if near or not own else []
    words += [override(where, own, "+" if near else "")] if own else []
    expected = f"expected ready-made rules ({', '.join(options)}), '{AUTO}' alone, or a mapping of your own"
    return f"'{where}' lists {listing(shown_names)}, {expected}", typed(*words)
