"""From a loaded model to a safetensors file, and from such a file alone back to the model.

`convert` puts the first together out of `destination` (where), `existing` (what stands there), `contents` (which
tensors), `record` (what the file says about itself) and `writing`; `embedded` is the way back.
"""

from __future__ import annotations

from ...report import terminal
from ...report.data import Report
from ...text.lines import program
from ...text.wording import counted, listing, phrases, safe_text, size


def lines(report: Report) -> list[terminal.Line]:
    """Returns the report of a conversion as labelled lines."""
    written = report.written or {}
    files = written["files"]
    several = f" in {counted(len(files) - 1, 'shard')}" if len(files) > 1 else ""
    amount = f"{counted(written['tensors'], 'tensor')}{several}, {size(written['bytes'])}"
    shown = [("written", f"{safe_text(written['path'], 300)}: {amount}", "")]
    if written["golden"]:
        shown.append(("", f"golden record {safe_text(written['golden'], 300)}", "dim"))
    if written["aliases"]:
        tied = phrases(f"{safe_text(second)} = {safe_text(first)}" for second, first in written["aliases"].items())
        shown.append(("", f"tied, stored once: {tied}", "dim"))
    if written["left_out"]:
        others = listing(f"{key} ({kind})" for key, kind in written["left_out"].items())
        shown.append(("", f"left out, not tensors: {others}", "yellow"))
    shown.append(("load it", f"{program()} {written['next']}", "green"))
    return [
        *terminal.sources(report),
        *terminal.keys(report),
        *terminal.checks(report),
        *shown,
        *terminal.ending(report),
    ]
