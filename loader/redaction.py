"""URLs as they may be shown.

Guarantees: what these functions let pass holds no user name, no password and no signed query of a URL, wherever in a
text the URL stands; a text without a URL comes back as it is.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from loader.wording import printable

HIDDEN = "***"
"""Stands where a secret stood."""

_USER = re.compile(r"""://[^\s/?\#"'<>]*@""")
_QUERY = re.compile(
    # A bounded scheme: a text may come from a hostile file, and hold a million letters in a row.
    r"""(?P<url>[A-Za-z][A-Za-z0-9+.-]{0,20}://[^\s?\#"'<>]*)(?P<query>\?[^\s\#"'<>]*)?(?P<fragment>\#[^\s"'<>]*)?"""
)
_HARMLESS = re.compile(r"\d{1,4}|v?\d+(\.\d+){1,3}|true|false|main|master")
"""Values that are too plain to be a secret; everything else in a query may be one, whatever its name is."""

_PUNCTUATION = ".,;:!)]}"
"""Belongs to the sentence that a URL ends."""


def redacted(text: str) -> str:
    """Takes the credentials out of all URLs in a text."""
    return _QUERY.sub(_shown, _USER.sub(f"://{HIDDEN}@", text)) if "://" in text else text


class RedactingFormatter(logging.Formatter):
    """A log's formatter; Hydra logs the overrides of a sweep's jobs as they were typed."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, or lines, of a record."""
        return printable(redacted(super().format(record)))


def redact_files(paths: Iterable[Path]) -> None:
    """Takes the credentials out of text files that others wrote; files that are not there are passed over."""
    for path in paths:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        shown = redacted(text)
        if shown != text:
            _replace(path, shown)


def _replace(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError:  # a full disk: nothing is better than half a file, or a password
        path.unlink(missing_ok=True)


def _shown(url: re.Match[str]) -> str:
    return f"{url['url']}{_query(url['query'] or '')}"


def _query(query: str) -> str:
    if not query:
        return ""
    shown = []
    bare = query.rstrip(_PUNCTUATION)
    for pair in bare[1:].split("&"):
        name, equals, value = pair.partition("=")
        plain = equals and (not value or _HARMLESS.fullmatch(value))
        shown.append(pair if plain else f"{name}={HIDDEN}" if equals else HIDDEN)
    return "?" + "&".join(shown) + query[len(bare) :]
