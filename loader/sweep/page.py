"""Writes the page of a sweep, in a process of its own.

Guarantees: whatever becomes of that process, the sweep goes on to its end, and says why there is no page; its memory is
not the sweep's. The page is made of the files in the sweep's folder alone.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..schema import CompareConfig
from .folders import SUMMARY

UNAWAITED = "interrupted"
"""The reason why there is no page if the user did not wait for it."""


def write_page(folder: Path, compare: CompareConfig) -> str:
    """Writes ``summary.html``.

    Args:
        folder: The sweep's, with its ``summary.json``.
        compare: What is compared between jobs.

    Returns:
        Why it could not be written; empty if it was.
    """
    # A fork server may be running already; forking this process, which may have threads, is never safe.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    processes: Any = multiprocessing.get_context(method)
    reader, writer = processes.Pipe(duplex=False)
    process = processes.Process(target=_write, args=(folder, compare, writer), name="page", daemon=True)
    with reader:
        try:
            process.start()
        except OSError as error:
            return error.strerror or str(error)
        finally:
            writer.close()
        try:
            return str(reader.recv())
        except EOFError:
            process.join()
            return f"its process ended with {process.exitcode}"
        except KeyboardInterrupt:  # the sweep itself is over, and its results are still to be shown
            process.terminate()
            return UNAWAITED
        finally:
            process.join()


def _write(folder: Path, compare: CompareConfig, writer: Connection) -> None:
    """Runs in the page's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep hears it, and ends this process
    from ..page import reason_against, write_sweep_page  # noqa: PLC0415  # only this process needs it

    def write() -> None:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        write_sweep_page(folder, summary, compare)

    reason = reason_against(write)
    with suppress(OSError):  # the sweep is gone
        writer.send(reason)
