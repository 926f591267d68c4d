"""The bar that shows how far a download is.

Guarantees: it is on stderr and only where that is a terminal; a log file gets nothing of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int | None], None]
"""Takes how many bytes are there, and of how many, if that is known."""


@contextmanager
def bar(label: str) -> Iterator[Advance]:
    """Shows a bar while the block runs.

    Args:
        label: What is being downloaded.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich import progress as shown  # noqa: PLC0415  # only a terminal needs it
    from rich.console import Console  # noqa: PLC0415  # only a terminal needs it
    from rich.markup import escape  # noqa: PLC0415  # only a terminal needs it

    columns = (
        shown.TextColumn("{task.description}"),
        shown.BarColumn(),
        shown.DownloadColumn(),
        shown.TransferSpeedColumn(),
        shown.TimeRemainingColumn(),
    )
    with shown.Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(escape(label), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
