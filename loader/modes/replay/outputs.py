"""Compares the outputs of two runs with the tolerances of golden records.

Guarantees: kept tensors are read as data, from the runs' own folders under their fixed name. Integers and booleans are
compared exactly, floating-point numbers with the tolerance of the coarsest dtype involved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...report.kept import Kept, Values, same_inputs
from ...text.lines import NO_FIX, Fix
from ...text.wording import listing, safe_text, shape
from ...verify.golden import TOLERANCES, accepting

_NUMBERS = ("min", "max", "mean", "std")


@dataclass(frozen=True, slots=True)
class Outputs:
    """What two runs kept."""

    recorded: Kept
    found: Kept

    def inputs_apart(self) -> str:
        """Returns the inputs that are not equal; an empty text if all are."""
        then, now = self.recorded.inputs, self.found.inputs
        if same_inputs(self.recorded, self.found) or not (then or now):
            return ""
        apart = sorted(name for name in {*then, *now} if not _same(then, now, name))
        return listing(apart) or "none of them can be compared"

    def apart(self, dtypes: Iterable[str], rtol: float | None, atol: float | None) -> tuple[list[str], str]:
        """Compares the outputs.

        Args:
            dtypes: Those of the models, which may be coarser than their outputs'.
            rtol: Relative tolerance; None is the dtypes' own.
            atol: Absolute tolerance; None is the dtypes' own.

        Returns:
            The differences, and a line that says how close the outputs are.
        """
        found, worst, then, now = [], 0.0, self.recorded.outputs, self.found.outputs
        held = (0.0, 0.0)
        models = list(dtypes)
        for name in sorted({*then, *now}):
            if name not in then or name not in now:
                found.append(f"{safe_text(name)} is only in {'this run' if name in now else 'the recorded run'}")
                continue
            one, other = then[name], now[name]
            if one.array.shape != other.array.shape:
                sizes = f"{shape(other.array.shape)}, recorded {shape(one.array.shape)}"
                found.append(f"{safe_text(name)} is {sizes}")
                continue
            held = _held(one, other, models, rtol, atol)
            gap = _gap(one, other)
            worst = max(worst, gap)
            if not _close(one, other, held):
                found.append(f"{safe_text(name)} differs by up to {gap:.3g}")
        return found, f"largest difference {worst:.3g} (rtol {held[0]:g}, atol {held[1]:g})"

    def accepting(self) -> Fix:
        """Returns the line that accepts the differences; empty if no tolerance does."""
        then, now = self.recorded.outputs, self.found.outputs
        if then.keys() != now.keys() or any(then[name].array.shape != now[name].array.shape for name in then):
            return NO_FIX
        gaps = {name: _gap(then[name], now[name]) for name in then}
        exact = [name for name in then if {then[name].array.dtype.kind, now[name].array.dtype.kind} - {"f", "c"}]
        return NO_FIX if any(gaps[name] for name in exact) else accepting(max(gaps.values(), default=0.0))


def _same(then: Mapping[str, Values], now: Mapping[str, Values], name: str) -> bool:
    if name not in then or name not in now:
        return False
    return same_inputs(Kept({name: then[name]}, {}), Kept({name: now[name]}, {}))


def _held(
    one: Values, other: Values, models: Sequence[str], rtol: float | None, atol: float | None
) -> tuple[float, float]:
    if not (one.array.dtype.kind in "fc" and other.array.dtype.kind in "fc"):
        return (0.0, 0.0)
    own = tolerance((one.dtype, other.dtype, *models))
    finite = np.abs(one.array[np.isfinite(one.array)])
    scale = min(float(finite.max(initial=0.0)), 1.0) or 1.0
    return (own[0] if rtol is None else rtol, own[1] * scale if atol is None else atol)


def tolerance(dtypes: Iterable[str]) -> tuple[float, float]:
    """Returns the loosest tolerance of some dtypes, as golden records have it: relative and absolute."""
    return max((TOLERANCES.get(name, (0.0, 0.0)) for name in dtypes), default=(0.0, 0.0))


def _close(one: Values, other: Values, held: tuple[float, float]) -> bool:
    with np.errstate(all="ignore"):
        return bool(np.allclose(_wide(other), _wide(one), rtol=held[0], atol=held[1], equal_nan=True))


def _gap(one: Values, other: Values) -> float:
    left, right = _wide(one), _wide(other)
    with np.errstate(all="ignore"):
        apart = np.abs(left - right)
    apart[(left == right) | (np.isnan(left) & np.isnan(right))] = 0.0
    largest = float(apart.max(initial=0.0))
    return largest if np.isfinite(largest) else float("inf")


def _wide(values: Values) -> np.ndarray[Any, Any]:
    return values.array.astype("c16" if values.array.dtype.kind == "c" else "f8")


def statistics_apart(
    then: Sequence[Mapping[str, Any]],
    now: Sequence[Mapping[str, Any]],
    dtypes: Iterable[str],
    rtol: float | None,
    atol: float | None,
) -> tuple[list[str], str]:
    """Compares outputs by their statistics, where a run kept none of them; returns as `Outputs.apart` does."""
    recorded, found = ({str(row.get("name")): row for row in rows} for rows in (then, now))
    models, apart, held = list(dtypes), list[str](), (0.0, 0.0)
    for name in sorted({*recorded, *found}):
        if name not in recorded or name not in found:
            apart.append(f"{safe_text(name)} is only in {'this run' if name in found else 'the recorded run'}")
            continue
        one, other = recorded[name], found[name]
        own = tolerance((str(one.get("dtype")), str(other.get("dtype")), *models))
        held = (own[0] if rtol is None else rtol, own[1] if atol is None else atol)
        apart += [
            f"the {what} of {safe_text(name)} is {safe_text(other.get(what))}, recorded {safe_text(one.get(what))}"
            for what in ("shape", "finite", *_NUMBERS)
            if not _alike(one.get(what), other.get(what), held)
        ]
    return apart, f"statistics alone, since a run kept no outputs (rtol {held[0]:g}, atol {held[1]:g})"


def _alike(one: Any, other: Any, held: tuple[float, float]) -> bool:
    if type(one) in (int, float) and type(other) in (int, float):
        return bool(abs(one - other) <= held[1] + held[0] * abs(one))
    return bool(one == other)
