"""The values that metrics are expected to have, the comparison with those measured, and lines about metrics.

Guarantees: bounds are checked before anything is loaded; a value on a bound is within it; one refusal names every
metric that is outside. A line that leaves a metric out, or renames it, does so with its bounds and the objective, so
that it works at the end of the command that was refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, Problems
from ..schema import EvaluateConfig
from ..text.lines import Fix, line, override, removal, typed, under
from ..text.wording import closest, did_you_mean, safe_text

METRICS = "evaluate.metrics"
EXPECT = "evaluate.expect"
OBJECTIVE = "evaluate.objective"

KEYS = ("min", "max", "value", "within")

WITHIN = 1e-6
"""How far a metric may be from its expected value where ``within`` is not set."""

_EXAMPLE = {"min": 0.9}
_DIGITS = 4
_SMALLEST = 1e-300
"""The smallest number that is rounded."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of one metric; at least one is set."""

    min: float | None = None
    max: float | None = None
    value: float | None = None
    within: float | None = None

    @property
    def higher_is_better(self) -> bool | None:
        """The direction that the bounds suggest; None if they have none, or both."""
        if (self.min is None) == (self.max is None):
            return None
        return self.min is not None

    def faults(self, measured: float, where: str) -> Iterator[tuple[str, Fix]]:
        """Yields what is wrong with a measured value, each with the line that accepts it."""
        shown = f"{measured:.6g}"
        if self.min is not None and measured < self.min:
            yield f"{shown}, expected at least {self.min:g}", line(under(where, "min"), _rounded(measured, down=True))
        if self.max is not None and measured > self.max:
            yield f"{shown}, expected at most {self.max:g}", line(under(where, "max"), _rounded(measured, down=False))
        if self.value is not None:
            most, off = WITHIN if self.within is None else self.within, abs(measured - self.value)
            if off > most and not math.isclose(off, most, rel_tol=1e-9):
                fix = line(under(where, "value"), round(measured, 6))
                yield f"{shown}, expected {self.value:g} within {most:g}", fix


def _rounded(value: float, *, down: bool) -> float:
    """Rounds a value to a bound that it keeps."""
    if abs(value) < _SMALLEST:
        return value
    unit = 10.0 ** (_DIGITS - 1 - math.floor(math.log10(abs(value))))
    bound = (math.floor if down else math.ceil)(value * unit) / unit
    return bound if (bound <= value if down else bound >= value) else value


def parse_bounds(raw: Mapping[str, Any], where: str) -> dict[str, Bounds]:
    """Turns ``evaluate.expect`` into bounds by metric.

    Raises:
        ConfigError: With every entry that is not ``{min}``, ``{max}`` or ``{value, within}``.
    """
    problems, found = Problems(), dict[str, Bounds]()
    for name, own in raw.items():
        if own is not None:
            with problems.noting():
                found[str(name)] = _parsed(own, f"{where}.{safe_text(name)}", under(where, name))
    problems.raise_any()
    return found


def _parsed(raw: Any, place: str, path: str) -> Bounds:
    if not isinstance(raw, Mapping):
        meant = {"min": raw} if _is_number(raw) else _EXAMPLE
        raise ConfigError(
            f"'{place}' is {safe_text(repr(raw))}, expected {{min}}, {{max}} or {{value, within}}", line(path, meant)
        )
    for key, value in raw.items():
        if key not in KEYS:
            near = closest(str(key), KEYS, most=1) or ["min"]
            mended = {near[0] if k == key else k: v for k, v in raw.items()}
            raise ConfigError(
                f"unknown config key '{place}.{safe_text(key)}'{did_you_mean(str(key), KEYS)}; expected "
                f"{', '.join(KEYS)}",
                line(path, mended),
            )
        if value is not None and not _is_number(value):
            raise ConfigError(
                f"'{place}.{key}' is {safe_text(repr(value))}, expected a finite number", line(under(path, key), 0.9)
            )
    bounds = Bounds(**{key: None if value is None else float(value) for key, value in raw.items()})
    _refuse_senseless(bounds, place, path)
    return bounds


def _refuse_senseless(bounds: Bounds, place: str, path: str) -> None:
    """Refuses bounds that say nothing, or that no value keeps."""
    if bounds == Bounds():
        raise ConfigError(f"'{place}' is empty, expected {{min}}, {{max}} or {{value, within}}", line(path, _EXAMPLE))
    if bounds.within is not None and (bounds.value is None or bounds.within < 0):
        fault = "negative" if bounds.value is not None else "without the 'value' that it belongs to"
        raise ConfigError(
            f"'{place}.within' is {fault}", line(path, {"value": bounds.value or 0.9, "within": abs(bounds.within)})
        )
    if bounds.min is not None and bounds.max is not None and bounds.min > bounds.max:
        fault = f"'{place}' has min {bounds.min:g} above max {bounds.max:g}"
        raise ConfigError(fault, line(path, {"min": bounds.max, "max": bounds.min}))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def without(name: str, config: EvaluateConfig) -> Fix:
    """Returns the line that leaves a metric out."""
    return _changed(name, config, "", "leaves it out") or Fix(note="leave the metric out")


def renamed(name: str, config: EvaluateConfig, new: str = "") -> Fix:
    """Returns the line that gives a metric another name, ``my_NAME`` by default."""
    new = new or f"my_{name}"
    while new in config.metrics:
        new = f"my_{new}"
    return _changed(name, config, new, "") or Fix(note="give the metric another name")


def _changed(name: str, config: EvaluateConfig, new: str, note: str) -> Fix:
    """Writes a line that removes a metric, or puts it under a new name; empty if it cannot be typed."""

    def rename(own: str) -> str:
        return f"{new}{own.removeprefix(name)}" if new else ""

    def is_own(value: str) -> bool:
        return value == name or (value.startswith(f"{name}_") and value not in config.metrics)

    words = [*_words(METRICS, config.metrics, name.__eq__, rename), *_words(EXPECT, config.expect, is_own, rename)]
    if config.objective is not None and is_own(config.objective):
        words.append(override(OBJECTIVE, rename(config.objective) or None))
    return typed(*words, note=note)


def _words(
    place: str, nodes: Mapping[str, Any], is_own: Callable[[str], bool], rename: Callable[[str], str]
) -> Iterator[str]:
    own = [name for name in nodes if is_own(name)]
    pairs = [(under(place, name), under(place, rename(name)) if rename(name) else None) for name in own]
    if all(old and new != "" for old, new in pairs):
        for (old, new), name in zip(pairs, own, strict=True):
            yield removal(old)
            if new is not None:
                yield override(new, nodes[name])
        return
    # A name that cannot stand in a dotted path: the whole mapping is typed anew.
    kept = {rename(name) if name in own else name: node for name, node in nodes.items()}
    yield override(place, {name: node for name, node in kept.items() if name})
