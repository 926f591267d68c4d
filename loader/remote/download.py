"""Downloads the file of a URL into the cache.

Guarantees: the result is complete, has the declared length and the required digest, and is of one version; until then
nothing else can read any of it. A broken download is resumed a bounded number of times, if the server supports that and
reports versions, and by the next run after that. No file becomes longer than declared, or than the disk and a limit
allow.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from typing import IO

from ..errors import CheckpointError
from ..formats.foreign import page_in
from ..text.lines import Fix
from ..text.progress import Shown, progress
from ..text.wording import size
from .cache import Cache
from .transport import Answer, Interrupted, OutOfRange, Transport, Version, wait, with_retries, worth_another
from .urls import Url

log = logging.getLogger(__name__)

_FRUITFUL = 1 << 20
"""Bytes after which an attempt counts as successful, even if it breaks."""
_BLOCK = 1 << 20
_CHECKED = 64 << 20
"""Bytes after which the free space is checked again."""
_MOST_UNDECLARED = 100 << 30
"""The largest size of a file whose length the server does not declare."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file in the cache."""

    digest: str
    seen: bool
    """Whether the digest was computed just now, and not in an earlier download."""


def fetch(url: Url, transport: Transport, cache: Cache, expected: str | None) -> Fetched:
    """Downloads a file into the cache, unless its current version is there.

    Args:
        url: The file.
        transport: Requests it.
        cache: Stores it.
        expected: The required digest; None for any.

    Returns:
        The digest that names it in the cache.

    Raises:
        CheckpointError: It cannot be read or has another digest; only what a later run can resume is kept.
    """
    with cache.lock(url):
        known = cache.entry(url)
        offline = Fix()
        if known is not None:
            offline = Fix(f"checkpoint.sha256={known.digest}", "uses the cached copy, without network access")
        version = with_retries(url, lambda: transport.look(url), offline)
        if known is not None and version.tag and known.version == version and expected in {None, known.digest}:
            log.info("%s: unchanged since it was downloaded; taken from the cache", url.shown)
            return Fetched(known.digest, seen=False)
        return Fetched(_Download(url, transport, cache, version).run(expected), seen=True)


