"""Small files that are there as a whole or not at all.

Guarantees: a reader sees the old content or the new one, never a part, whichever process writes meanwhile; what is
written goes into a file that was made for it, and never through a link that stands there.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file next to where it will stand, then puts it there."""
    draft = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, _FLAGS, 0o666), "wb") as file:
            file.write(content)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
