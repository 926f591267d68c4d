"""A comparison by module, and as lines for a terminal.

Guarantees: pure functions of rows; modules that differ in their numbers alone, and compare alike, are one row. The
largest difference comes first, before it what has none because shapes or values cannot be compared. The number of lines
is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...report.modules import MOST, fold_names
from ...text.wording import counted, listing, phrases, safe_text, shape

Row = Mapping[str, Any]
Line = tuple[str, str, str]
"""Label, text and style."""

_SHOWN = 24
"""The most modules on a terminal."""
_HEADINGS = ("module", "tensors", "differ", "max abs", "mean abs", "cosine")


@dataclass(slots=True)
class _Module:
    """The tensors of one module on both sides, without those of the modules in it."""

    rows: list[Row] = field(default_factory=list)
    only_left: int = 0
    only_right: int = 0

    def kind(self) -> tuple[int, ...]:
        """What modules have in common that are shown as one."""
        differing, without = (sum(map(one, self.rows)) for one in (differs, _has_no_number))
        return len(self.rows), differing, without, self.only_left, self.only_right


def differs(row: Row) -> bool:
    """Whether a tensor is not the same on both sides."""
    return bool(row["differing"] != 0)


def _has_no_number(row: Row) -> bool:
    return row["max_abs"] is None


def numel(row: Row) -> int:
    """Number of elements of a tensor, on the left side."""
    return math.prod(row["shapes"][0])


def by_module(rows: Sequence[Row], only_left: Sequence[str], only_right: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the modules of a comparison, the largest difference first.

    Args:
        rows: The tensors that both sides have.
        only_left: The keys that only the left side has.
        only_right: Likewise.
    """
    modules: dict[str, _Module] = {}
    for row in rows:
        modules.setdefault(_owner(row["key"]), _Module()).rows.append(row)
    for key in only_left:
        modules.setdefault(_owner(key), _Module()).only_left += 1
    for key in only_right:
        modules.setdefault(_owner(key), _Module()).only_right += 1
    alike: dict[tuple[int, ...], list[str]] = {}
    for name, module in modules.items():
        alike.setdefault(module.kind(), []).append(name)
    found = [
        _summed(folded, len(several), [modules[name] for name in several])
        for names in alike.values()
        for folded, several in fold_names(names).items()
    ]
    found.sort(key=_rank)
    return found[:MOST]


def _owner(key: str) -> str:
    return key.rpartition(".")[0]


def _summed(name: str, count: int, modules: Sequence[_Module]) -> dict[str, Any]:
    return {
        "module": name,
        "count": count,
        **summary([row for module in modules for row in module.rows]),
        "only_left": sum(module.only_left for module in modules),
        "only_right": sum(module.only_right for module in modules),
    }


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns ``{tensors, differing, max_abs, mean_abs, cosine}`` of several tensors; None where one has no number."""
    elements = sum(map(numel, rows))
    known = not any(map(_has_no_number, rows))
    cosines = [row["cosine"] for row in rows]
    return {
        "tensors": len(rows),
        "differing": sum(map(differs, rows)),
        "max_abs": max((row["max_abs"] for row in rows), default=None) if known else None,
        "mean_abs": sum(row["mean_abs"] * numel(row) for row in rows) / elements if known and elements else None,
        "cosine": min(cosines) if cosines and None not in cosines else None,
    }


def _rank(module: Row) -> tuple[int, float]:
    if not module["tensors"]:
        return 2, 0.0
    if module["max_abs"] is None:
        return 0, 0.0
    return (1, -module["max_abs"]) if module["differing"] else (3, 0.0)


def lines(comparison: Mapping[str, Any], left: str, right: str) -> Iterator[Line]:
    """Describes a comparison.

    Args:
        comparison: As in the report.
        left: The name of the left side.
        right: That of the other one.
    """
    rows, modules = comparison["tensors"], comparison["modules"]
    odd = [row for row in rows if row["shapes"][0] != row["shapes"][1] and _has_no_number(row)]
    changed = sum(map(differs, rows)) - len(odd)
    parts = [f"{len(rows) - changed - len(odd):,} equal", f"{changed:,} different"]
    parts += [f"{len(odd):,} of other shapes"] if odd else []
    style = "" if changed or odd else "green"
    yield "compared", f"{counted(len(rows), 'tensor')}: {', '.join(parts)}", style if rows else "yellow"
    for side, keys in ((left, comparison["only_left"]), (right, comparison["only_right"])):
        if keys:
            yield "", f"only in {safe_text(side, 300)}, {len(keys):,}: {listing(keys)}", "yellow"
    if odd:
        shapes = (f"{safe_text(row['key'])} {' and '.join(map(shape, row['shapes']))}" for row in odd)
        yield "", f"shapes differ: {phrases(shapes)}", "yellow"
    noted = [row for row in rows if row["note"] and row not in odd]
    if noted:
        yield "", phrases(f"{safe_text(row['key'])}: {row['note']}" for row in noted), "yellow"
    yield from _table([module for module in modules if module["differing"]])


def _table(modules: Sequence[Row]) -> Iterator[Line]:
    if not modules:
        return
    cells = [_HEADINGS, *(_cells(module) for module in modules[:_SHOWN])]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    for number, row in enumerate(cells):
        figures = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        text = "  ".join([row[0].ljust(widths[0]), *figures])
        yield ("by module", text, "bold") if not number else ("", text, "")
    if len(modules) > _SHOWN:
        yield "", f"… and {len(modules) - _SHOWN:,} more modules, in report.json", "dim"


def _cells(module: Row) -> tuple[str, ...]:
    return (
        safe_text(module["module"], 60) or "(top level)",
        f"{module['tensors']:,}",
        f"{module['differing']:,}",
        *(_number(module[name]) for name in ("max_abs", "mean_abs")),
        "-" if module["cosine"] is None else f"{module['cosine']:.6f}",
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
