"""Rewrites typed overrides into Hydra's grammar.

Guarantees: a pure function of the overrides, of which files exist, and of which devices there are. Overrides that Hydra
reads as meant, and those of ``hydra`` itself, are passed on unchanged; the tables below list everything that is
rewritten. An override that a later one replaces has no effect on the config.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence

from hydra.core.override_parser.types import QuotedString

from ..errors import ConfigError
from ..schema import CheckpointConfig
from ..text.lines import typed
from ..text.wording import counted, safe_text
from .argv import Arguments
from .calls import refuse_mistyped_calls
from .devices import EVERY, each_device
from .elements import split_elements
from .globs import refuse_counts
from .grammar import as_typed, literal, parse_value, real_key, stand_in
from .texts import TEXT, for_text
from .zips import is_zip, packed, read_zip

GROUPS = ("model", "checkpoint", "rules", "evaluate", "track", "experiment")
"""Config groups in the defaults list: `+group=option` means `group=option`."""

FREE = ("model", "rules", "adapters", "parts", "compare.rules", "verify.input", "evaluate")
"""Nodes without a fixed set of keys, or that may be null: a dotted key below them may be new."""

_BRACKETS = ("{", "[")
_OF_A_PART = (*(field.name for field in dataclasses.fields(CheckpointConfig)), "rules", "adapters")
CLEAR_GROUP = "hydra/clear"
"""The group whose options clear what was composed for a node."""

_OVERRIDE = re.compile(r"(\+{0,2})([A-Za-z_][\w.$-]*)=(.*)", re.DOTALL)

CLEARED = {
    "model": ("model", "verify.input"), "checkpoint": ("checkpoint",), "rules": ("rules",), "evaluate": ("evaluate",),
}  # fmt: skip
"""Groups that a literal replaces, with the nodes it clears: an input belongs to the model it was written for."""

_MEASURES = "evaluate"
"""The group that may be typed key by key while it is null; `~evaluate` means `evaluate=null`."""

_Match = tuple[re.Match[str] | None, str]
"""An override with its sign, key and value; None if it has another form."""

_LONGEST = 400


def for_hydra(arguments: Arguments) -> list[str]:
    """Returns the arguments for Hydra; overrides come first, so that they may be typed between flags."""
    if arguments.completion:
        return [*arguments.typed, *arguments.flags]
    return [*rewrite(arguments.typed, sweep=arguments.sweep), *arguments.flags]


def rewrite(
    overrides: Sequence[str], *, sweep: bool = False, exists: Callable[[str], bool] = os.path.lexists
) -> list[str]:
    """Rewrites overrides so that Hydra reads them as they were meant.

    Args:
        overrides: ``key=value`` as typed, without the shell's quotes.
        sweep: Whether an unquoted comma separates values. In a single run it belongs to the name if a file of that
            name exists, or if Hydra refuses the text anyway.
        exists: Returns whether a file of that name exists.

    Returns:
        Overrides in Hydra's grammar, in the same order.

    Raises:
        ConfigError: A glob without a match or, in a single run, with several; a sweep that mixes options of a group
            with literals.
    """
    overrides = [one for override in overrides for one in _unzipped(override, sweep=sweep, exists=exists)]
    overrides = [f"{_MEASURES}=null" if override == f"~{_MEASURES}" else override for override in overrides]
    matches = _standing([(_OVERRIDE.fullmatch(override), override) for override in overrides])
    literals = [(m[2], m[3]) for m, _ in matches if m and not m[1] and _replaces_group(m[2], m[3], sweep=sweep)]
    free = (*FREE, *(key for key, _ in literals))
    rewritten: list[str] = []
    for match, override in matches:
        if match is None or match[2].startswith("hydra."):
            rewritten.append(override)
        else:
            rewritten += _rewrite_one(match[1], _with_one_name(match[2]), match[3], free, sweep=sweep, exists=exists)
    cleared = dict.fromkeys(name for key, value in literals for name in _cleared(key, value))
    return [f"+{CLEAR_GROUP}=[{','.join(cleared)}]", *rewritten] if cleared else rewritten


def _unzipped(override: str, *, sweep: bool, exists: Callable[[str], bool]) -> list[str]:
    """Returns what stands for ``NAME=zip(...)``; any other override as it is."""
    match = _OVERRIDE.fullmatch(override)
    if match is None or not is_zip(match[3]):
        return [override]
    jobs = read_zip(match[2], match[3])
    if not sweep and len(jobs) == 1:
        return jobs[0]
    if not sweep:
        raise ConfigError(
            f"'{safe_text(override, _LONGEST)}' has {counted(len(jobs), 'value')} for each key, but a single run "
            "accepts one",
            typed("-m", override, note="one job for each"),
        )
    return [packed(match[2], [rewrite(job, exists=exists) for job in jobs])]


def readable(overrides: Sequence[str]) -> list[str]:
    """Turns rewritten overrides back into ones that a user would type, if they mean the same."""
    replaced = {match[2] for override in overrides if (match := _OVERRIDE.fullmatch(override)) and match[1] == "+"}
    lines = []
    for override in overrides:
        match = _OVERRIDE.fullmatch(override)
        if match is None or (match[1] == "++" and match[2] in replaced and _is_null(match[3])):
            lines += [override] if match is None else []
        else:
            lines.append(_readable_one(match, override))
    return lines


def _readable_one(match: re.Match[str], override: str) -> str:
    value = parse_value(match[3])
    text = value.text if isinstance(value, QuotedString) and TEXT.fullmatch(match[2]) else match[3]
    key = ".".join(str(real_key(name)) for name in match[2].split("."))
    if isinstance(value, str) and parse_value(value) == value:
        return f"{key}={value}"  # a sweeper escapes what needs no backslash, as in cuda\\:0
    for candidate in (f"{key}={text}", f"{key}={as_typed(match[3])}"):
        if _means(candidate, override):
            return candidate
    return override


def _means(candidate: str, override: str) -> bool:
    try:
        return override in rewrite([candidate], exists=set().__contains__)
    except ConfigError:
        return False  # a text that looks like a call


def _with_one_name(key: str) -> str:
    """Writes a part's name, which may be dotted, as one segment: ``parts.encoder.0.key`` is a key of that part."""
    section, *names = key.split(".")
    at = next((at for at, name in enumerate(names) if at and name in _OF_A_PART), 0)
    if section != "parts" or at < 2 or (names[at] not in ("rules", "adapters") and at + 1 < len(names)):
        return key
    return ".".join([section, stand_in(".".join(names[:at]), dotted=True), *names[at:]])


