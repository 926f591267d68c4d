"""The keys that a config has, and the one that a mistyped key was meant to be.

Guarantees: pure functions of the loader's own records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import get_type_hints

from ..schema import JobConfig
from ..text.wording import closest


def known_keys() -> list[str]:
    """Lists every dotted key of the config, and the group that is no key."""
    return sorted({*_fields(JobConfig, ""), "experiment"})


def _fields(record: type, prefix: str) -> Iterator[str]:
    for name, hint in get_type_hints(record).items():
        yield f"{prefix}{name}"
        if dataclasses.is_dataclass(hint):
            yield from _fields(hint, f"{prefix}{name}.")  # type: ignore[arg-type]


def suggestion(key: str) -> str | None:
    """Finds the key that a mistyped one was meant to be, or None."""
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
    """The key that a name without a dot was meant to be; of several sections a file's settings are meant first."""
    if len(ends) == 1:
        return ends[0]
    if f"checkpoint.{name}" in ends:
        return f"checkpoint.{name}"
    settings = [found.removeprefix("checkpoint.") for found in known if found.startswith("checkpoint.")]
    near = [f"checkpoint.{found}" for found in closest(name, settings, most=1)]
    return next(iter([*closest(name, known, most=1), *near]), None)
