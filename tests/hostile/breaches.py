"""The child with a step that breaks the promises, for the tests of the harness: it runs the file as Python."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.hostile import child


def breach(path: str) -> None:
    """Runs a file that the tests wrote; the honest ones, which are no Python, are left alone."""
    if path.endswith(".py"):
        exec(compile(Path(path).read_text(), path, "exec"), {"path": path})


if __name__ == "__main__":
    child.STEPS = {"breach": breach}
    child.fulfilled = lambda outcome, codes: True
    child.main(*sys.argv[1:])