def _rewrite_one(
    plus: str, key: str, value: str, free: Sequence[str], *, sweep: bool, exists: Callable[[str], bool]
) -> list[str]:
    if not TEXT.fullmatch(key):
        refuse_mistyped_calls(key, value)
        for element in split_elements(value):
            refuse_counts(key, element)
    if key in GROUPS:
        return _group(plus, key, value, sweep=sweep)
    if TEXT.fullmatch(key):
        value = for_text(key, value, sweep=sweep, exists=exists)
    elif key == "device":
        value = _devices(value, sweep=sweep)
    elif value.lstrip()[:1] in _BRACKETS:
        value = ",".join(literal(element, key) for element in _elements(value, sweep=sweep))
    inside = any(key.startswith(f"{node}.") for node in free)
    if not plus and (inside or key in free) and any(e.lstrip()[:1] in _BRACKETS for e in _elements(value, sweep=sweep)):
        # Two spellings, since a sweeper keeps only the last override of each; `+` merges into null, so it replaces.
        return [f"++{key}=null", f"+{key}={value}"]
    return [f"++{key}={value}" if inside else f"{plus}{key}={value}"]


def _devices(value: str, *, sweep: bool) -> str:
    elements = [device for element in split_elements(value) for device in each_device(element)]
    if len(elements) > 1 and not sweep and EVERY in value:
        fix = typed("-m", f"device={value}", note="one job for each")
        raise ConfigError(f"'device={value}' stands for {', '.join(elements)}, but a single run accepts one", fix)
    return ",".join(elements)


def _group(plus: str, key: str, value: str, *, sweep: bool) -> list[str]:
    elements = _elements(value, sweep=sweep)
    literals = [element for element in elements if _is_literal(element, key)]
    if not literals:
        return [f"{key}={value}"]
    if plus:
        return [f"{plus}{key}={','.join(literal(element, key) for element in elements)}"]
    if len(elements) > 1 and (len(literals) < len(elements) or any(map(_is_null, elements))):
        raise ConfigError(
            f"'{key}={value}' mixes literal values with others in a sweep; expected only options of the group '{key}', "
            "or only {...} values",
            typed(f"{key}=NAME,OTHER", note=f"with the literal in its own file, {key}/NAME.yaml, and --config-dir"),
        )
    return [] if _is_null(value) else [f"++{key}={','.join(literal(element, key) for element in elements)}"]


def _replaces_group(key: str, value: str, *, sweep: bool) -> bool:
    return key in CLEARED and any(_is_literal(element, key) for element in _elements(value, sweep=sweep))


def _elements(value: str, *, sweep: bool) -> list[str]:
    return split_elements(value) if sweep else [value]


def _standing(matches: Sequence[_Match]) -> Sequence[_Match]:
    """Leaves out overrides that a later one replaces: those of a group before its literal, and earlier rules."""
    last = [(match[2], match[3], at) for at, (match, _) in enumerate(matches) if match and _replaces(match)]
    return [
        (match, override)
        for at, (match, override) in enumerate(matches)
        if not any(at < end and _is_replaced(match, override, key, value) for key, value, end in last)
    ]


def _replaces(match: re.Match[str]) -> bool:
    # `+rules={...}` adds rules, where `+rules=[ddp]` is one more way to choose options.
    return match[2] in CLEARED and not (match[1] and _is_literal(match[3], match[2]))


def _is_replaced(match: re.Match[str] | None, override: str, key: str, value: str) -> bool:
    typed_key = match[2] if match else override.removeprefix("~").partition("=")[0]
    # `evaluate=null` is the line that measures nothing, whatever was typed before it.
    with_keys = key == "rules" or (key == _MEASURES and _is_null(value))
    return typed_key == key or (with_keys and typed_key.startswith(f"{key}."))


def _cleared(key: str, value: str) -> Sequence[str]:
    """Names the nodes that are cleared when a group is set to a literal."""
    # model=null takes the model from the file: the input declared for it stays valid.
    return (key,) if _is_null(value) else CLEARED[key]


def _is_literal(element: str, key: str) -> bool:
    """Returns whether a group's value is a literal rather than the name of an option."""
    # rules=[ddp,compile] chooses options of the group; other groups take one option.
    return element.lstrip()[:1] == "{" or (_is_null(element) and key in CLEARED)


def _is_null(value: str) -> bool:
    return value.strip().lower() == "null"
