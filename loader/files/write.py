"""Atomic writes, and locks on open files.

Guarantees: a reader sees the old content or the new one, never a part, whichever process writes meanwhile; nothing is
written through an existing link. `drafts` completes several files under hidden names before the first one replaces its
target; the previous files are kept until the last one has, and an error, an interruption by the user or a scheduler's
signal to end restores them and removes the drafts. A lock ends with the process that holds it.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from ..errors import ConfigError
from ..runtime import terminable
from ..text.lines import Fix, typed
from ..text.wording import phrases
from .descriptors import SAFE_FLAGS
from .path import shown_path

log = logging.getLogger(__name__)

_CHUNK = 64 << 20
_ELSEWHERE = Fix("convert.path=FILE", "in a writable folder on a disk with enough space")
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE_FLAGS

Write = Callable[[bytes | memoryview], None]


class _WriteError(OSError):
    """A file that could not be written, under the name that the user knows."""


class Drafts:
    """Files that are written first and replace their targets together."""

    def __init__(self) -> None:
        self._drafts: dict[Path, Path] = {}
        self._fixes: dict[str, Fix] = {}
        """What to do if a target cannot be written."""
        self._steps: list[tuple[Path, Path | None]] = []
        """Targets that are being replaced, in order, with the second name of the previous file."""
        self._kept: list[Path] = []
        """Second names of previous files that are no longer needed."""

    def write(self, path: Path, pieces: Iterable[bytes | memoryview], fix: Fix = _ELSEWHERE) -> None:
        """Writes a file next to its target; `fix` says what to do if that fails."""
        self._fixes[str(path)] = fix
        self._drafts[path] = draft = _hidden(path)
        with _named(path):
            descriptor = os.open(draft, _FLAGS, 0o666)
            try:
                for piece in pieces:
                    _write(descriptor, piece)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def settle(self, first: Iterable[Path], last: Iterable[Path]) -> None:
        """Replaces every target, in the order in which the files were written.

        Args:
            first: Files to remove before, so that no reader mixes old and new files.
            last: Files to remove afterwards.

        Raises:
            ConfigError: All targets are replaced, and a file of `last` cannot be removed.
        """
        for path in first:
            with _named(path):
                self._keep(path)
                path.unlink(missing_ok=True)
        for path, draft in self._drafts.items():
            with _named(path):
                self._keep(path)
                draft.replace(path)
        for folder in {path.parent for path in self._drafts}:
            _sync(folder)
        self._kept = [kept for _, kept in self._steps if kept is not None]
        self._steps.clear()
        _remove(last)
        self._tidy()

    def fix(self, path: str) -> Fix:
        """What to do if a file cannot be written."""
        return self._fixes.get(path, _ELSEWHERE)

    def discard(self) -> str:
        """Restores the previous files, removes the new ones, and reports the outcome."""
        faults = []
        restored = any(kept is not None for _, kept in self._steps)
        for path, kept in reversed(self._steps):
            try:
                _undo(path, kept)
            except OSError as error:
                fault = f"{shown_path(path)} could not be {'removed' if kept is None else 'restored'}"
                faults.append(f"{fault} ({_reason(error)})" + (f" and is kept as {shown_path(kept)}" if kept else ""))
                log.error("%s", faults[-1])
        self._tidy()
        if faults:
            return phrases(faults)
        return "nothing was left behind" + (", and the previous files are restored" if restored else "")

    def _keep(self, path: Path) -> None:
        """Gives the previous file of a target a second name."""
        kept = _hidden(path) if os.path.lexists(path) else None
        self._steps.append((path, kept))
        if kept is not None:
            try:
                os.link(path, kept, follow_symlinks=os.link not in os.supports_follow_symlinks)
            except OSError:  # a file system without hard links; for a moment neither file exists
                path.replace(kept)

    def _tidy(self) -> None:
        for path in (*self._drafts.values(), *self._kept):
            with suppress(OSError):  # a checkpoint does not have this name
                path.unlink(missing_ok=True)


@contextmanager
def drafts() -> Iterator[Drafts]:
    """Files to write together; on an error before all targets are replaced, everything is as before.

    Raises:
        ConfigError: They cannot be written.
    """
    made = Drafts()
    with _terminable():
        try:
            yield made
        except _WriteError as error:
            raise ConfigError(
                f"{shown_path(error.filename)} cannot be written: {_reason(error)}; {made.discard()}",
                made.fix(error.filename),
            ) from error
        except BaseException:
            made.discard()
            raise


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Makes an error of the system name the target, not the draft."""
    try:
        yield
    except OSError as error:
        raise _WriteError(error.errno, _reason(error), str(path)) from error


def _hidden(path: Path) -> Path:
    """An unused hidden name in the same folder; unpredictable, since a link under a known one would be followed."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(16)}")


def _undo(path: Path, kept: Path | None) -> None:
    if kept is None:
        path.unlink(missing_ok=True)
    elif os.path.lexists(path) and os.path.lexists(kept) and path.lstat().st_ino == kept.lstat().st_ino:
        kept.unlink()  # it was not replaced yet
    elif os.path.lexists(kept):
        kept.replace(path)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _terminable() -> AbstractContextManager[None]:
    """Lets a terminated process clean up, unless it has a handler of its own."""
    return terminable() if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else nullcontext()


def _write(descriptor: int, piece: bytes | memoryview) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest[:_CHUNK]) :]


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{shown_path(path)}, from an earlier conversion, cannot be removed: {_reason(error)}",
                typed("rm", str(path)),
            ) from error


def _sync(folder: Path) -> None:
    """Syncs the new names to disk, where the system can sync a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        return
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    with draft_of(path) as draft:
        draft.write_bytes(content)


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """A hidden path for the new content of a file, which replaces it at the end; on an error the file stays."""
    draft = _hidden(path)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)  # replacing a file by another link to it does nothing


def try_lock(descriptor: int) -> bool | None:
    """Locks an open file until its descriptor is closed.

    Returns:
        False if another process or thread holds the lock; None if the file system has no locks.
    """
    from filelock import lock_descriptor  # noqa: PLC0415  # a plain load needs no lock

    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:
        return None


def wait_for_lock(descriptor: int, waiting: Callable[[], None]) -> bool:
    """Locks an open file until its descriptor is closed, however long the wait.

    Args:
        descriptor: The open file.
        waiting: Called before the wait, if another process or thread holds the lock.

    Returns:
        False if the file system has no locks.
    """
    from filelock import lock_descriptor  # noqa: PLC0415  # a plain load needs no lock

    locked = try_lock(descriptor)
    if locked is False:
        waiting()
        locked = lock_descriptor(descriptor)
    return locked is True


def release_lock(descriptor: int, path: Path) -> None:
    """Removes a locked file and closes it: first one, then the other, so that a waiting process sees it is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError:  # Windows does not remove open files
        os.close(descriptor)
        with suppress(OSError):
            path.unlink(missing_ok=True)
    else:
        os.close(descriptor)
