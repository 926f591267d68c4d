"""``NAME=zip(model=[a,b], checkpoint.path=[x,y])``: keys of a sweep that change together.

Guarantees: the first job gets the first value of each key, the second the second, and so on; lists of different lengths
are refused. For Hydra's sweepers, all of it is one key with one value per job, so that it combines with other swept
keys and works with every sweeper and launcher; `spread` gives each job its overrides back. A key that is zipped and
also set otherwise is refused, and so is a NAME that is a key of the config.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException

from ..errors import ConfigError
from ..text.lines import Fix, quoted, quoted_key, typed
from ..text.wording import counted, safe_text
from .devices import each_device
from .elements import is_function, items_of, split_arguments
from .globs import expand_glob, is_glob
from .grammar import parse_value
from .sections import known_keys
from .texts import FILES

_CALL = re.compile(r"\s*zip\s*\((.*)\)\s*", re.DOTALL)
_KEY = re.compile(r"(?P<key>\+{0,2}[A-Za-z_][\w.@/$-]*)\s*=\s*(?P<values>.*)", re.ASCII | re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PACKED = re.compile(r"\+_zip_\.(?P<name>\w+)=(?P<value>.*)", re.DOTALL)
_FREE = "pairs"
"""A name to offer."""
_LONGEST = 400


def is_zip(value: str) -> bool:
    """Returns whether a value is ``zip(...)``."""
    return _CALL.fullmatch(value) is not None


def read_zip(name: str, value: str) -> list[list[str]]:
    """Returns the overrides of each job, as they would be typed for a single run.

    Args:
        name: The key that the call is typed for.
        value: The call; a key's values are a list, in which ``glob(...)``, ``range(...)`` and ``cuda:*`` stand for all
            of theirs, or one of these alone.

    Raises:
        ConfigError: The name is a key of the config, or the call is not as described.
    """
    _check_name(name, value)
    call = _CALL.fullmatch(value)
    columns: dict[str, list[str]] = {}
    for argument in split_arguments(call[1] if call else value):
        found = _KEY.fullmatch(argument)
        if found is None:
            raise _invalid(name, value, f"'{safe_text(argument, _LONGEST)}' is not KEY=[VALUES]")
        if found["key"].lstrip("+") in {key.lstrip("+") for key in columns}:
            raise _invalid(name, value, f"'{found['key']}' is there twice")
        columns[found["key"]] = list(_values(name, value, found["key"], found["values"]))
    if not columns or not any(columns.values()):
        raise _invalid(name, value, "it has no values")
    if len({len(values) for values in columns.values()}) > 1:
        raise _uneven(name, columns)
    return [
        [f"{key}={one}" for key, one in zip(columns, row, strict=True)] for row in zip(*columns.values(), strict=True)
    ]


def refuse_known(name: str, value: str = "") -> None:
    """Raises the refusal of a zip whose name is a key of the config, or a group of it.

    Args:
        name: The name.
        value: The call as typed, if it is still known.
    """
    raise ConfigError(
        f"'{safe_text(name)}' is a key of the config; expected a free name for the zip(...)",
        typed("-m", f"{_FREE}={value}") if value else Fix(note=f"the same zip(...) with another name than {name}"),
    )


def _check_name(name: str, value: str) -> None:
    if any(name == key or name.startswith(f"{key}.") for key in ("hydra", *known_keys())):
        refuse_known(name, value)
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"'{safe_text(name)}' is not a name for a zip(...); expected one word", typed("-m", f"{_FREE}={value}")
        )


def _values(name: str, call: str, key: str, text: str) -> Iterator[str]:
    items = items_of(text)
    if items is None and not is_function(text):
        raise _invalid(name, call, f"'{safe_text(f'{key}={text}', _LONGEST)}' is not a list")
    for item in [text.strip()] if items is None else items:
        yield from _each(name, call, key, item)


def _each(name: str, call: str, key: str, item: str) -> Sequence[str]:
    """Returns the values that one item of a list stands for."""
    if is_glob(item) and FILES.fullmatch(key.lstrip("+")):
        return [quoted(path) for path in expand_glob(key, item)]
    if key.lstrip("+") == "device":
        return each_device(item)
    if not is_function(item):
        return [item]
    try:
        override = OverridesParser.create().parse_override(f"key={item}")
    except HydraException:
        return [item]
    if not override.is_sweep_override():
        return [item]
    named: Any = override
    if isinstance(named._value, Glob) or not override.is_discrete_sweep():  # noqa: SLF001  # it has no public name
        raise _invalid(name, call, f"'{safe_text(f'{key}={item}', _LONGEST)}' stands for no values known here")
    return list(override.sweep_string_iterator())


def _invalid(name: str, value: str, why: str) -> ConfigError:
    return ConfigError(
        f"'{safe_text(f'{name}={value}', _LONGEST)}' cannot be read: {why}; expected NAME=zip(KEY=[A,B],OTHER=[X,Y])",
        typed("-m", f"{name}=zip(checkpoint.path=[FILE,OTHER],seed=[0,1])", note="for example"),
    )


def _uneven(name: str, columns: Mapping[str, list[str]]) -> ConfigError:
    lengths = ", ".join(f"{key} has {counted(len(values), 'value')}" for key, values in columns.items())
    least = min(map(len, columns.values()))
    cut = ",".join(f"{key}=[{','.join(values[:least])}]" for key, values in columns.items())
    product = [f"{key}={','.join(values)}" for key, values in columns.items()]
    return ConfigError(
        f"the lists of {name}=zip(...) differ in length: {lengths}",
        typed("-m", f"{name}=zip({cut})", note=f"the first {least} of each") if least else typed("-m", *product),
        typed("-m", *(one for one in product if not one.endswith("=")), note="every combination"),
    )


def packed(name: str, jobs: Sequence[Sequence[str]]) -> str:
    """Writes the overrides of each job, in Hydra's grammar, as one swept override."""
    return f"+_zip_.{name}=" + ",".join(quoted_key(json.dumps(job, ensure_ascii=False)) for job in jobs)


