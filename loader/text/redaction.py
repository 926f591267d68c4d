"""Removes the credentials of URLs from text.

Guarantees: once a URL is named by a config or a call (`remember`), its user, password, parameters and query values are
replaced in all text that this process prints or writes through `redacted`, even outside the URL and in other spellings.
Other URLs, as a file or a library may contain, are found in the text by patterns. Text without a URL and without a
known secret is returned unchanged.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote

from .wording import printable

HIDDEN = "***"
"""Replacement for a redacted secret."""

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,20}:"  # bounded: a hostile file may hold a million letters in a row
_KNOWN = r"(?:https?|s3|gs|hf|ftps?):"
_BEGIN = re.compile(rf"(?<![A-Za-z0-9+.-])(?:{_KNOWN}(?:%2F%2F|/{{0,3}})|{_SCHEME}/{{1,3}})", re.IGNORECASE)
"""The start of a URL, even one that lost one or both slashes."""

_NAMED = re.compile(r"(?P<mark>[;?&#])(?P<name>[^=;?&#/\s]*)=(?P<value>[^;?&#]*)")

_USER = re.compile(rf"""(?P<begin>://|\b{_KNOWN}/(?!/))[^\s/?\#"'<>]*@""", re.IGNORECASE)
_QUERY = re.compile(
    rf"""(?P<url>(?:{_SCHEME}//|\b{_KNOWN}/)[^\s?\#"'<>]*)(?P<query>\?[^\s\#"'<>]*)?(?P<fragment>\#[^\s"'<>]*)?"""
)
_PARAMETER = re.compile(r"""(;[\w.-]{1,40}=)([^;/?\#\s"'<>]+)""")
_HARMLESS = re.compile(r"\d{1,4}|v?\d+(\.\d+){1,3}|true|false|main|master")
"""Values too plain to be secrets; any other value in a query may be one, whatever its name."""

_PUNCTUATION = ".,;:!)]}"
"""Punctuation of the sentence that a URL ends, not of the URL."""

_TELLING = re.compile(r"tok|key|sig|secret|pass|pw|auth|cred|sess|policy|code|user", re.IGNORECASE)
"""Names of parameters whose short values are also hidden outside the URL."""

_SHORTEST = 2
_LONG = 8
"""A shorter secret is replaced only as a separate word."""
_LONGEST_WORD = 16
"""A longer value of any parameter is also hidden outside the URL."""
_MOST_URLS = 100

_hidden: dict[str, str] = {}
"""Every known spelling of a secret, with its replacement."""

_vocabulary = {"null", "true", "false", "yes", "no", "on", "off", "load", "crc", "cpu", "cuda", "torch"}
"""Words that configs and reports consist of."""


def spare(records: Iterable[object]) -> None:
    """Notes the field names of all dataclasses among objects: a secret like one of them is hidden only in its URL."""
    for record in filter(dataclasses.is_dataclass, records):
        _vocabulary.update(field.name for field in dataclasses.fields(record))


def remember(data: object) -> None:
    """Notes the secrets of all URLs in overrides, a config or a URL, for `redacted`.

    Args:
        data: Text, or lists and mappings of text.
    """
    if isinstance(data, str):
        found = {spelling: shown for url in _urls(data) for spelling, shown in _secrets_of(url)}
        if not found.keys() <= _hidden.keys():
            _hidden.update(found)
            _pattern.cache_clear()
    elif isinstance(data, Mapping):
        for value in data.values():
            remember(value)
    elif isinstance(data, list | tuple):
        for value in data:
            remember(value)


def has_secrets() -> bool:
    """Returns whether any secret is known."""
    return bool(_hidden)


def redacted(text: str) -> str:
    """Replaces the known secrets in a text, and the credentials of all URLs in it."""
    if _hidden:
        text = _pattern().sub(lambda found: _hidden[found[0]], text)
    if ":/" not in text:
        return text
    return _QUERY.sub(_shown, _USER.sub(lambda found: f"{found['begin']}{HIDDEN}@", text))


class RedactingFormatter(logging.Formatter):
    """A log formatter that redacts; Hydra logs the overrides of a sweep's jobs as typed."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats a record as one or more lines."""
        return printable(redacted(super().format(record)).expandtabs())


def redact_files(paths: Iterable[Path]) -> None:
    """Redacts text files that others wrote; absent files are skipped."""
    for path in paths:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        shown = redacted(text)
        if shown != text:
            path.write_text(shown, encoding="utf-8")


def _urls(text: str) -> Iterator[str]:
    """Yields the URLs in a text, each with every possible end."""
    if ":" not in text:
        return
    begins = list(itertools.islice(_BEGIN.finditer(text), _MOST_URLS))
    for number, begin in enumerate(begins):
        end = begins[number + 1].start() if number + 1 < len(begins) else len(text)
        whole = text[begin.start() : end]
        before = text[begin.start() - 1 : begin.start()]
        inside = re.match(rf"(?:[^{before}\\]|\\.)*", whole) if before in ("'", '"') else None
        if inside is not None:
            yield inside[0]
            yield inside[0].replace(f"\\{before}", before)
            if "@" in inside[0] or "@" not in whole:  # else the quote is part of a password
                continue
        yield text[begin.start() :]
        yield whole
        yield whole.rstrip(" ,'\"[{(" + _PUNCTUATION)


def _secrets_of(url: str) -> Iterator[tuple[str, str]]:
    """Yields every spelling of a URL's secrets, with its replacement."""
    begin = _BEGIN.match(url)
    rest = url[begin.end() :] if begin is not None else ""
    user = _userinfo(rest)
    if user:
        name, colon, password = user.partition(":")
        for spelling in _spellings(user):
            yield from ((f"{sign}{spelling}@", f"{sign}{HIDDEN}@") for sign in ("/", ":"))
        yield from _standing_alone(password if colon else name)
        yield base64.b64encode(unquote(user).encode("utf-8", "surrogatepass")).decode(), HIDDEN
    nameless = re.search(r"\?([^=&#;?]+)(?:#|$)", rest[len(user) :])
    if nameless is not None:
        yield f"?{nameless[1]}", f"?{HIDDEN}"
        yield from _standing_alone(nameless[1])
    for found in _NAMED.finditer(rest[len(user) :]):
        before, value = f"{found['mark']}{found['name']}=", found["value"]
        if value and not _HARMLESS.fullmatch(value):
            yield from ((f"{before}{spelling}", f"{before}{HIDDEN}") for spelling in _spellings(value))
            if _TELLING.search(found["name"]) or len(value) > _LONGEST_WORD:
                yield from _standing_alone(value)


def _userinfo(rest: str) -> str:
    """Returns user and password, or an empty text; a password may contain characters that should be escaped."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return authority.rpartition("@")[0]
    user, colon, port = authority.partition(":")
    return rest.partition("@")[0] if colon and user and "@" in rest and not port.isdigit() else ""


def _standing_alone(secret: str) -> Iterator[tuple[str, str]]:
    """Yields a secret's spellings outside its URL; none if it is too short, or a word of the loader's."""
    if len(unquote(secret)) >= _SHORTEST and secret.lower() not in _vocabulary:
        yield from ((spelling, HIDDEN) for spelling in _spellings(secret) if len(spelling) >= _SHORTEST)


def _spellings(secret: str) -> set[str]:
    """Returns a secret as URLs, Python, JSON, YAML and shells write it."""
    plain = {secret, unquote(secret), quote(unquote(secret), safe=""), quote(unquote(secret))}
    written = {repr(text)[1:-1] for text in plain} | {json.dumps(text)[1:-1] for text in plain}
    written |= {printable(text) for text in plain} | {text.replace("'", "''") for text in plain}
    written |= {text.replace("'", "'\"'\"'") for text in plain} | {text.replace("'", r"\'") for text in plain}
    return {text for text in plain | written if text}


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    """Returns a pattern of the known secrets, longest first."""
    return re.compile("|".join(map(_matching, sorted(_hidden, key=lambda text: (-len(text), text)))))


def _matching(secret: str) -> str:
    literal = re.escape(secret)
    return literal if len(secret) >= _LONG or not secret.isalnum() else rf"(?<![A-Za-z0-9]){literal}(?![A-Za-z0-9])"


def _shown(url: re.Match[str]) -> str:
    return f"{_PARAMETER.sub(_parameter, url['url'])}{_query(url['query'] or '')}"


def _parameter(found: re.Match[str]) -> str:
    value = found[2].rstrip(_PUNCTUATION)
    return found[0] if _HARMLESS.fullmatch(value) else f"{found[1]}{HIDDEN}{found[2][len(value) :]}"


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
