"""How far jobs are from each other: their outputs as a matrix, and their weights by module.

Guarantees: reads only the files that jobs keep in their own folders, up to a bounded number of bytes; whatever is not
compared is named, with the reason. A difference is exact, or says that it is an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xxhash import xxh3_128_hexdigest

from ..errors import CheckpointError
from ..report.kept import KEPT, Array, Kept, read_kept, same_inputs
from ..text.wording import counted, safe_text
from .figures import Picture, listed, rounded
from .jobs import Job, Jobs, Limits
from .plain import figure

MOST_BYTES = 64 << 20
"""Bytes of outputs that are read; the jobs behind them are not compared."""

_MOST_WORK = 400_000_000
"""Numbers that are subtracted; above it, fewer jobs are compared."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Jobs whose outputs are the same, bit for bit."""

    kept: Kept
    jobs: list[int]


def output_matrix(jobs: Jobs, limits: Limits) -> Picture | None:
    """Returns the largest absolute differences between the outputs of all pairs of jobs; None for less than two."""
    found, unreadable, left = _kept(jobs.every, limits)
    if sum(job.good for job in jobs.every) < 2:
        return None
    notes = [
        *listed("Not read, for their size", left),
        *(f"Job {number}: {reason}." for number, reason in unreadable[:6]),
    ]
    if sum(len(group.jobs) for group in found) < 2:
        return Picture("matrix", "Output differences", ["Less than two jobs kept their outputs.", *notes])
    groups, other = _comparable(found)
    if sum(len(group.jobs) for group in groups) < 2:
        return Picture("matrix", "Output differences", ["No two jobs had the same inputs.", *notes])
    few = _affordable(groups)
    left = sorted(number for group in groups[few:] for number in group.jobs)
    groups = groups[:few]
    order = sorted((number, at) for at, group in enumerate(groups) for number in group.jobs)
    apart = _distances(groups)
    cells = [
        [_cell(0.0 if a == b else apart[max(a, b)][min(a, b)]) for _, b in order[:row]]
        for row, (_, a) in enumerate(order)
    ]
    notes += [*listed("Other inputs or outputs, not compared", other), *listed("Not compared, for their number", left)]
    data = {"jobs": [number for number, _ in order], "cells": cells}
    return Picture("matrix", "Output differences", [*_about(groups, apart), *notes], data)


def _cell(value: float) -> float | str | None:
    return "inf" if value == math.inf else rounded(value, 4)


def _kept(jobs: Sequence[Job], limits: Limits) -> tuple[list[_Group], list[tuple[int, str]], list[int]]:
    groups: dict[str, _Group] = {}
    unreadable: list[tuple[int, str]] = []
    left: list[int] = []
    budget, compared = MOST_BYTES, 0
    for job in jobs:
        if job.folder is None or not job.good or not job.kept:
            continue
        path = job.folder / KEPT
        length = path.stat().st_size if path.is_file() else 0
        if length > budget or compared == limits.compared:
            left.append(job.number)
            continue
        try:
            kept = read_kept(path)
        except CheckpointError as error:
            unreadable.append((job.number, safe_text(error.message, 200)))
            continue
        budget, compared = budget - length, compared + 1
        groups.setdefault(_identity(kept), _Group(kept, [])).jobs.append(job.number)
    return list(groups.values()), unreadable, left


def _identity(kept: Kept) -> str:
    """A digest of all tensors, for finding the jobs whose tensors are the same."""
    parts = [
        f"{name} {values.dtype} {values.array.shape} {xxh3_128_hexdigest(np.ascontiguousarray(values.array).tobytes())}"
        for tensors in (kept.inputs, kept.outputs)
        for name, values in sorted(tensors.items())
    ]
    return "\n".join(parts)


def _comparable(groups: list[_Group]) -> tuple[list[_Group], list[int]]:
    """Returns the largest number of jobs with one input, and the numbers of the others."""
    classes: list[list[_Group]] = []
    for group in groups:
        alike = next((known for known in classes if _alike(known[0].kept, group.kept)), None)
        if alike is None:
            classes.append([group])
        else:
            alike.append(group)
    best = max(classes, key=lambda known: sum(len(group.jobs) for group in known))
    return best, [number for known in classes if known is not best for group in known for number in group.jobs]


def _alike(one: Kept, two: Kept) -> bool:
    shapes, others = ({name: v.array.shape for name, v in kept.outputs.items()} for kept in (one, two))
    return shapes == others and same_inputs(one, two)


def _affordable(groups: Sequence[_Group]) -> int:
    elements = sum(values.array.size for values in groups[0].kept.outputs.values())
    return min(len(groups), max(2, math.isqrt(2 * _MOST_WORK // max(1, elements))))


def _distances(groups: Sequence[_Group]) -> list[list[float]]:
    """Returns the largest absolute difference of each group's outputs to those of the groups before it."""
    found = [np.zeros(at) for at in range(len(groups))]
    for name in groups[0].kept.outputs:
        flat = [group.kept.outputs[name].array.reshape(-1) for group in groups]
        stacked = np.stack(flat).astype(np.result_type(*flat, np.float32), copy=False)
        for at in range(1, len(groups)):
            found[at] = np.maximum(found[at], _farthest(stacked[at], stacked[:at]))
    return [[float(value) for value in row] for row in found]


def _farthest(one: Array, others: Array) -> Array:
    with np.errstate(all="ignore"):
        apart = np.abs(others - one)
    if not np.isfinite(apart).all():
        apart[(others == one) | (np.isnan(others) & np.isnan(one))] = 0.0
        apart[~np.isfinite(apart)] = math.inf
    return np.asarray(apart.max(axis=1, initial=0.0))


def _about(groups: Sequence[_Group], apart: Sequence[Sequence[float]]) -> list[str]:
    total = sum(len(group.jobs) for group in groups)
    if len(groups) == 1:
        return [f"All {counted(total, 'job')} give the same outputs, bit for bit."]
    pairs = [(apart[a][b], a, b) for a in range(len(groups)) for b in range(a)]
    largest, a, b = max(pairs)
    far = "a NaN or infinity that the other lacks" if largest == math.inf else figure(largest)
    same = [group for group in groups if len(group.jobs) > 1]
    text = f"{counted(total, 'job')} compared on the same inputs. "
    text += f"Largest absolute difference: {far}, between jobs {groups[b].jobs[0]} and {groups[a].jobs[0]}."
    return [text, *(sentence for group in same[:4] for sentence in listed("Equal bit for bit", group.jobs))]
