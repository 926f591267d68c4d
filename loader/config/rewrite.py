"""Rewrites typed overrides into Hydra's grammar.

Guarantees: a pure function of the overrides and of which files exist. Overrides that Hydra reads as meant, and those of
``hydra`` itself, are passed on unchanged; the tables below list everything that is rewritten. An override that a later
one replaces has no effect on the config. A list that a config group cannot take is refused with a line that it can.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import QuotedString, Sweep

from ..errors import ConfigError
from ..schema import CheckpointConfig
from ..text.lines import Fix, program, quoted, typed
from ..text.wording import counted, listing, safe_text
from .argv import Arguments, expand_glob, is_glob
from .grammar import Refused, as_typed, is_function, literal, parse_value, real_key, split_elements, stand_in

_PATH = re.compile(r"checkpoint\.path|parts\.[^.]+\.path")
"""Values that name files to read, so that glob(...) finds them."""

_TEXT = re.compile(
    r"(checkpoint|parts\.[^.]+)\.(path|key|sha256)|verify\.golden|(convert|scaffold)\.path|verify\.input\.([^.]+\.)*path"
    r"|(parts\.[^.]+\.)?rules\.[^.]+\.(strip|add|rename|regex|drop|keep|to)"
)
"""Values that are always text: `1e5` is not a number here, and `=` needs no quotes."""

GROUPS = ("model", "checkpoint", "rules", "experiment")
"""Config groups in the defaults list: `+group=option` means `group=option`."""

FREE = ("model", "rules", "parts", "verify.input")
"""Nodes without a fixed set of keys: a dotted key below them may be new."""

_BRACKETS = ("{", "[")
_OF_A_PART = (*(field.name for field in dataclasses.fields(CheckpointConfig)), "rules")
_CLEAR_GROUP = "+hydra/clear"

_OVERRIDE = re.compile(r"(\+{0,2})([A-Za-z_][\w.$-]*)=(.*)", re.DOTALL)

CLEARED = {"model": ("model", "verify.input"), "checkpoint": ("checkpoint",), "rules": ("rules",)}
"""Groups that a literal replaces, with the nodes it clears: an input belongs to the model it was written for."""

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
    return [f"{_CLEAR_GROUP}=[{','.join(cleared)}]", *rewritten] if cleared else rewritten


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
    text = value.text if isinstance(value, QuotedString) and _TEXT.fullmatch(match[2]) else match[3]
    key = ".".join(str(real_key(name)) for name in match[2].split("."))
    for candidate in (f"{key}={text}", f"{key}={as_typed(match[3])}"):
        if override in rewrite([candidate], exists=set().__contains__):
            return candidate
    return override


def _with_one_name(key: str) -> str:
    """Writes a part's name, which may be dotted, as one segment: ``parts.encoder.0.key`` is a key of that part."""
    section, *names = key.split(".")
    at = next((at for at, name in enumerate(names) if at and name in _OF_A_PART), 0)
    if section != "parts" or at < 2 or (names[at] != "rules" and at + 1 < len(names)):
        return key
    return ".".join([section, stand_in(".".join(names[:at]), dotted=True), *names[at:]])


def _rewrite_one(
    plus: str, key: str, value: str, free: Sequence[str], *, sweep: bool, exists: Callable[[str], bool]
) -> list[str]:
    if key in GROUPS:
        return _group(plus, key, value, sweep=sweep)
    if _TEXT.fullmatch(key):
        value = _text(key, value, sweep=sweep, exists=exists)
    elif value.lstrip()[:1] in _BRACKETS:
        value = ",".join(literal(element, key) for element in _elements(value, sweep=sweep))
    inside = any(key.startswith(f"{node}.") for node in free)
    if not plus and (inside or key in free) and any(e.lstrip()[:1] in _BRACKETS for e in _elements(value, sweep=sweep)):
        # Two spellings, since a sweeper keeps only the last override of each; `+` merges into null, so it replaces.
        return [f"++{key}=null", f"+{key}={value}"]
    return [f"++{key}={value}" if inside else f"{plus}{key}={value}"]


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


def _text(key: str, value: str, *, sweep: bool, exists: Callable[[str], bool]) -> str:
    names_file = key.endswith(("path", "golden"))
    is_there = exists if names_file else set().__contains__
    parts = split_elements(value)
    if _PATH.fullmatch(key) and any(map(is_glob, parts)):
        return _expanded(key, value, parts, sweep=sweep)
    if len(parts) > 1 and not sweep and not is_there(value):
        if parse_value(value) is not Refused:
            return value  # Hydra refuses it, and `messages` explains that several values need -m
        if all(is_there(part.strip()) for part in parts):
            fix = typed("-m", f"{key}={value}", note="one job for each")
            raise ConfigError(
                f"'{safe_text(f'{key}={value}', _LONGEST)}' has several values, but a single run accepts one", fix
            )
    # Hydra ignores spaces next to the comma that separates values.
    elements = [part.strip() for part in parts] if sweep else [value]
    return ",".join(_text_element(element, is_there, escapes=names_file) for element in elements)


