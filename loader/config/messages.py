"""Translates the refusals of Hydra and OmegaConf.

Guarantees: every refusal of Hydra's becomes one `ConfigError` that says what was found, what was expected and what to
type. For an exception that is not about the config the result is None, so that no bug is reported as a user's error.
The patterns below match the texts of Hydra 1.3; a text without a pattern is passed on unchanged.
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
from .lists import below_a_list, refused_lists
from .rewrite import FREE, GROUPS
from .sections import known_keys, package_of, suggestion

_LONGEST = 400
_MOST_OPTIONS = 30

_Translation = tuple[str, *tuple[Fix, ...]]
"""A message and its fixes."""

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
"""A class with its module."""


def translate(error: Exception, overrides: Sequence[str] = ()) -> ConfigError | None:
    """Turns an exception into a refusal.

    Args:
        error: An exception of Hydra, OmegaConf or the YAML reader.
        overrides: The overrides to compose, for refusals that do not name theirs.

    Returns:
        The refusal; None if the exception is not about a config.
    """
    for own in (error, error.__cause__):  # Hydra wraps what an object of its config raises
        if isinstance(own, ConfigError):
            return own
    if isinstance(error, OverrideParseException):
        return refused_lists([error.override]) or ConfigError(*_unparsable(error))
    if isinstance(error, MissingConfigException):
        return ConfigError(*_missing_config(error))
    if isinstance(error, yaml.YAMLError):
        return ConfigError(f"a config file is not valid YAML: {_one_line(str(error))}", Fix(note="mend that line"))
    if isinstance(error, OmegaConfBaseException):
        return ConfigError(*_omegaconf(error))
    if isinstance(error, (HydraException, OSError)) or (isinstance(error, ValueError) and _is_hydras(error)):
        return ConfigError(*_composition(error, overrides))
    if isinstance(error, TypeError) and _is_hydras(error):
        return refused_lists(overrides) or below_a_list(error, overrides)
    return None


def _is_hydras(error: Exception) -> bool:
    """Returns whether Hydra or OmegaConf itself raised a built-in exception, rather than a job that they run."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get("__name__")).startswith(("hydra.", "omegaconf."))


def _names_file(text: str) -> bool:
    """Returns whether a misplaced text is the path of a checkpoint."""
    return bool(text) and (os.path.lexists(text) or text.endswith(ENDINGS) or "://" in text)


