"""The fixed columns of ``summary.csv``, in their order.

Guarantees: pure data; a metric may have none of these names, and no ``NAME_stderr`` of another metric, so that every
column has a name of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

BEFORE = ("job", "status", "exit_code")
"""The columns before those of the swept keys."""

STEP = "step"
"""The column between those of the swept keys and those of the metrics."""

MEASURED = (
    *("n", "fingerprint", "output_diff", "golden_diff", "parameters", "loaded", "missing", "unexpected", "mismatched"),
    *("cast", "dtype", "device", "file_bytes", "load_seconds", "forward_seconds", "evaluate_seconds", "seconds"),
    *("peak_rss_bytes", "torch"),
)
"""The columns behind those of the metrics, up to the error."""

ENDING = ("error_type", "error", "hint", "command", "report")
"""The last columns."""

FIXED = frozenset((*BEFORE, STEP, *MEASURED, *ENDING))
"""The names that no metric may have."""

STDERR = "_stderr"
"""The ending of the column next to a metric's."""


def taken(names: Iterable[str]) -> dict[str, str]:
    """Returns the metrics whose columns would have the name of another one, each with that column's owner."""
    names = list(names)
    found = {name: "summary.csv" for name in names if name in FIXED}
    errors = {f"{name}{STDERR}": name for name in names}
    found |= {f"{error}": f"the metric '{name}'" for error, name in errors.items() if error in names}
    return found | {name: "summary.csv" for error, name in errors.items() if error in FIXED}
