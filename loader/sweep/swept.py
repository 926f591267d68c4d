"""The swept keys of a sweep, and each job's value of them.

Guarantees: a key that differs between jobs is swept, whoever chose the values. Values are plain typed data; an
option of a config group is a text.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from ..config.rewrite import GROUPS, rewrite

_PARSER = OverridesParser.create()


def swept_values(jobs: Mapping[int, Sequence[str]], known: Iterable[str] = ()) -> dict[int, dict[str, Any]]:
    """Returns the value of each swept key, by job.

    Args:
        jobs: The overrides of each job, as typed.
        known: Keys that count as swept even if they are the same in all jobs, as with a single job.
    """
    typed = {job: _by_key(overrides) for job, overrides in jobs.items()}
    keys = [*known, *(key for overrides in typed.values() for key in overrides)]
    swept = [key for key in dict.fromkeys(keys) if key in known or len({of.get(key) for of in typed.values()}) > 1]
    return {job: {key: _value(key, of[key]) for key in swept if key in of} for job, of in typed.items()}


def _by_key(overrides: Iterable[str]) -> dict[str, str]:
    """Returns the text of each value, by key without `+`; of equal keys, the last one counts."""
    pairs = (override.lstrip("+").partition("=") for override in overrides if not override.startswith("~"))
    return {key: text for key, _, text in pairs}


@functools.lru_cache(maxsize=4096)
def _value(key: str, text: str) -> Any:
    if key in GROUPS or "/" in key:
        return text
    try:
        override = _PARSER.parse_override(rewrite([f"{key}={text}"], exists=set().__contains__)[-1])
    except HydraException:
        return text
    return text if override.is_sweep_override() else _plain(override.value())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)
