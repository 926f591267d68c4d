"""From a URL to a file in the cache.

Guarantees: what is handed out is complete, of the length that the server declared, of one version, and of the digest
that was asked for; until then nothing of it is a file that anything else reads. A break is mended a bounded number of
times, from where it happened if the server allows and says which version that is of; what is left of it then is gone on
with by the next run. No file is longer than declared, or than the disk and a limit allow.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from ..errors import CheckpointError
from ..formats.foreign import page_in
from ..text.lines import Fix
from ..text.wording import size
from .cache import Cache
from .transport import Answer, Interrupted, OutOfRange, Transport, Version, patiently, wait, worth_another
from .urls import Url

log = logging.getLogger(__name__)

_FRUITFUL = 1 << 20
"""An attempt that brought so many bytes does not count against them."""
_BLOCK = 1 << 20
_CHECKED = 64 << 20
"""Bytes after which the disk is looked at again."""
_MOST_UNDECLARED = 100 << 30
"""Bytes of a file whose length the server does not say."""

Advance = Callable[[int, int | None], None]
"""Takes how many bytes are there, and of how many, if that is known."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file in the cache."""

    digest: str
    seen: bool
    """Whether its bytes went through the digest just now, and not when it was downloaded once."""


def fetch(url: Url, transport: Transport, cache: Cache, expected: str | None) -> Fetched:
    """Has the file of a URL in the cache, downloaded where it is not there or not of the server's version.

    Args:
        url: The file.
        transport: The way to it.
        cache: Where it is kept.
        expected: The digest that its content must have; None takes any.

    Returns:
        Under which digest it is in the cache.

    Raises:
        CheckpointError: It is not to be had, or is something else; nothing of it is kept then, but for what a later
            run can go on with.
    """
    with cache.lock(url):
        known = cache.entry(url)
        offline = Fix()
        if known is not None:
            offline = Fix(f"checkpoint.sha256={known.digest}", "takes the copy in the cache, without the network")
        version = patiently(url, lambda: transport.look(url), offline)
        if known is not None and version.tag and known.version == version and expected in {None, known.digest}:
            log.info("%s: unchanged since it was downloaded, taken from the cache", url.shown)
            return Fetched(known.digest, seen=False)
        return Fetched(_Download(url, transport, cache, version).run(expected), seen=True)


class _Download:
    """One download, however many attempts it takes."""

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
                with bar(self._url.name) as advance:
                    self._all(file, advance)
                digest = self._digest.hexdigest()
                if expected not in {None, digest}:
                    self._start_over(file)
                    raise self._wrong_digest(digest, expected)
                self._cache.keep(self._url, digest, self._version, file)
        except BaseException:
            if not self._there or not self._version.tag:  # there is nothing that a later run could continue
                self._cache.drop_partial(self._url)
            raise
        log.info("%s: downloaded, %s, sha256 %s", self._url.shown, size(self._there), digest)
        return digest

    def _wrong_digest(self, digest: str, expected: str | None) -> CheckpointError:
        return CheckpointError(
            f"{self._url.shown} is not the file that was meant: its sha256 is {digest}, checkpoint.sha256 says "
            f"{expected}; nothing of it was kept",
            Fix(note="check where it comes from"),
            Fix(f"checkpoint.sha256={digest}", "if this one is right"),
        )

    def _prepare(self, file: IO[bytes]) -> None:
        """Takes up what an earlier run left; more than there should be is not of this version."""
        with self._cache.using("read"):
            while block := file.read(_BLOCK):
                self._digest.update(block)
                self._there += len(block)
        total = self._version.size
        if total is not None and self._there > total:
            self._start_over(file)
        self._cache.refuse_too_large(self._url, 0 if total is None else total - self._there)
        much = "" if total is None else f"{size(total)} "
        where = f", from byte {self._there:,} on" if self._there else ""
        log.info("%s: downloading %sto %s%s", self._url.shown, much, self._cache.root, where)

    def _all(self, file: IO[bytes], advance: Advance) -> None:
        fruitless = attempts = 0
        self._heard = time.monotonic()
        while self._version.size is None or not self._there or self._there < self._version.size:
            before = self._there
            attempts += 1
            try:
                self._attempt(file, advance)
            except Interrupted as error:
                fruitless = 0 if self._there - before >= _FRUITFUL else fruitless + 1
                if not worth_another(fruitless, self._heard):
                    raise self._given_up(error, attempts) from None
                wait(self._url, error, fruitless)
            else:
                return

    def _attempt(self, file: IO[bytes], advance: Advance) -> None:
        if self._there and not self._version.tag:  # nothing would tell that the rest is of another version
            self._start_over(file)
        try:
            with self._transport.open(self._url, self._there, None, self._version.tag) as answer:
                self._settle(answer, file)
                with self._cache.using():
                    self._receive(answer, file, advance)
                    file.flush()
        except OutOfRange:
            self._start_over(file)
            raise
        declared = self._version.size
        if declared is not None and self._there < declared:
            raise Interrupted("broke off", Fix(note="run it again"))

    def _settle(self, answer: Answer, file: IO[bytes]) -> None:
        """Starts over where the server does not go on with the version that there is a part of."""
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

    def _receive(self, answer: Answer, file: IO[bytes], advance: Advance) -> None:
        checked = self._there
        for chunk in answer.chunks():
            if not self._there:
                refuse_page(self._url, chunk, answer.said)
            self._refuse_more_than(self._version.size, self._there + len(chunk), file)
            file.write(chunk)
            self._digest.update(chunk)
            self._there += len(chunk)
            self._heard = time.monotonic()
            advance(self._there, self._version.size)
            if self._there - checked >= _CHECKED:
                checked = self._there
                self._cache.refuse_too_large(self._url, 0)

    def _refuse_more_than(self, declared: int | None, there: int, file: IO[bytes]) -> None:
        if there <= (_MOST_UNDECLARED if declared is None else declared):
            return
        self._start_over(file)  # an error after which nothing is there leaves no partial file
        if declared is not None:
            raise self._wrong_length(declared, there)
        raise CheckpointError(
            f"{self._url.shown} does not say how long it is, and has no end: {size(there)} came",
            Fix("checkpoint.path=FILE", "once it is downloaded by other means"),
        )

    def _given_up(self, error: Interrupted, attempts: int) -> CheckpointError:
        total = f" of {self._version.size:,}" if self._version.size is not None else ""
        came = f"; {self._there:,}{total} declared bytes came in {attempts:,} attempts" if self._there else ""
        again = Fix(note="run it again: it goes on where it stopped")
        fix = again if self._there and self._version.tag else error.fix
        return CheckpointError(f"{self._url.shown} {error.how}{came}", fix)

    def _wrong_length(self, declared: int, found: int) -> CheckpointError:
        return CheckpointError(
            f"{self._url.shown} has the wrong length: {declared:,} bytes were declared, {found:,} come",
            Fix(note="the file or the server is broken; try another source"),
        )


def refuse_page(url: Url, head: bytes, said: str) -> None:
    """Raises CheckpointError where a file begins as a web page does."""
    page = page_in(head)
    if page is not None:
        raise CheckpointError(f"{url.shown} is {page.what} ({said})", *page.fixes)


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
