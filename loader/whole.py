"""Small files that are there as a whole or not at all.

Guarantees: a reader sees the old content or the new one, never a part, whichever process writes meanwhile.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file beside where it will stand, then puts it there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
