"""Numbers that a model's config says, and the config with others.

Guarantees: pure; what is given is never changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def changed(config: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The config with other values for some arguments, by dotted name."""
    result = dict(config)
    for name, value in arguments.items():
        head, _, rest = name.partition(".")
        result[head] = changed(result[head], {rest: value}) if rest else value
    return result


def numbers(node: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, int]]:
    """The whole numbers of a config, by dotted name."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{where}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool) and str(name).isidentifier():
            yield f"{where}{name}", value
