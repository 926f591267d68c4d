"""What was typed for a job, apart from the defaults that it was laid over: for a config that comes from elsewhere.

Guarantees: an override means what it means in an ordinary run; one whose keys cannot be known, since it chooses a
config file of the user's, is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from ..errors import ConfigError
from ..schema import REPLACED, JobConfig
from ..text.lines import Fix
from ..text.wording import safe_text
from .grammar import real_key
from .rewrite import CLEAR_GROUP, CLEARED, GROUPS, rewrite
from .sections import names_of

_CHOOSES_FILES = "experiment"
_LONGEST = 400
_PARSER = OverridesParser.create()


class Gone:
    """Stands for the value of a key that an override removes."""


@dataclass(frozen=True, slots=True)
class Laid:
    """One value to lay over a config."""

    path: tuple[str, ...]
    """Where it is in the config."""
    value: Any
    """The value, or `Gone`."""
    override: str
    """The override that it was typed as."""


def from_overrides(overrides: Sequence[str], composed: Mapping[str, Any]) -> list[Laid]:
    """Returns the values that overrides set.

    Args:
        overrides: As typed.
        composed: The resolved config that Hydra composed with them.

    Raises:
        ConfigError: An override chooses a config file, or sets a key that is not the loader's.
    """
    return [laid for override in overrides for laid in _values(override, composed)]


def from_mapping(given: Mapping[str, Any], where: tuple[str, ...] = ()) -> Iterator[Laid]:
    """Yields the values that a partial config sets."""
    for key, value in given.items():
        path = (*where, str(key))
        if isinstance(value, Mapping) and value and ".".join(path) not in REPLACED:
            yield from from_mapping(value, path)
        else:
            yield Laid(path, value, f"{'.'.join(path)}={value}")


def over(config: Mapping[str, Any], laid: Sequence[Laid]) -> dict[str, Any]:
    """Returns a config with values laid over it; the config itself stays as it is."""
    result: dict[str, Any] = copy.deepcopy(dict(config))
    for one in laid:
        node = result
        *above, name = one.path
        for step in above:
            below = node.get(step)
            if not isinstance(below, dict):
                below = node[step] = {}
            node = below
        if one.value is Gone:
            node.pop(name, None)
        else:
            node[name] = copy.deepcopy(one.value)
    return result


def _values(override: str, composed: Mapping[str, Any]) -> Iterator[Laid]:
    for text in rewrite([override]):
        parsed = _PARSER.parse_override(text)
        for path in _places(parsed):
            if path[0] not in names_of(JobConfig):
                raise _unknowable(override, path[0])
            yield Laid(path, Gone if parsed.is_delete() else _at(composed, path), override)


def _places(parsed: Override) -> Iterator[tuple[str, ...]]:
    """Yields the nodes that an override in Hydra's grammar sets."""
    key, value = parsed.key_or_group, None if parsed.is_delete() else parsed.value()
    path = tuple(str(real_key(name)) for name in key.split("."))
    if key == CLEAR_GROUP:
        yield from (tuple(str(name).split(".")) for name in (value if isinstance(value, list) else [value]))
    elif path[0] == "hydra" or key.startswith("hydra/"):
        return
    elif key in GROUPS and not isinstance(value, dict):  # an option may set more than the node of its group
        yield from (tuple(name.split(".")) for name in CLEARED.get(key, (key,)))
    elif parsed.is_add() and isinstance(value, dict):  # is merged
        yield from ((*path, str(real_key(name))) for name in value)
    else:
        yield path


def _at(composed: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    node: Any = composed
    for name in path:
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _unknowable(override: str, key: str) -> ConfigError:
    if key == _CHOOSES_FILES:
        fault, fix = "an experiment is a config of its own", Fix(note="leave it out, or type the keys that it sets")
    else:
        fault, fix = "only keys of the loader can be laid over a recorded config", Fix(note="leave it out")
    return ConfigError(f"'{safe_text(override, _LONGEST)}' with mode=replay: {fault}", fix)
