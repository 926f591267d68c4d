"""Nested keys and rules of one side that are found by what the other side holds, in the place of a model.

Guarantees: the search is that of a load; rules are taken only if one explanation is better than all others. Tensors
that only one side has, or of another shape, do not speak against it: the comparison lists them. Reads no tensor data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ...errors import FitError
from ...files.path import shown_path
from ...formats.tree import Container
from ...keys.candidates import candidates
from ...keys.plan import Hooked, Offered, Taken, Wanted
from ...keys.select import find
from ...keys.written import key_override, written
from ...parts import Part, below
from ...schema import config_path
from ...suggest.problem import Problem
from ...suggest.search import explain
from ...text.lines import Fix, line, typed
from ...text.wording import counted

_MOST_KEYS = 3


def settled(part: Part, names: Mapping[str, Wanted]) -> Part:
    """Returns a part with ``auto`` replaced.

    Args:
        part: A part of this side.
        names: The tensors of the other side; empty if they are not known.

    Raises:
        FitError: No rules, or several, give the part the names of the other side.
    """
    autos = part.config.autos
    if "rules" in autos:
        return _with_rules(part, names, keys_free="key" in autos)
    if "key" in autos:
        return _with_key(part, names)
    return part


def _with_key(part: Part, names: Mapping[str, Wanted]) -> Part:
    ranked = candidates(part.checkpoint.root, [want.shape for want in names.values()])
    key = ranked[0].key or None if ranked else None
    return _settled(part, key, [key_override(_place(part, "key"), key)])


def _with_rules(part: Part, names: Mapping[str, Wanted], *, keys_free: bool) -> Part:
    problem = _problem(part, names)
    found = explain(problem, keys_free=keys_free).explanations
    if len(found) != 1 or found[0].swaps:
        raise _undecided(part, [typed(*one.overrides) for one in found], keys_free=keys_free)
    one = found[0]
    config = dataclasses.replace(part.config, rules=dict(one.rules))
    return _settled(dataclasses.replace(part, config=config), one.key, one.overrides)


def _settled(part: Part, key: str | None, overrides: Sequence[str]) -> Part:
    checkpoint = dataclasses.replace(part.config.checkpoint, key=key)
    config = dataclasses.replace(part.config, checkpoint=checkpoint)
    return dataclasses.replace(part, config=config, applied=(*part.applied, *map(written, overrides)))


def _undecided(part: Part, lines: Sequence[Fix], *, keys_free: bool) -> FitError:
    what = " ".join(f"{_place(part, name)}=auto" for name in (["key", "rules"] if keys_free else ["rules"]))
    ways = f"in {len(lines)} ways, so none is chosen" if len(lines) > 1 else "in no way that auto may choose"
    return FitError(
        f"{what}: {shown_path(part.checkpoint.path)} gets the names of the other file {ways}",
        *lines,
        line(_place(part, "rules"), {}, note="compares the names as they are") if not lines else Fix(),
    )


def _problem(part: Part, names: Mapping[str, Wanted]) -> Problem:
    own = {part.full(key): want for key, want in below(part.name, names)}

    def namesakes(offered: Mapping[str, Offered], _: object) -> Hooked:
        taken = {key: Taken(key, want.shape or (), want.dtype) for key, want in own.items() if key in offered}
        return Hooked(taken, tuple(key for key in offered if key not in taken))

    return Problem(
        part=part.name,
        root=part.checkpoint.root,
        wanted=own,
        hooks=namesakes,
        key=part.config.checkpoint.key,
        rules=part.config.rules,
        listed=part.listed,
    )


def _place(part: Part, setting: str) -> str:
    plain = setting == "rules" and not part.name and not part.listed
    return setting if plain else config_path(part.name, setting, listed=part.listed)


def improved(parts: Sequence[Part], error: FitError) -> FitError:
    """Adds the nested keys that hold tensors to the refusal of one that does not."""
    lines = [
        typed(
            key_override(_place(part, "key"), found.key or None),
            note=f"{counted(len(found.names), 'tensor')}, {found.role}",
        )
        for part in parts
        if not _holds_tensors(part)
        for found in candidates(part.checkpoint.root)[:_MOST_KEYS]
    ]
    return FitError(error.message, *(lines or error.fixes))


def _holds_tensors(part: Part) -> bool:
    found = find(part.checkpoint.root, part.config.checkpoint.key)
    return isinstance(found, Container) and bool(found.tensors())
