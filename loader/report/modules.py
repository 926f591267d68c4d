"""The outcome of a load by module: what a map of the model's coverage shows.

Guarantees: pure functions of names and shapes. Every model key is counted once, in the module that holds it; modules
that differ in their numbers alone are one row. A tied tensor's parameters count where it has its first name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..keys.plan import Plan, Wanted
from ..keys.segments import is_number, ranges, segments

OUTCOMES = ("loaded", "missing", "mismatched", "initialised")
"""What can become of a model key: ``missing`` and ``mismatched`` ones are refused; one that is allowed to be either is
``initialised``, and keeps the model's own value."""

MOST = 1000
"""The most rows; the modules behind them are one row, ``…``."""

Row = dict[str, Any]
"""``{module, count, parameters, loaded, missing, mismatched, initialised}``."""

Words = tuple[str | None, ...]
"""The segments of a name, with None for a number."""


@dataclass(slots=True)
class _Module:
    """The tensors of one module, without those of the modules in it."""

    parameters: int
    outcomes: list[int]
    """Number of keys, by `OUTCOMES`."""


def of_plan(plan: Plan, wanted: Mapping[str, Wanted]) -> list[Row]:
    """Returns the modules of a planned load, in the model's order.

    Args:
        plan: The plan, which may be refused.
        wanted: The model's keys.
    """
    refused = set(plan.refused)
    outcomes = {key: "missing" if key in refused else "initialised" for key in plan.missing}
    outcomes |= {clash.key: "mismatched" if clash.key in refused else "initialised" for clash in plan.mismatched}
    shapes = {match.key: match.taken.shape for match in plan.matches}
    rows = ((key, outcomes.get(key, "loaded"), _elements(key, want, shapes)) for key, want in wanted.items())
    return list(_folded(_modules(rows)))


def all_loaded(sizes: Mapping[str, int]) -> list[Row]:
    """Returns the modules of a model that came out of its file complete.

    Args:
        sizes: Model key → number of its parameters.
    """
    return list(_folded(_modules((key, "loaded", size) for key, size in sizes.items())))


def _elements(key: str, want: Wanted, shapes: Mapping[str, tuple[int, ...]]) -> int:
    if want.kind != "parameter" or want.first != key:
        return 0
    # A lazy module has no shape before it is loaded.
    return math.prod(shapes.get(key, ()) if want.shape is None else want.shape)


def _modules(rows: Iterable[tuple[str, str, int]]) -> dict[str, _Module]:
    modules: dict[str, _Module] = {}
    for key, outcome, elements in rows:
        module = modules.setdefault(key.rpartition(".")[0], _Module(0, [0] * len(OUTCOMES)))
        module.parameters += elements
        module.outcomes[OUTCOMES.index(outcome)] += 1
    return modules


def fold_names(names: Iterable[str]) -> dict[str, list[str]]:
    """Groups names that differ in their numbers alone: ``layers.{0..11}.attn`` → its names."""
    alike: dict[Words, dict[tuple[int, ...], str]] = {}
    left = {}
    for name in names:
        words, numbers = _split(name)
        if alike.setdefault(words, {}).setdefault(numbers, name) != name:
            left[name] = [name]  # 1 and 01 are one number
    found = {
        _named(words, places): [several[numbers] for numbers in product(*places)]
        for words, several in alike.items()
        for places in _products(list(several))
    }
    return found | left


def _split(name: str) -> tuple[Words, tuple[int, ...]]:
    path = segments(name)
    words = tuple(None if is_number(segment) else segment for segment in path)
    return words, tuple(int(segment) for segment in path if is_number(segment))


def _folded(modules: Mapping[str, _Module]) -> Iterator[Row]:
    alike: dict[tuple[Words, int, tuple[int, ...]], list[tuple[int, ...]]] = {}
    for name, module in modules.items():
        words, numbers = _split(name)
        alike.setdefault((words, module.parameters, tuple(module.outcomes)), []).append(numbers)
    rows = [
        _row(_named(words, numbers), math.prod(map(len, numbers)), parameters, outcomes)
        for (words, parameters, outcomes), several in alike.items()
        for numbers in _products(several)
    ]
    yield from rows[:MOST]
    if left := rows[MOST:]:
        yield {name: sum(row[name] for row in left) if name != "module" else "…" for name in left[0]}


def _row(module: str, count: int, parameters: int, outcomes: Iterable[int]) -> Row:
    counts = {outcome: number * count for outcome, number in zip(OUTCOMES, outcomes, strict=True)}
    return {"module": module, "count": count, "parameters": parameters * count, **counts}


def _products(several: Sequence[tuple[int, ...]]) -> Iterator[list[list[int]]]:
    """Splits tuples of numbers into sets that are all combinations of some numbers at each place."""
    places = [list(dict.fromkeys(numbers)) for numbers in zip(*several, strict=True)]
    if math.prod(map(len, places)) == len(several):
        yield places
        return
    if not places:  # 1 and 01 are one number
        yield from ([] for _ in several)
        return
    below: dict[int, list[tuple[int, ...]]] = {}
    for first, *rest in several:
        below.setdefault(first, []).append(tuple(rest))
    for first, others in below.items():
        yield from ([[first], *places] for places in _products(others))


def _named(words: Words, numbers: Sequence[list[int]]) -> str:
    written = iter(numbers)
    return ".".join(ranges(next(written)) if word is None else word for word in words)
