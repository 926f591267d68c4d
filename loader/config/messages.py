"""Hydra's and OmegaConf's refusals, in the loader's words.

Guarantees: whatever Hydra refuses becomes one `ConfigError` that says what was found, what was expected and which line
to type; an exception that is not about the config comes back as None, so that no bug is dressed up as a user's error.
The patterns below are what Hydra 1.3 writes; a text that none of them knows is passed on as it stands.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError
from ..files.path import path_override
from ..formats.signatures import ENDINGS
from ..text.lines import Fix, line, program, typed
from ..text.wording import closest, did_you_mean, listing, safe_text
from .grammar import Refused, parse_value
from .layers import primaries, users_file, without_package
from .rewrite import FREE, GROUPS, refused_list
from .sections import known_keys, suggestion

_LONGEST = 400
_MOST_OPTIONS = 30

_Told = tuple[str, *tuple[Fix, ...]]
"""A message and its fixes."""

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
"""A class by its module."""


def translate(error: Exception, overrides: Sequence[str] = ()) -> ConfigError | None:
    """Turns an exception into a refusal.

    Args:
        error: What Hydra, OmegaConf or the YAML reader raised.
        overrides: What was to be composed, for refusals that do not say what they are about.

    Returns:
        The refusal; None where the exception is about no config.
    """
    if isinstance(error, ConfigError):
        return error
    if isinstance(error, OverrideParseException):
        return _refused_list([error.override]) or ConfigError(*_unparsable(error))
    if isinstance(error, MissingConfigException):
        return ConfigError(*_missing_config(error))
    if isinstance(error, yaml.YAMLError):
        return ConfigError(f"a config file is not valid YAML: {_one_line(str(error))}")
    if isinstance(error, OmegaConfBaseException):
        return ConfigError(*_omegaconf(error))
    if isinstance(error, (HydraException, OSError)) or (isinstance(error, ValueError) and _is_hydras(error)):
        return ConfigError(*_composition(error, overrides))
    if isinstance(error, TypeError) and _is_hydras(error):
        return _refused_list(overrides)
    return None


def _is_hydras(error: Exception) -> bool:
    """Says whether Hydra or OmegaConf raised what anybody may raise, rather than a job that runs under them."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get("__name__")).startswith(("hydra.", "omegaconf."))


def _refused_list(overrides: Sequence[str]) -> ConfigError | None:
    """Tells a list with more than names in it, where a group is meant: one of the loader's or of the user's own."""
    no_groups = set(known_keys()).difference(GROUPS)
    return refused_list([one for one in overrides if one.lstrip("+").partition("=")[0] not in no_groups])


def _names_file(text: str) -> bool:
    """Whether a text in the wrong place is the path of a checkpoint."""
    return bool(text) and (os.path.lexists(text) or text.endswith(ENDINGS) or "://" in text)


