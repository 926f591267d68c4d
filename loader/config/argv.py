"""From what a user types to what Hydra takes.

Guarantees: a pure function of the arguments and of which files exist; what Hydra takes as it was meant is passed on
unchanged, so are flags and everything about ``hydra`` itself; the tables below say everything that is rewritten.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import QuotedString, Sweep

from ..errors import ConfigError
from ..schema import CheckpointConfig
from ..text.lines import quoted, typed
from ..text.wording import counted, listing, safe_text
from .files import expand_glob, is_glob
from .literals import as_typed, literal, real_key, stand_in
from .quoting import Refused, is_function, parse_value, split_elements
from .replacing import CLEARED, forgotten, is_literal, is_null, standing

_PATH = re.compile(r"checkpoint\.path|parts\.[^.]+\.path")
"""Values that name files to read: glob(...) finds them."""

_TEXT = re.compile(
    r"(checkpoint|parts\.[^.]+)\.(path|key|sha256)|verify\.golden|(convert|scaffold)\.path|verify\.input\.([^.]+\.)*path"
    r"|(parts\.[^.]+\.)?rules\.[^.]+\.(strip|add|rename|regex|drop|keep|to)"
)
"""Values that are text whatever they look like: `1e5` is no number here, and `=` needs no quotes."""

GROUPS = ("model", "checkpoint", "rules", "experiment")
"""Config groups of the defaults list: `+group=option` means `group=option`."""

FREE = ("model", "rules", "parts", "verify.input")
"""Nodes without a fixed set of keys: a dotted key below them may be new."""

_BRACKETS = ("{", "[")
_OF_A_PART = (*(field.name for field in dataclasses.fields(CheckpointConfig)), "rules")
_CLEAR_GROUP = "+hydra/clear"

_OVERRIDE = re.compile(r"(\+{0,2})([A-Za-z_][\w.$-]*)=(.*)", re.DOTALL)

_VALUE_FLAGS = re.compile(r"--cfg|-c|--package|-p|--config-(path|name|dir)|-c[pnd]|--experimental-rerun")
_INFO_FLAGS = ("--info", "-i")
_COMPLETION_FLAGS = ("--shell-completion", "-sc")
_SHOW_FLAGS = ("--cfg", "-c", *_INFO_FLAGS, "--help", "-h", "--hydra-help", "--version", *_COMPLETION_FLAGS)
"""Those with which nothing is run."""
_LONGEST = 400
_JSON = "--json"
"""The loader's own flag; the others are Hydra's."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """A command line, sorted out."""

    flags: list[str]
    typed: list[str]
    sweep: bool
    completion: bool
    json: bool = False
    """Whether the report goes to stdout as JSON."""

    def rewritten(self) -> list[str]:
        """Returns the arguments to hand to Hydra; overrides come first, so that they may stand around flags."""
        if self.completion:
            return [*self.typed, *self.flags]
        return [*rewrite(self.typed, sweep=self.sweep), *self.flags]

    @property
    def shows(self) -> bool:
        """Whether something is only shown, and nothing run."""
        return any(flag.partition("=")[0] in _SHOW_FLAGS for flag in self.flags)

    def as_sweep(self) -> Arguments:
        """Returns the same arguments, read as those of a sweep; raises ConfigError where flags contradict that."""
        if self.json:
            instead = "summary.json in the sweep's folder names the report.json of each job"
            raise ConfigError(
                f"{_JSON} prints the report of one run, and a sweep has several",
                f"the same line without {_JSON}   # {instead}",
            )
        return dataclasses.replace(self, sweep=True)


def parse_arguments(arguments: Sequence[str]) -> Arguments:
    """Tells flags, with their values, from overrides; raises ConfigError where flags contradict each other."""
    flags: list[str] = []
    typed: list[str] = []
    queue = [argument for argument in arguments if argument != _JSON]
    json = len(queue) < len(arguments)
    while queue:
        argument = queue.pop(0)
        if not argument.startswith("-"):
            typed.append(argument)
            continue
        flags.append(argument)
        takes_next = _VALUE_FLAGS.fullmatch(argument) or (
            argument in _INFO_FLAGS and queue and not re.search("=|^-", queue[0])
        )
        if takes_next and queue:
            flags.append(queue.pop(0))
    sweep = any(f == "-m" or (len(f) > 3 and "--multirun".startswith(f)) for f in flags)
    sweep = sweep or any(override.lstrip("+").lower() == "hydra.mode=multirun" for override in typed)
    parsed = Arguments(flags, typed, False, any(flag in _COMPLETION_FLAGS for flag in flags), json)
    return parsed.as_sweep() if sweep else parsed


def rewrite(
    overrides: Sequence[str], *, sweep: bool = False, exists: Callable[[str], bool] = os.path.lexists
) -> list[str]:
    """Rewrites overrides so that what was typed means what it says.

    Args:
        overrides: ``key=value`` as typed, without the shell's quotes.
        sweep: Whether an unquoted comma separates values. In a single run it belongs to the name where a file of
            that name exists, or where Hydra refuses the text anyway.
        exists: Says whether a file of that name is there.

    Returns:
        Overrides in Hydra's grammar, in the same order.

    Raises:
        ConfigError: A glob without a match or, in a single run, with several; a sweep that mixes a group's options
            with literals.
    """
    matches = standing([(_OVERRIDE.fullmatch(override), override) for override in overrides])
    literals = [(m[2], m[3]) for m, _ in matches if m and not m[1] and _replaces_group(m[2], m[3], sweep=sweep)]
    free = (*FREE, *(key for key, _ in literals))
    rewritten: list[str] = []
    for match, override in matches:
        if match is None or match[2].startswith("hydra."):
            rewritten.append(override)
        else:
            rewritten += _rewrite_one(match[1], _with_one_name(match[2]), match[3], free, sweep=sweep, exists=exists)
    cleared = dict.fromkeys(name for key, value in literals for name in forgotten(key, value))
    return [f"{_CLEAR_GROUP}=[{','.join(cleared)}]", *rewritten] if cleared else rewritten


def readable(overrides: Sequence[str]) -> list[str]:
    """Turns rewritten overrides back into what could have been typed, one by one where that means the same."""
    replaced = {match[2] for override in overrides if (match := _OVERRIDE.fullmatch(override)) and match[1] == "+"}
    shown = []
    for override in overrides:
        match = _OVERRIDE.fullmatch(override)
        if match is None or (match[1] == "++" and match[2] in replaced and is_null(match[3])):
            shown += [override] if match is None else []
        else:
            shown.append(_readable_one(match, override))
    return shown


def _readable_one(match: re.Match[str], override: str) -> str:
    value = parse_value(match[3])
    text = value.text if isinstance(value, QuotedString) and _TEXT.fullmatch(match[2]) else match[3]
    key = ".".join(str(real_key(name)) for name in match[2].split("."))
    for candidate in (f"{key}={text}", f"{key}={as_typed(match[3])}"):
        if override in rewrite([candidate], exists=_nothing):
            return candidate
    return override


def _with_one_name(key: str) -> str:
    """Writes the name of a part, which may be dotted, as one segment: ``parts.encoder.0.key`` is a key of that part."""
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
        # Two spellings, since a sweeper keeps only the last override of one spelling; `+` merges into null, which
        # replaces.
        return [f"++{key}=null", f"+{key}={value}"]
    return [f"++{key}={value}" if inside else f"{plus}{key}={value}"]


def _group(plus: str, key: str, value: str, *, sweep: bool) -> list[str]:
    elements = _elements(value, sweep=sweep)
    literals = [element for element in elements if is_literal(element, key)]
    if not literals:
        return [f"{key}={value}"]
    if plus:
        return [f"{plus}{key}={','.join(literal(element, key) for element in elements)}"]
    if len(elements) > 1 and (len(literals) < len(elements) or any(map(is_null, elements))):
        raise ConfigError(
            f"'{key}={value}' sweeps over literal values and over something else; only options of the group '{key}', "
            "or only {...} values, were expected",
            typed(
                f"{key}=NAME,OTHER", note=f"with the literal in a file of its own, {key}/NAME.yaml, and --config-dir"
            ),
        )
    return [] if is_null(value) else [f"++{key}={','.join(literal(element, key) for element in elements)}"]


def _text(key: str, value: str, *, sweep: bool, exists: Callable[[str], bool]) -> str:
    names_file = key.endswith(("path", "golden"))
    there = exists if names_file else _nothing
    parts = split_elements(value)
    if _PATH.fullmatch(key) and any(map(is_glob, parts)):
        return _expanded(key, value, parts, sweep=sweep)
    if len(parts) > 1 and not sweep and not there(value):
        if parse_value(value) is not Refused:
            return value  # Hydra's refusal, made readable, says that several values need -m
        if all(there(part.strip()) for part in parts):
            raise _several(key, value)
    # Hydra passes over spaces beside the comma that separates values.
    elements = [part.strip() for part in parts] if sweep else [value]
    return ",".join(_text_element(element, there, escapes=names_file) for element in elements)


def _several(key: str, value: str) -> ConfigError:
    hint = typed("-m", f"{key}={value}", note="one job for each")
    return ConfigError(f"'{safe_text(f'{key}={value}', _LONGEST)}' gives several values to a single run", hint)


def _expanded(key: str, value: str, elements: list[str], *, sweep: bool) -> str:
    paths: list[str] = []
    for element in elements:
        paths += expand_glob(key, element) if is_glob(element) else [element.strip()]
    if len(paths) > 1 and not sweep:
        raise ConfigError(
            f"'{key}={value}' matches {counted(len(paths), 'file')} ({listing(paths)}); a single run takes one",
            typed("-m", f"{key}={value}", note="one job for each"),
        )
    return ",".join(map(quoted, paths))


def _text_element(element: str, exists: Callable[[str], bool], *, escapes: bool) -> str:
    """Quotes one value if Hydra would refuse it, or make something else of it."""
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
    """Says whether a value is written in Hydra's grammar on purpose."""
    if isinstance(parsed, (QuotedString, Sweep)) or is_function(element):
        return True
    # In a regular expression a backslash is the expression's own.
    return isinstance(parsed, str) and ("${" in element or (escapes and "\\" in element))


def _replaces_group(key: str, value: str, *, sweep: bool) -> bool:
    return key in CLEARED and any(is_literal(element, key) for element in _elements(value, sweep=sweep))


def _elements(value: str, *, sweep: bool) -> list[str]:
    return split_elements(value) if sweep else [value]


def _nothing(_path: str) -> bool:
    return False