def _expanded(key: str, value: str, elements: list[str], *, sweep: bool) -> str:
    paths: list[str] = []
    for element in elements:
        paths += expand_glob(key, element) if is_glob(element) else [element.strip()]
    if len(paths) > 1 and not sweep:
        raise ConfigError(
            f"'{key}={value}' matches {counted(len(paths), 'file')} ({listing(paths)}); a single run accepts one",
            typed("-m", f"{key}={value}", note="one job for each"),
        )
    return ",".join(map(quoted, paths))


def _text_element(element: str, exists: Callable[[str], bool], *, escapes: bool) -> str:
    """Quotes one value if Hydra would refuse or change it."""
    parsed = parse_value(element)
    if parsed is Refused:
        return quoted(element)
    if parsed is None:
        return element
    unchanged = isinstance(parsed, str) and parsed == element and "${" not in element
    if unchanged or (not exists(element) and _is_meant_for_hydra(element, parsed, escapes=escapes)):
        return element
    return quoted(element)


def _is_meant_for_hydra(element: str, parsed: Any, *, escapes: bool) -> bool:
    """Returns whether a value is in Hydra's grammar on purpose."""
    if isinstance(parsed, (QuotedString, Sweep)) or is_function(element):
        return True
    # In a regular expression, a backslash belongs to the expression.
    return isinstance(parsed, str) and ("${" in element or (escapes and "\\" in element))


def _replaces_group(key: str, value: str, *, sweep: bool) -> bool:
    return key in CLEARED and any(_is_literal(element, key) for element in _elements(value, sweep=sweep))


def _elements(value: str, *, sweep: bool) -> list[str]:
    return split_elements(value) if sweep else [value]


def _standing(matches: Sequence[_Match]) -> Sequence[_Match]:
    """Leaves out overrides that a later one replaces: those of a group before its literal, and earlier rules."""
    last = {match[2]: at for at, (match, _) in enumerate(matches) if match and _replaces(match)}
    return [
        (match, override)
        for at, (match, override) in enumerate(matches)
        if not any(at < end and _is_replaced(match, override, key) for key, end in last.items())
    ]


def _replaces(match: re.Match[str]) -> bool:
    # `+rules={...}` adds rules, where `+rules=[ddp]` is one more way to choose options.
    return match[2] in CLEARED and not (match[1] and _is_literal(match[3], match[2]))


def _is_replaced(match: re.Match[str] | None, override: str, key: str) -> bool:
    typed_key = match[2] if match else override.removeprefix("~").partition("=")[0]
    return typed_key == key or (key == "rules" and typed_key.startswith("rules."))


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


def refused_list(overrides: Sequence[str]) -> ConfigError | None:
    """Refuses the first override of a group whose list contains anything but names; None if there is none."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        elements = [element.strip() for element in split_elements(value)]
        for element in elements:
            others = [(text, data) for text, data in _listed(element) if not isinstance(data, (str, QuotedString))]
            if others:
                return _refusal(key, elements, element, others)
    return None


def _listed(element: str) -> Iterator[tuple[str, Any]]:
    """The items of a list, as typed and as Hydra's grammar reads them."""
    data = parse_value(literal(element))
    texts = split_elements(element[1:-1])
    if isinstance(data, list) and len(texts) == len(data):
        yield from zip((text.strip() for text in texts), data, strict=True)


def _refusal(key: str, elements: Sequence[str], element: str, others: Sequence[tuple[str, Any]]) -> ConfigError:
    first, data = others[0]
    kind = "a mapping" if isinstance(data, Mapping) else "a list" if isinstance(data, list) else "not a name"
    fault = f"'{safe_text(f'{key}={element}', _LONGEST)}' lists {safe_text(first, _LONGEST)}, which is {kind}"
    own = "; your own rules are a mapping from names to rules" if key == "rules" else ""
    expected = f"the group '{safe_text(key)}' takes the names of its options{own}"
    return ConfigError(f"{fault}; {expected}", *_lines(key, elements, element, others))


def _lines(key: str, elements: Sequence[str], element: str, others: Sequence[tuple[str, Any]]) -> list[Fix]:
    first, data = others[0]
    if not isinstance(data, Mapping) or key not in ("rules", "model", "checkpoint"):
        return [Fix(f"{program()} --help", "lists the groups and their options")]
    content, option = (_named(first, data), "[mine]") if key == "rules" else (first, "mine")
    if len(elements) > 1:
        swept = ",".join(option if other == element else other for other in elements)
        file = Fix(note=f"FOLDER/{key}/mine.yaml holds {content}")
        return [typed("-m", f"{key}={swept}", "--config-dir", "FOLDER"), file]
    names = ",".join(text for text, member in _listed(element) if isinstance(member, (str, QuotedString)))
    chosen = [f"rules=[{names}]"] if names and key == "rules" else []
    return [typed(*chosen, f"{'+' if key == 'rules' else ''}{key}={content}")]


def _named(text: str, data: Mapping[Any, Any]) -> str:
    """Gives a rule a name, unless it has one."""
    return text if all(isinstance(value, Mapping) for value in data.values()) else f"{{mine: {text}}}"