class _Download:
    """One download, in as many attempts as it takes."""

    def __init__(self, url: Url, transport: Transport, cache: Cache, version: Version) -> None:
        self._url, self._transport, self._cache = url, transport, cache
        self._version = version
        self._digest = hashlib.sha256()
        self._there = 0
        self._heard = time.monotonic()

    def run(self, expected: str | None) -> str:
        file = self._cache.open_partial(self._url, self._version.tag)
        try:
            with file:
                self._prepare(file)
                total = self._version.size
                with progress(f"downloading {self._url.name}", total=total, unit="B", done=self._there) as shown:
                    self._all(file, shown)
                digest = self._digest.hexdigest()
                if expected not in {None, digest}:
                    self._start_over(file)
                    raise self._wrong_digest(digest, expected)
                self._cache.keep(self._url, digest, self._version, file)
        except BaseException:
            if not self._there or not self._version.tag:  # there is nothing to resume
                self._cache.drop_partial(self._url)
            raise
        log.info("%s: downloaded, %s, sha256 %s", self._url.shown, size(self._there), digest)
        return digest

    def _wrong_digest(self, digest: str, expected: str | None) -> CheckpointError:
        return CheckpointError(
            f"{self._url.shown} has sha256 {digest}, but checkpoint.sha256 is {expected}; nothing was kept",
            Fix(note="check its source"),
            Fix(f"checkpoint.sha256={digest}", "if this one is right"),
        )

    def _prepare(self, file: IO[bytes]) -> None:
        """Resumes an earlier run's download; one that is too long is of another version."""
        with self._cache.using("read"):
            while block := file.read(_BLOCK):
                self._digest.update(block)
                self._there += len(block)
        total = self._version.size
        if total is not None and self._there > total:
            self._start_over(file)
        self._cache.refuse_too_large(self._url, 0 if total is None else total - self._there)
        much = "" if total is None else f"{size(total)} "
        where = f", from byte {self._there:,}" if self._there else ""
        log.info("%s: downloading %sto %s%s", self._url.shown, much, self._cache.root, where)

    def _all(self, file: IO[bytes], shown: Shown) -> None:
        fruitless = attempts = 0
        self._heard = time.monotonic()
        while self._version.size is None or not self._there or self._there < self._version.size:
            before = self._there
            attempts += 1
            try:
                self._attempt(file, shown)
            except Interrupted as error:
                fruitless = 0 if self._there - before >= _FRUITFUL else fruitless + 1
                if not worth_another(fruitless, self._heard):
                    raise self._given_up(error, attempts) from None
                wait(self._url, error, fruitless)
            else:
                return

    def _attempt(self, file: IO[bytes], shown: Shown) -> None:
        if self._there and not self._version.tag:  # the rest could be of another version, unnoticed
            self._start_over(file)
        try:
            with self._transport.open(self._url, self._there, None, self._version.tag) as answer:
                self._settle(answer, file)
                with self._cache.using():
                    self._receive(answer, file, shown)
                    file.flush()
        except OutOfRange:
            self._start_over(file)
            raise
        declared = self._version.size
        if declared is not None and self._there < declared:
            raise Interrupted("was interrupted", Fix(note="run it again"))

    def _settle(self, answer: Answer, file: IO[bytes]) -> None:
        """Starts over if the server answers with another version or another range."""
        found = answer.version
        if self._there and (answer.start != self._there or found.tag != self._version.tag):
            self._start_over(file)
        if answer.start != self._there:
            raise Interrupted("changed while it was being read", Fix(note="run it again once it is fully uploaded"))
        if found.tag != self._version.tag or self._version.size is None:
            self._version = found
        elif found.size not in {None, self._version.size}:
            raise self._wrong_length(self._version.size, found.size or 0)
        with self._cache.using():
            self._cache.note_partial(self._url, self._version)

    def _start_over(self, file: IO[bytes]) -> None:
        with self._cache.using():
            file.truncate(0)
        self._digest, self._there = hashlib.sha256(), 0

    def _receive(self, answer: Answer, file: IO[bytes], shown: Shown) -> None:
        checked = self._there
        for chunk in answer.chunks():
            if not self._there:
                refuse_page(self._url, chunk, answer.said)
            self._refuse_more_than(self._version.size, self._there + len(chunk), file)
            file.write(chunk)
            self._digest.update(chunk)
            self._there += len(chunk)
            self._heard = time.monotonic()
            shown.reached(self._there, self._version.size)
            if self._there - checked >= _CHECKED:
                checked = self._there
                self._cache.refuse_too_large(self._url, 0)

    def _refuse_more_than(self, declared: int | None, there: int, file: IO[bytes]) -> None:
        if there <= (_MOST_UNDECLARED if declared is None else declared):
            return
        self._start_over(file)  # so that no partial file is kept
        if declared is not None:
            raise self._wrong_length(declared, there)
        raise CheckpointError(
            f"{self._url.shown} declares no length and does not end: {size(there)} received",
            Fix("checkpoint.path=FILE", "after downloading it by other means"),
        )

    def _given_up(self, error: Interrupted, attempts: int) -> CheckpointError:
        total = f" of {self._version.size:,}" if self._version.size is not None else ""
        came = f"; {self._there:,}{total} declared bytes arrived in {attempts:,} attempts" if self._there else ""
        again = Fix(note="run it again: the download is resumed")
        fix = again if self._there and self._version.tag else error.fix
        return CheckpointError(f"{self._url.shown} {error.how}{came}", fix)

    def _wrong_length(self, declared: int, found: int) -> CheckpointError:
        return CheckpointError(
            f"{self._url.shown} has the wrong length: {declared:,} bytes were declared, {found:,} received",
            Fix(note="the file or the server is broken; try another source"),
        )


def refuse_page(url: Url, head: bytes, said: str) -> None:
    """Raises CheckpointError if a file starts like a web page."""
    page = page_in(head)
    if page is not None:
        raise CheckpointError(f"{url.shown} is {page.what} ({said})", *page.fixes)