def _unparsable(error: OverrideParseException) -> _Translation:
    shown = safe_text(error.override, _LONGEST)
    key, equals, value = error.override.partition("=")
    if not equals:
        fix = path_override(key) if _names_file(key) else _show_keys() if _is_unknown(key) else line(key, "VALUE")
        return f"'{shown}' is not an override (expected key=value)", fix
    if _is_unknown(key):
        return _no_such_key(key, value)
    lines = [line.strip() for line in str(error.message).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Error parsing override", "See https", "^"))]
    reason = f": {safe_text(reasons[0], _LONGEST)}" if reasons else ""
    fault = f"the value of '{shown}' is not valid in Hydra's grammar{reason}"
    closed = value + _closing(value)
    if closed != value and parse_value(closed) is not Refused:
        return f"{fault}; close its brackets", typed(f"{key.lstrip('+')}={closed}")
    return f"{fault}; quote it, inside the quotes of the shell", line(
        key.lstrip("+"), value, "+" * (len(key) - len(key.lstrip("+")))
    )


def _closing(value: str) -> str:
    """Returns the closing brackets that a text lacks."""
    still: list[str] = []
    for sign in value:
        if sign in "{[":
            still.append("}" if sign == "{" else "]")
        elif still and sign == still[-1]:
            still.pop()
    return "".join(reversed(still))


def _missing_config(error: MissingConfigException) -> _Translation:
    text, name = str(error), str(error.missing_cfg_file or "")
    group, _, option = name.rpartition("/")
    section, _, file = name.partition("/")
    # For a folder in a group, Hydra lists the options of the group.
    options = _options(group, text, None if section in GROUPS and section != group else error.options)
    if section == "checkpoint" and (_names_file(file) or not options):
        fault = f"'checkpoint' takes an option of its config group, not a file: '{safe_text(file, _LONGEST)}'"
        return fault, path_override(file)
    if "primary config" in text or not group:
        near = closest(name, options, most=1)
        fault = f"no such config: '{safe_text(name)}'{did_you_mean(name, options)}"
        fix = typed("--config-name", near[0]) if near else Fix("--config-name NAME --config-dir FOLDER")
        return f"{fault}; there are: {listing(options, _MOST_OPTIONS) or 'none'}", fix
    by = re.match(r"In '(.+?)'", text)
    asked = f", which '{safe_text(by[1])}' requires" if by and by[1] not in ("config", "hydra/config") else ""
    message = (
        f"the config group '{safe_text(group)}' has no option '{safe_text(option)}'{asked}"
        f"{did_you_mean(option, options)}; there are: {listing(options, _MOST_OPTIONS) or 'none'}"
    )
    if group in ("hydra/launcher", "hydra/sweeper"):
        return message, typed("pip", "install", package_of(group, option))
    if group == "model" and _DOTTED.fullmatch(option):
        return message, line("model._target_", option)
    near = closest(option, options, most=1)
    if not near:
        return message, _help("lists the groups and their options")
    return message, line(group, [near[0]] if group == "rules" else near[0])


def _options(group: str, text: str, options: Any) -> list[str]:
    """Lists the options of a group: Hydra's own list, or the files in the folders that it searched."""
    if options:
        return sorted(options)
    folders = [Path(found) / group for found in re.findall(r"path=file://(.+?)(?:['\n]|$)", text)]
    return sorted({file.stem for folder in folders if folder.is_dir() for file in folder.glob("*.yaml")})


def _omegaconf(error: OmegaConfBaseException) -> _Translation:
    first = safe_text(next(iter(str(error).splitlines()), type(error).__name__), _LONGEST)
    # A resolver's own exception is wrapped, with its text quoted like a KeyError's.
    first = re.sub(r"^\w+ raised while resolving interpolation: \"?(.+?)\"?$", r"\1", first)
    where = error.full_key or ""
    place = f" (at '{safe_text(where)}')" if where else ""
    return f"the config cannot be resolved{place}: {first}", line(where, "VALUE") if where else _show_keys()


def _unknown_key(found: re.Match[str]) -> _Translation:
    return _no_such_key(found["key"], found["value"])


def _own_key(found: re.Match[str], cause: BaseException | None) -> _Translation:
    """Refuses an unknown key; a user's own config may have the one that was meant."""
    key, value = found["key"], found["value"]
    node = getattr(cause, "parent_node", None)
    if suggestion(key) is None and isinstance(node, DictConfig):
        above = str(node._get_full_key(None))  # noqa: SLF001  # it has no public name
        name, _, below = key.removeprefix(f"{above}.").partition(".")
        near = closest(name, [str(own) for own in node if own != "hydra"], most=1)
        if near:
            meant = ".".join(filter(None, (above, near[0], below)))
            fault = f"unknown config key '{safe_text(key)}' (did you mean '{safe_text(meant)}'?)"
            return fault, typed(f"{meant}={value}")
    return _no_such_key(key, value)


def _is_unknown(key: str) -> bool:
    bare = key.lstrip("+~")
    return bare not in known_keys() and not bare.startswith((*(f"{node}." for node in FREE), "hydra"))


def _no_such_key(key: str, value: str) -> _Translation:
    if os.path.lexists(f"{key}={value}"):
        shown = safe_text(f"{key}={value}", _LONGEST)
        return f"'{shown}' is a file, not an override (expected key=value)", path_override(f"{key}={value}")
    if key.startswith("track.") and key in known_keys():
        return f"'{key}' is set without a tracker (track is null)", typed("+track=mlflow", f"{key}={value}")
    meant = suggestion(key)
    near = f" (did you mean '{safe_text(meant)}'?)" if meant else ""
    fix = typed(f"{meant}={value}") if meant else _show_keys()
    return f"unknown config key '{safe_text(key)}'{near}", fix


def _several_values(found: re.Match[str]) -> _Translation:
    override = found["override"]
    key, _, value = override.partition("=")
    fixes = [typed("-m", override, note="one job for each")]
    if key == "rules":
        fixes.insert(0, typed(f"rules=[{value}]", note="all of them, in order"))
    elif key not in GROUPS:
        fixes.append(line(key, value, note="one value with a comma in it"))
    return f"'{safe_text(override, _LONGEST)}' has several values, but a single run accepts one", *fixes


def _already_there(found: re.Match[str]) -> _Translation:
    return f"'{safe_text(found['key'])}' exists already, and + only adds keys", typed(found["override"])


def _not_to_delete(found: re.Match[str]) -> _Translation:
    key = found["key"]
    fix = Fix("'rules=[]'", "removes all rules") if key == "rules" else _show_keys()
    return f"'~{safe_text(key)}' removes a key that does not exist", fix


def _not_in_defaults(found: re.Match[str]) -> _Translation:
    # Hydra writes a list as Python does; in its own grammar the quotes are not needed.
    return f"'{safe_text(found['key'])}' is not a group of the defaults list", typed(found["line"].replace("'", ""))


def _not_to_override(found: re.Match[str]) -> _Translation:
    group = found["key"]
    if "@experiment." in group:
        refused = without_package(users_file(found["file"]), f"chooses '{safe_text(group)}', which has no effect")
        return refused.message, *refused.fixes
    fault = f"'{safe_text(found['file'])}' overrides '{safe_text(group)}', which no earlier defaults list chooses"
    own = primaries(group)
    note = "" if own else f"a config of yours whose defaults list has - {safe_text(group)}: OPTION"
    return fault, typed("--config-name", own[0] if own else "NAME", note=note)


def _not_a_name(found: re.Match[str]) -> _Translation:
    expected = "a config group takes the name of an option or a list of names"
    return (
        f"{expected}, not a value of type {found['kind']}",
        _help("lists the groups and their options"),
    )


def _merge(found: re.Match[str]) -> _Translation:
    return f"'{safe_text(found['override'], _LONGEST)}' cannot be merged into the config", _show_keys()


def _no_group(found: re.Match[str]) -> _Translation:
    return f"no such config group: '{safe_text(found['key'])}'", _help("lists the groups")


_OVERRIDE = r"Could not override '(?P<key>.+?)'\."

_KNOWN: tuple[tuple[str, Callable[[re.Match[str]], _Translation]], ...] = (
    (_OVERRIDE + r"\nTo append to your config use \+[^=]*=(?P<value>.*)", _unknown_key),
    (_OVERRIDE + r"(?s:.*)\nTo append to your default list use (?P<line>\+.*)", _not_in_defaults),
    (r"In '(?P<file>.+?)': Could not override '(?P<key>.+?)'", _not_to_override),
    (r"Ambiguous value for argument '(?P<override>.+)'\n", _several_values),
    (r"Sweep parameters '(?P<override>.+)' requires --multirun", _several_values),
    (r"An item is already at '(?P<key>.+?)'(?s:.*)Either remove \+ prefix: '(?P<override>.+)'", _already_there),
    (r"Could not delete (?:from config\. )?'(?P<key>.+?)'(?: does not exist|\. No match)", _not_to_delete),
    (r"looks like a config group override, but config group '(?P<key>.+?)' does not exist", _no_group),
    (r"Config group override must be a string or a list\. Got (?P<kind>\w+)", _not_a_name),
    (r"Error merging override (?P<override>.+)", _merge),
)
"""Patterns of Hydra's texts, with their translations; the first match counts."""


def _composition(error: Exception, overrides: Sequence[str]) -> _Translation:
    text = str(error)
    for pattern, translation in _KNOWN:
        found = re.search(pattern, text)
        if found:
            cause = error.__cause__
            message, *fixes = _own_key(found, cause) if translation is _unknown_key else translation(found)
            detail = f": {_one_line(str(cause), 1)}" if translation is _merge and cause else ""
            return f"{message}{detail}", *fixes
    if not text.strip() and isinstance(error.__cause__, OmegaConfBaseException):
        return _omegaconf(error.__cause__)
    if isinstance(error, OSError) and error.strerror:
        place = safe_text(error.filename, _LONGEST) if error.filename else "the run's folder cannot be written"
        return f"{place}: {error.strerror}", Fix("hydra.run.dir=FOLDER", "a writable folder")
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
