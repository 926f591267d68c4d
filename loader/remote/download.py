"""From a URL to a file in the cache.

Guarantees: what is handed out is complete, of the length that the server declared, of one version, and of the digest
that was asked for; until then nothing of it is a file that anything else reads. A break is mended a bounded number of
times, from where it happened if the server allows; what is left of it then is gone on with by the next run.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import IO

from loader.errors import CheckpointError
from loader.formats.foreign.files import page_in
from loader.remote import patience
from loader.remote.cache import Cache
from loader.remote.patience import patiently, wait
from loader.remote.progress import Advance, bar
from loader.remote.refusals import changed_meanwhile
from loader.remote.transport import Answer, Interrupted, Transport, Version
from loader.remote.urls import Url
from loader.wording import size

log = logging.getLogger(__name__)

_FRUITFUL = 1 << 20
"""An attempt that brought so many bytes does not count against them."""
_BLOCK = 1 << 20


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
        offline = (
            f"checkpoint.sha256={known.digest}   # takes the copy in the cache, without the network" if known else ""
        )
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
        self._path = cache.partial(url)

    def run(self, expected: str | None) -> str:
        self._prepare()
        try:
            with bar(self._url.name) as advance:
                self._all(advance)
        except BaseException:
            if not self._there:  # there is nothing to go on with
                self._cache.drop_partial(self._url)
            raise
        digest = self._digest.hexdigest()
        if expected is not None and digest != expected:
            self._cache.drop_partial(self._url)
            raise CheckpointError(
                f"{self._url.shown} is not the file that was meant: its sha256 is {digest}, checkpoint.sha256 says "
                f"{expected}; nothing of it was kept",
                f"check where it comes from; if this one is right: checkpoint.sha256={digest}",
            )
        self._cache.keep(self._url, digest, self._version)
        log.info("%s: downloaded, %s, sha256 %s", self._url.shown, size(self._there), digest)
        return digest

    def _prepare(self) -> None:
        """Takes up what an earlier run left, if it is of the same version."""
        with self._cache.writing():
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._version.tag and self._cache.partial_tag(self._url) == self._version.tag:
                self._take_up()
            else:
                self._cache.drop_partial(self._url)
        total = self._version.size
        if total is not None:
            self._cache.refuse_too_large(self._url, total - self._there)
        much = "" if total is None else f"{size(total)} "
        where = f", from byte {self._there:,} on" if self._there else ""
        log.info("%s: downloading %sto %s%s", self._url.shown, much, self._cache.root, where)

    def _take_up(self) -> None:
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK):
                self._digest.update(block)
                self._there += len(block)

    def _all(self, advance: Advance) -> None:
        fruitless = attempts = 0
        while True:
            before = self._there
            attempts += 1
            try:
                self._attempt(advance)
            except Interrupted as error:
                fruitless = 0 if self._there - before >= _FRUITFUL else fruitless + 1
                if fruitless > len(patience.PAUSES):
                    raise self._given_up(error, attempts) from None
                wait(self._url, error, patience.PAUSES[max(fruitless - 1, 0)])
            else:
                return

    def _attempt(self, advance: Advance) -> None:
        with self._transport.open(self._url, self._there, None, self._version.tag) as answer:
            self._settle(answer)
            with self._cache.writing(), self._path.open("ab") as file:
                self._receive(answer, file, advance)
        declared = self._version.size
        if declared is not None and self._there != declared:
            if self._there > declared:
                self._cache.drop_partial(self._url)
                raise self._wrong_length(declared, self._there)
            raise Interrupted("broke off", "run it again")

    def _settle(self, answer: Answer) -> None:
        """Starts over where the server does not go on with the version that there is a part of."""
        found = answer.version
        if self._there and (answer.start != self._there or found.tag != self._version.tag):
            self._start_over()
        if answer.start != self._there:
            raise changed_meanwhile(self._url)
        if found.tag != self._version.tag or self._version.size is None:
            self._version = found
        elif found.size not in {None, self._version.size}:
            raise self._wrong_length(self._version.size, found.size or 0)
        with self._cache.writing():
            self._cache.note_partial(self._url, self._version)

    def _start_over(self) -> None:
        with self._cache.writing():
            self._cache.drop_partial(self._url)
        self._digest, self._there = hashlib.sha256(), 0

    def _receive(self, answer: Answer, file: IO[bytes], advance: Advance) -> None:
        for chunk in answer.chunks():
            if not self._there:
                refuse_page(self._url, chunk, answer.said)
            file.write(chunk)
            self._digest.update(chunk)
            self._there += len(chunk)
            advance(self._there, self._version.size)

    def _given_up(self, error: Interrupted, attempts: int) -> CheckpointError:
        total = f" of {self._version.size:,}" if self._version.size is not None else ""
        came = f"; {self._there:,}{total} declared bytes came in {attempts:,} attempts" if self._there else ""
        hint = "run it again: it goes on where it stopped" if self._there and self._version.tag else error.hint
        return CheckpointError(f"{self._url.shown} {error.how}{came}", hint)

    def _wrong_length(self, declared: int, found: int) -> CheckpointError:
        return CheckpointError(
            f"{self._url.shown} has the wrong length: {declared:,} bytes were declared, {found:,} come",
            "the file or the server is broken; try another source",
        )


def refuse_page(url: Url, head: bytes, said: str) -> None:
    """Raises CheckpointError where a file begins as a web page does."""
    page = page_in(head)
    if page is not None:
        raise CheckpointError(f"{url.shown} is {page.what} ({said})", page.hint)
