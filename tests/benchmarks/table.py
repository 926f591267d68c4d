"""Shows measurements side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.benchmarks.measuring import Key

_TIMES = ("load s", "fwd s", "both s", "x ours", "cpu s", "process s")
_COLUMNS = ("way", *_TIMES, "peak MB", "private MB", "read MB", "disk MB")
Row = tuple[str, ...]


def show(results: Mapping[Key, Mapping[str, Any]], wanted: Mapping[str, int]) -> str:
    """One table per case.

    Args:
        results: Medians, or notes, by case and way.
        wanted: Bytes of the weights by case.
    """
    blocks = []
    for case in dict.fromkeys(case for case, _ in results):
        own = {way: result for (name, way), result in results.items() if name == case}
        blocks.append(f"{case}: {wanted[case] / 1e6:,.0f} MB wanted\n" + _table(list(_rows(own))))
    return "\n\n".join(blocks)


def _rows(own: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    yield _COLUMNS
    base = own.get("ours", {}).get("total")
    for way, result in own.items():
        if "note" in result:
            yield way, result["note"]
        else:
            ratio = f"{result['total'] / base:.2f}" if base else ""
            times = (_seconds(result.get(name)) for name in ("load", "forward", "total"))
            sizes = (_megabytes(result.get(name)) for name in ("peak", "private", "read", "disk"))
            yield way, *times, ratio, _seconds(result.get("cpu")), _seconds(result.get("process")), *sizes


def _table(rows: list[Row]) -> str:
    whole = [row for row in rows if len(row) == len(_COLUMNS)]
    widths = [max(len(row[0]) for row in rows), *(max(len(row[i]) for row in whole) for i in range(1, len(_COLUMNS)))]
    return "\n".join("  ".join(_cells(row, widths)).rstrip() for row in rows)


def _cells(row: Row, widths: list[int]) -> Iterator[str]:
    first, *rest = row
    yield first.ljust(widths[0])
    if len(row) != len(_COLUMNS):
        yield from rest
    else:
        yield from (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _megabytes(value: float | None) -> str:
    return "?" if value is None else f"{value / 1e6:,.0f}"
