"""A plan as rows: what would become of every key.

Guarantees: every model key and every file key stands in exactly one row; rows are plain data, in the model's order,
then the file's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..formats.tree import TensorEntry
from ..text.wording import safe_text, shape

if TYPE_CHECKING:
    from ..apply.prepare import Prepared

Row = dict[str, Any]
"""``action``, ``key`` (model), ``source`` (file), ``part``, ``model`` and ``checkpoint`` (each ``{shape, dtype}``)."""

_HEADINGS = ("action", "model key", "model", "file key", "file")


def rows(prepared: Prepared) -> list[Row]:
    """Lists what would become of every key."""
    plan, offers, refused = prepared.plan, prepared.offers.entries, set(prepared.plan.refused)
    sources = {match.key: match.taken.key for match in plan.matches}
    clashing = {mismatch.key: mismatch.source for mismatch in plan.mismatched}
    seconds = {second.key: second.taken.key for _, second in plan.duplicates}

    def row(action: str, key: str, source: str) -> Row:
        offer = offers.get(source)
        found = offer.entry if offer is not None and isinstance(offer.entry, TensorEntry) else None
        want = prepared.wanted.get(key)
        return {
            "action": action,
            "key": key or None,
            "source": offer.source if offer is not None else None,
            "part": offer.part if offer is not None else None,
            "model": None if want is None else {"shape": _sizes(want.shape), "dtype": want.dtype},
            "checkpoint": None if found is None else {"shape": list(found.shape), "dtype": found.dtype},
        }

    def allowed(action: str, key: str) -> str:
        return f"{action}, refused" if key in refused else f"{action}, allowed"

    found = []
    for key in prepared.wanted:
        if key in sources:
            found.append(row("load" if sources[key] else "computed by a load hook", key, sources[key]))
        elif key in clashing:
            found.append(row(allowed("mismatched", key), key, clashing[key]))
        elif key in plan.missing:
            found.append(row(allowed("missing", key), key, ""))
        else:
            found.append(row("tied", key, seconds.get(key, "")))
    found += [row(allowed("unexpected", key), "", key) for key in plan.unexpected]
    found += [{**row("dropped by a rule", "", ""), "source": key} for key in plan.dropped]
    return found


def casts(prepared: Prepared) -> list[dict[str, str]]:
    """The tensors whose dtype would change; what that does to their values is known once they are read."""
    found = []
    for match in prepared.plan.matches:
        entry = prepared.tensor(match.taken.key)
        if entry is None or prepared.wanted[match.key].kind == "extra":
            continue
        dtype = str(prepared.dtype(match.key, entry.dtype)).removeprefix("torch.")
        if dtype != entry.dtype:
            found.append({"key": match.key, "checkpoint": entry.dtype, "model": dtype, "loss": ""})
    return found


def table(planned: list[Row]) -> Iterator[str]:
    """Draws rows as aligned text, one line per key."""
    cells = [_HEADINGS, *(_cells(row) for row in planned)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row["action"],
        safe_text(row["key"] or "-", 200),
        _form(row["model"]),
        safe_text(row["source"] or "-", 200),
        _form(row["checkpoint"]),
    )


def _form(side: Mapping[str, Any] | None) -> str:
    return "-" if side is None else f"{shape(side['shape'])} {side['dtype']}".strip()


def _sizes(dimensions: tuple[int, ...] | None) -> list[int] | None:
    return None if dimensions is None else list(dimensions)