def _unparsable(error: OverrideParseException) -> _Told:
    shown = safe_text(error.override, _LONGEST)
    key, equals, value = error.override.partition("=")
    if not equals:
        hint = path_override(key) if _names_file(key) else _show_keys() if _is_unknown(key) else line(key, "VALUE")
        return f"'{shown}' is no override; key=value was expected", hint
    if _is_unknown(key):
        return _no_such_key(key, value)
    lines = [line.strip() for line in str(error.message).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Error parsing override", "See https", "^"))]
    reason = f": {safe_text(reasons[0], _LONGEST)}" if reasons else ""
    told = f"the value of '{shown}' is not in Hydra's grammar{reason}"
    closed = value + _closing(value)
    if closed != value and parse_value(closed) is not Refused:
        return f"{told}; the brackets in it have to be closed", typed(f"{key.lstrip('+')}={closed}")
    return f"{told}; it has to stand in quotes, inside those of the shell", line(
        key.lstrip("+"), value, "+" * (len(key) - len(key.lstrip("+")))
    )


def _closing(value: str) -> str:
    """The brackets that are open at the end of a text."""
    still: list[str] = []
    for sign in value:
        if sign in "{[":
            still.append("}" if sign == "{" else "]")
        elif still and sign == still[-1]:
            still.pop()
    return "".join(reversed(still))


def _missing_config(error: MissingConfigException) -> _Told:
    text, name = str(error), str(error.missing_cfg_file or "")
    group, _, option = name.rpartition("/")
    section, _, file = name.partition("/")
    # Of a folder in a group Hydra lists the options of the group.
    options = _options(group, text, None if section in GROUPS and section != group else error.options)
    if section == "checkpoint" and (_names_file(file) or not options):
        told = f"'checkpoint' takes an option of its config group, not a file: '{safe_text(file, _LONGEST)}'"
        return told, path_override(file)
    if "primary config" in text or not group:
        near = closest(name, options, most=1)
        told = f"there is no config '{safe_text(name)}'{did_you_mean(name, options)}"
        hint = typed("--config-name", near[0]) if near else Fix("--config-name NAME --config-dir FOLDER")
        return f"{told}; there are: {listing(options, _MOST_OPTIONS) or 'none'}", hint
    by = re.match(r"In '(.+?)'", text)
    asked = f", which '{safe_text(by[1])}' asks for" if by and by[1] not in ("config", "hydra/config") else ""
    message = (
        f"the config group '{safe_text(group)}' has no option '{safe_text(option)}'{asked}"
        f"{did_you_mean(option, options)}; there are: {listing(options, _MOST_OPTIONS) or 'none'}"
    )
    if group == "hydra/launcher":
        return message, typed("pip", "install", f"hydra-{option}-launcher")
    if group == "model" and _DOTTED.fullmatch(option):
        return message, line("model._target_", option)
    near = closest(option, options, most=1)
    if not near:
        return message, _help("lists the groups and their options")
    return message, line(group, [near[0]] if group == "rules" else near[0])


def _options(group: str, text: str, options: Any) -> list[str]:
    """Lists the options of a group: Hydra's own list, or what is in the folders that it searched."""
    if options:
        return sorted(options)
    folders = [Path(found) / group for found in re.findall(r"path=file://(.+?)(?:['\n]|$)", text)]
    return sorted({file.stem for folder in folders if folder.is_dir() for file in folder.glob("*.yaml")})


def _omegaconf(error: OmegaConfBaseException) -> _Told:
    first = safe_text(next(iter(str(error).splitlines()), type(error).__name__), _LONGEST)
    # A resolver's own exception comes wrapped, its text as Python shows a KeyError's.
    first = re.sub(r"^\w+ raised while resolving interpolation: \"?(.+?)\"?$", r"\1", first)
    where = error.full_key or ""
    place = f" (at '{safe_text(where)}')" if where else ""
    return f"the config cannot be resolved{place}: {first}", line(where, "VALUE") if where else _show_keys()


def _unknown_key(found: re.Match[str]) -> _Told:
    return _no_such_key(found["key"], found["value"])


def _own_key(found: re.Match[str], cause: BaseException | None) -> _Told:
    """Tells an unknown key; where none of the loader's keys was meant, one of a user's own config may be."""
    key, value = found["key"], found["value"]
    node = getattr(cause, "parent_node", None)
    if suggestion(key) is None and isinstance(node, DictConfig):
        above = str(node._get_full_key(None))  # noqa: SLF001  # it has no public name
        name, _, below = key.removeprefix(f"{above}.").partition(".")
        near = closest(name, [str(own) for own in node if own != "hydra"], most=1)
        if near:
            meant = ".".join(filter(None, (above, near[0], below)))
            told = f"unknown config key '{safe_text(key)}' (did you mean '{safe_text(meant)}'?)"
            return told, typed(f"{meant}={value}")
    return _no_such_key(key, value)


def _is_unknown(key: str) -> bool:
    bare = key.lstrip("+~")
    return bare not in known_keys() and not bare.startswith((*(f"{node}." for node in FREE), "hydra"))


def _no_such_key(key: str, value: str) -> _Told:
    if os.path.lexists(f"{key}={value}"):
        shown = safe_text(f"{key}={value}", _LONGEST)
        return f"'{shown}' is a file and no override; key=value was expected", path_override(f"{key}={value}")
    meant = suggestion(key)
    told = f" (did you mean '{safe_text(meant)}'?)" if meant else ""
    hint = typed(f"{meant}={value}") if meant else _show_keys()
    return f"unknown config key '{safe_text(key)}'{told}", hint


def _several_values(found: re.Match[str]) -> _Told:
    override = found["override"]
    key, _, value = override.partition("=")
    hints = [typed("-m", override, note="one job for each")]
    if key == "rules":
        hints.insert(0, typed(f"rules=[{value}]", note="all of them, in order"))
    elif key not in GROUPS:
        hints.append(line(key, value, note="one value with a comma in it"))
    return f"'{safe_text(override, _LONGEST)}' gives several values to a single run", *hints


def _already_there(found: re.Match[str]) -> _Told:
    return f"'{safe_text(found['key'])}' is there already, and + only adds", typed(found["override"])


def _not_to_delete(found: re.Match[str]) -> _Told:
    key = found["key"]
    hint = Fix("'rules=[]'", "takes all rules away") if key == "rules" else _show_keys()
    return f"'~{safe_text(key)}' takes away what is not there", hint


def _not_in_defaults(found: re.Match[str]) -> _Told:
    # Hydra writes a list as Python does, which its own grammar takes with fewer signs.
    return f"'{safe_text(found['key'])}' is no group of the defaults list", typed(found["line"].replace("'", ""))


def _not_to_override(found: re.Match[str]) -> _Told:
    group = found["key"]
    if "@experiment." in group:
        refused = without_package(users_file(found["file"]), f"chooses '{safe_text(group)}', which has no effect")
        return refused.message, *refused.fixes
    told = f"'{safe_text(found['file'])}' overrides '{safe_text(group)}', which no defaults list before it chooses"
    own = primaries(group)
    note = "" if own else f"a config of yours whose defaults list has '- {safe_text(group)}: OPTION'"
    return told, typed("--config-name", own[0] if own else "NAME", note=note)


def _no_name(found: re.Match[str]) -> _Told:
    told = "a config group takes the name of an option or a list of names"
    return (
        f"{told}; a value of the type {found['kind']} was given",
        _help("lists the groups and their options"),
    )


def _merge(found: re.Match[str]) -> _Told:
    return f"'{safe_text(found['override'], _LONGEST)}' does not fit into the config", _show_keys()


def _no_group(found: re.Match[str]) -> _Told:
    return f"there is no config group '{safe_text(found['key'])}'", _help("lists the groups")


_OVERRIDE = r"Could not override '(?P<key>.+?)'\."

_KNOWN: tuple[tuple[str, Callable[[re.Match[str]], _Told]], ...] = (
    (_OVERRIDE + r"\nTo append to your config use \+[^=]*=(?P<value>.*)", _unknown_key),
    (_OVERRIDE + r"(?s:.*)\nTo append to your default list use (?P<line>\+.*)", _not_in_defaults),
    (r"In '(?P<file>.+?)': Could not override '(?P<key>.+?)'", _not_to_override),
    (r"Ambiguous value for argument '(?P<override>.+)'\n", _several_values),
    (r"Sweep parameters '(?P<override>.+)' requires --multirun", _several_values),
    (r"An item is already at '(?P<key>.+?)'(?s:.*)Either remove \+ prefix: '(?P<override>.+)'", _already_there),
    (r"Could not delete (?:from config\. )?'(?P<key>.+?)'(?: does not exist|\. No match)", _not_to_delete),
    (r"looks like a config group override, but config group '(?P<key>.+?)' does not exist", _no_group),
    (r"Config group override must be a string or a list\. Got (?P<kind>\w+)", _no_name),
    (r"Error merging override (?P<override>.+)", _merge),
)
"""What Hydra writes, and what is told instead; the first that matches."""


def _composition(error: Exception, overrides: Sequence[str]) -> _Told:
    text = str(error)
    for pattern, told in _KNOWN:
        found = re.search(pattern, text)
        if found:
            cause = error.__cause__
            message, *fixes = _own_key(found, cause) if told is _unknown_key else told(found)
            detail = f": {_one_line(str(cause), 1)}" if told is _merge and cause else ""
            return f"{message}{detail}", *fixes
    if not text.strip() and isinstance(error.__cause__, OmegaConfBaseException):
        return _omegaconf(error.__cause__)
    if isinstance(error, OSError) and error.strerror:
        place = safe_text(error.filename, _LONGEST) if error.filename else "the run's folder could not be written"
        return f"{place}: {error.strerror}", Fix("hydra.run.dir=FOLDER", "somewhere outputs can be written")
    for key, _, value in (override.partition("=") for override in overrides):
        if not isinstance(error, HydraException) and value and _is_unknown(key):
            return _no_such_key(key, value)
    return (_one_line(text),)


def _one_line(text: str, most: int = 12) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return safe_text("; ".join(lines[:most]), 3 * _LONGEST)


def _show_keys() -> Fix:
    return Fix(f"{program()} --cfg job", "shows every key")


def _help(note: str) -> Fix:
    return Fix(f"{program()} --help", note)
