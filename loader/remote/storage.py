"""``s3://``, ``gs://`` and ``hf://``, each through its own fsspec file system.

Guarantees: only the file system of the URL's scheme is used, whatever the path contains; files are read in blocks, so
that memory stays flat and a broken connection loses one block; no call takes longer than a minute, however often a
library retries.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import unquote

from fsspec.registry import get_filesystem_class

from ..errors import CheckpointError
from ..formats.find import PREFERRED
from ..text.lines import Fix
from ..text.wording import safe_text
from .transport import Interrupted, Unreachable, Version
from .urls import Url, changed_meanwhile, not_allowed, not_found

_FIRST_BLOCK, _BLOCK = 1 << 20, 16 << 20
"""Bytes of the first and of the largest block: a fast block is followed by a larger one."""
_FAST = 2.0
_ANSWER, _WHOLE_BLOCK = 60.0, 60.0
"""Seconds for a request, with authentication, and for a block."""
_TAGS = ("ETag", "etag", "generation", "blob_id", "LastModified", "updated", "mtime", "last_modified", "created")
"""Fields in which file systems report the version of a file, the most reliable first."""
_PASSING = re.compile("Timeout|Connect|Network|Transport|Protocol|Incomplete|Payload")
_AGAIN = Fix(note="try again later, and check the network")
_HUB_FILE = re.compile(
    r"hf://(?:(?P<type>model|dataset|space)s/)?(?P<repository>[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?/(?P<name>.+)"
)
_Result = TypeVar("_Result")

log = logging.getLogger(__name__)


class StorageAnswer:
    """A range of a file's bytes."""

    def __init__(self, storage: StorageTransport, url: Url, version: Version, start: int, end: int | None) -> None:
        self.partial = True
        self.version, self.start, self.said = version, start, f"read through {url.scheme}"
        self._storage, self._url, self._end = storage, url, end

    def chunks(self) -> Iterator[bytes]:
        """The bytes, block by block."""
        size = self.version.size
        last = size if self._end is None else self._end if size is None else min(self._end, size)
        at, length = self.start, min(_FIRST_BLOCK, _BLOCK)
        while last is None or at < last:
            begun = time.monotonic()
            chunk = self._storage.block(self._url, at, at + length if last is None else min(at + length, last))
            if not chunk:
                break
            at += len(chunk)
            length = min(length * 2, _BLOCK) if time.monotonic() - begun < _FAST else max(length // 2, _FIRST_BLOCK)
            yield chunk
        self._refuse_mixture()

    def _refuse_mixture(self) -> None:
        """Raises CheckpointError if the version changed between the first block and the last."""
        if self._storage.look(self._url) != self.version:
            raise changed_meanwhile(self._url)


class StorageTransport:
    """A file system of fsspec, with the user's settings for it (FSSPEC_S3_ANON=true).

    Args:
        scheme: s3, gs or hf.
    """

    def __init__(self, scheme: str) -> None:
        self._kind = get_filesystem_class(scheme)

    @cached_property
    def _files(self) -> Any:
        return self._kind(skip_instance_cache=True, use_listings_cache=False)

    def look(self, url: Url) -> Version:
        """Requests a file's size and version."""
        info = self._info(url)
        if info.get("type") == "directory":
            raise not_found(url, "the path is a folder")
        size = info.get("size")
        return Version(size if isinstance(size, int) else None, _tag(info))

    @contextmanager
    def open(self, url: Url, start: int = 0, end: int | None = None, tag: str = "") -> Iterator[StorageAnswer]:
        """Requests bytes of a file; from its start if its version is no longer `tag`."""
        version = self.look(url)
        same = not tag or version.tag == tag
        yield StorageAnswer(self, url, version, start if same else 0, end)

    def names(self, url: Url) -> Sequence[str] | None:
        """The names of the files in a folder; None if the URL is a file."""
        if self._info(url).get("type") != "directory":
            return None
        listed = self._ask(url, lambda path: self._files.ls(path, detail=True))
        return sorted(str(one["name"]).rstrip("/").rpartition("/")[2] for one in listed if one.get("type") == "file")

    def block(self, url: Url, start: int, end: int) -> bytes:
        """Reads one block."""
        with _refusing(url, Interrupted):
            path = self._path(url)
            return bytes(within(_WHOLE_BLOCK, lambda: self._files.cat_file(path, start=start, end=end)))

    def version_copy(self, url: Url, tag: str) -> Path | None:  # noqa: ARG002  # as transports take it
        """Returns None: no other program has copies."""
        return None

    def latest_copy(self, url: Url) -> Path | None:  # noqa: ARG002  # as transports take it
        """Returns None: no other program has copies."""
        return None

    def close(self) -> None:
        """The file systems close their own sessions."""

    def _info(self, url: Url) -> dict[str, Any]:
        return dict(self._ask(url, lambda path: self._files.info(path)))  # noqa: PLW0108  # making `_files` may take time too

    def _ask(self, url: Url, ask: Callable[[str], _Result]) -> _Result:
        """Makes a request for a path; the first one authenticates."""
        with _refusing(url):
            return within(_ANSWER, lambda: ask(self._path(url)))

    def _path(self, url: Url) -> str:
        return str(self._kind._strip_protocol(url.text))  # noqa: SLF001  # fsspec's own way from a URL to a path


class HubTransport(StorageTransport):
    """The Hugging Face Hub, with its own library's cache (``$HF_HOME``)."""

    def names(self, url: Url) -> Sequence[str] | None:
        """The names of the files in a folder; without network access, of the cached checkpoints."""
        try:
            return super().names(url)
        except Unreachable as error:
            held = [name for pair in PREFERRED for name in pair if self.latest_copy(url.below(name)) is not None]
            if not held:
                raise
            log.warning("%s %s; its latest copy on this machine is used", url.shown, error.how)
            return held

    def version_copy(self, url: Url, tag: str) -> Path | None:
        """The cached file of a version: the cache names each file by the digest that the Hub reports."""
        found = _HUB_FILE.fullmatch(url.text)
        if found is None or not tag.isalnum():
            return None
        from huggingface_hub import constants, file_download  # noqa: PLC0415  # slow, and only hf:// needs it

        folder = file_download.repo_folder_name(repo_id=found["repository"], repo_type=found["type"] or "model")
        blob = Path(constants.HF_HUB_CACHE, folder, "blobs", tag)
        return blob if blob.is_file() else None

    def latest_copy(self, url: Url) -> Path | None:
        """The file in the cached snapshot of the revision."""
        found = _HUB_FILE.fullmatch(url.text)
        if found is None:
            return None
        from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415  # slow, and only hf:// needs it

        revision = unquote(found["revision"]) if found["revision"] else None
        try:
            path = try_to_load_from_cache(
                found["repository"], found["name"], revision=revision, repo_type=found["type"] or "model"
            )
        except ValueError:  # invalid names
            return None
        return Path(path) if isinstance(path, str) else None


def _tag(info: dict[str, Any]) -> str:
    lfs = info.get("lfs")
    digest = lfs.get("sha256") if isinstance(lfs, dict) else None
    found = digest or next((info[name] for name in _TAGS if info.get(name)), "")
    return str(found)


@contextmanager
def _refusing(url: Url, broken: type[Interrupted] = Unreachable) -> Iterator[None]:
    """Raises the errors of a file system, whatever their classes, as refusals that a user can act on.

    Args:
        url: The requested URL.
        broken: The error for a failed connection. The libraries retry by themselves; only a download is worth more.
    """
    try:
        yield
    except CheckpointError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise not_found(url, "no such file") from None
    except PermissionError as error:
        raise not_allowed(url, _said(error)) from None
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in {401, 403} or "Credentials" in type(error).__name__:
            raise not_allowed(url, _said(error)) from None
        if _may_pass(error):
            raise broken(f"was interrupted: {_said(error)}", _AGAIN) from None
        raise CheckpointError(f"{url.shown} cannot be read: {_said(error)}", _AGAIN) from error


def _may_pass(error: Exception) -> bool:
    """Whether an error is one of a connection; each library has its own classes, and few are an OSError."""
    return isinstance(error, OSError) or any(_PASSING.search(kind.__name__) for kind in type(error).__mro__)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {safe_text(error, 160)}"


def within(seconds: float, ask: Callable[[], _Result]) -> _Result:
    """Calls a function in a thread, which is abandoned after a time limit and does not keep the process alive.

    Args:
        seconds: The time limit.
        ask: The function.

    Raises:
        TimeoutError: The call took longer.
    """
    answer: Future[_Result] = Future()

    def work() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001  # raised again in the waiting thread
            answer.set_exception(error)

    # A pool would wait for its threads when the process ends.
    Thread(target=work, name="remote", daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        if answer.done():
            raise
        raise TimeoutError(f"no answer within {seconds:g} seconds") from None
