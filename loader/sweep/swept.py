"""The swept keys of a sweep, and each job's value of them.

Guarantees: a key that differs between jobs is swept, whoever chose the values, and so is one that was given several
values or a call such as ``glob(...)`` for them, even if there is only one job. No key of the sweep's own settings,
Hydra's or a tracker's is. Values are plain typed data; an option of a config group is a text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from ..config.devices import EVERY
from ..config.elements import is_function, split_elements
from ..config.rewrite import GROUPS, rewrite
from ..config.zips import is_zip, read_zip, unpacked
from ..errors import ConfigError

_PARSER = OverridesParser.create()
_WORD = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)
"""Text that means itself, which parsing would only confirm."""
_SETTING = re.compile(r"(hydra|sweep|track)([./@]|$)")
"""Keys that no job is distinguished by."""
_SWEEPING = re.compile(r"\s*(choice|range|interval|glob|shuffle|sort|tag)\s*\(")
_KEYWORDS = frozenset({"null", "true", "false", "nan", "inf"})


def swept_values(jobs: Mapping[int, Sequence[str]], known: Iterable[str] = ()) -> dict[int, dict[str, Any]]:
    """Returns the value of each swept key, by job.

    Args:
        jobs: The overrides of each job, as typed.
        known: Keys that count as swept even if they are the same in all jobs, as with a single job.
    """
    keys = swept_keys(jobs.values(), known)
    return {job: values_of(overrides, keys) for job, overrides in jobs.items()}


def swept_keys(jobs: Iterable[Sequence[str]], known: Iterable[str] = ()) -> list[str]:
    """Returns the keys of which jobs have different values, in the order in which they were typed.

    Args:
        jobs: The overrides of each job.
        known: Keys that count as swept even if there is only one value.
    """
    typed, certain = [texts_of(overrides) for overrides in jobs], set(known)
    keys = dict.fromkeys(key for texts in typed for key in texts if _SETTING.match(key) is None)
    return [key for key in keys if key in certain or len({texts.get(key) for texts in typed}) > 1]


def swept_in(overrides: Iterable[str]) -> list[str]:
    """Returns the keys without `+` that a sweep's overrides, as typed, give several values, or a call for them."""
    found: list[str] = []
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if is_zip(value):
            with suppress(ConfigError):  # the sweep itself refuses it
                found += texts_of(read_zip(key, value)[0])
        elif is_swept(value):
            found.append(key)
    return found


def is_swept(value: str) -> bool:
    """Returns whether a value, as typed, stands for values of several jobs, though there may be only one."""
    called = is_function(value) and _SWEEPING.match(value) is not None
    return called or value.strip() == EVERY or len(split_elements(value)) > 1


def swept_by_config(params: Mapping[str, str]) -> list[str]:
    """Returns the keys without `+` of ``hydra.sweeper.params`` in Hydra's grammar; in place of a zip, those in it."""
    first = [f"{key}={split_elements(value)[0]}" for key, value in params.items()]
    return list(texts_of(unpacked(first)))


def values_of(overrides: Sequence[str], keys: Iterable[str]) -> dict[str, Any]:
    """Returns a job's values of some keys, as far as it has them."""
    texts = texts_of(overrides)
    return {key: _value(key, texts[key]) for key in keys if key in texts}


def texts_of(overrides: Iterable[str]) -> dict[str, str]:
    """Returns the text of each value, by key without `+`; of equal keys, the last one counts."""
    pairs = (override.lstrip("+").partition("=") for override in overrides if not override.startswith("~"))
    return {key: text for key, _, text in pairs}


@functools.lru_cache(maxsize=4096)
def _value(key: str, text: str) -> Any:
    if key in GROUPS or "/" in key or (_WORD.fullmatch(text) and text.lower() not in _KEYWORDS):
        return text
    try:
        override = _PARSER.parse_override(rewrite([f"{key}={text}"], exists=set().__contains__)[-1])
    except (HydraException, ConfigError):
        return text
    return text if override.is_sweep_override() else _plain(override.value())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)