def names_in(overrides: Sequence[str]) -> list[str]:
    """Lists the names of the zips among overrides for Hydra."""
    return [found["name"] for override in overrides if (found := _PACKED.fullmatch(override))]


def spread(overrides: Sequence[str]) -> list[str]:
    """Returns a job's overrides with those of a zip in its place.

    Raises:
        ConfigError: A key is zipped, and set by another override as well.
    """
    pieces = [(override, unpacked([override])) for override in overrides]
    owner: dict[str, str] = {}
    for override, own in pieces:
        for key in {one.lstrip("+").partition("=")[0] for one in own}:
            other = owner.setdefault(key, override)
            if other != override and key != "hydra/clear" and names_in([other, override]):
                raise _twice(key, other, override)
    return [one for _, own in pieces for one in own]


def unpacked(overrides: Sequence[str]) -> list[str]:
    """Returns a job's overrides with those of a zip in its place, even if they contradict each other."""
    found = [(override, _PACKED.fullmatch(override)) for override in overrides]
    return [one for override, zipped in found for one in (_contents(zipped["value"]) if zipped else [override])]


def _contents(value: str) -> list[str]:
    return [str(one) for one in json.loads(parse_value(value).text)]


def _twice(key: str, *overrides: str) -> ConfigError:
    name, *others = names_in(overrides)
    other = next((one for one in overrides if not names_in([one])), f"{others[0]}=zip(...)" if others else "")
    return ConfigError(
        f"'{safe_text(key)}' is in {name}=zip(...), and set by '{safe_text(other, _LONGEST)}' as well",
        Fix(note=f"the same line without {safe_text(other, _LONGEST)}"),
    )
