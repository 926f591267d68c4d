"""Small files that are there as a whole or not at all.

Guarantees: a reader sees the old content or the new one, never a part, whichever process writes meanwhile; nothing is
written through a link that stands there.
"""

from __future__ import annotations

import secrets
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file next to where it will stand, then puts it there."""
    # A name that nobody knows: a link that waits under it would be followed.
    draft = path.with_name(f".{path.name[:40]}.{secrets.token_hex(16)}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
