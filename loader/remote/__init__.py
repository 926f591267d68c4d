"""Remote checkpoints: ``https://``, ``http://``, ``s3://``, ``gs://`` and ``hf://``.

Guarantees: importing this package imports neither fsspec nor a protocol's library. A URL opens as a `CheckpointFile`:
a complete copy in the cache with the required digest, or, if no data is needed, the remote file's header. Downloaded
content is never executed or unpacked.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.path import shown_path
from ..text.lines import Fix
from .cache import VARIABLE, Cache
from .source import INSTALL, RemoteCopy, Source, is_set
from .urls import parse_url

__all__ = ["local_copy", "open_remote"]


def open_remote(text: str, *, sha256: str | None, data: bool) -> CheckpointFile:
    """Opens the file at a URL.

    Args:
        text: The URL of a file, of the index of a sharded checkpoint, or, if the protocol has folders, of a folder with
            one checkpoint.
        sha256: The required digest, as the user gave it.
        data: Whether tensors will be read. If not, only the header of a safetensors file is fetched, unless there is a
            digest to check.

    Raises:
        CheckpointError: The file cannot be read, or is not the required one.
    """
    url = parse_url(text)
    cache = Cache(cache_folder())
    source = Source(url, cache)
    with ExitStack() as stack:
        stack.callback(source.close)
        cached = sha256 is not None and cache.has(sha256)
        found = url if cached else source.find()
        path = source.place(found)
        if sha256 is not None and is_set(found):
            source.pin(found, sha256)
        if data or sha256 is not None:
            file = source.download(found, path, None if is_set(found) else sha256)
        else:
            file = source.header(found, path)
        stack.pop_all()  # from here on, closing the file closes the connections
    return file


def local_copy(text: str) -> Path:
    """Downloads the file at a URL, unless it is cached, and returns its local path."""
    file = open_remote(text, sha256=None, data=True)
    file.close()
    return file.blob if isinstance(file, RemoteCopy) else file.path


def cache_folder() -> Path:
    """Returns ``$LOADER_CACHE``, else ``hydra-loader`` in ``$XDG_CACHE_HOME`` or in the system's folder for caches.

    Raises:
        CheckpointError: It is in the home of an unknown user, or relative to a folder that no longer exists.
    """
    named = os.environ.get(VARIABLE)
    folder = Path(named or os.environ.get("XDG_CACHE_HOME") or _folder_for_caches())
    try:
        folder = folder.expanduser().absolute()
    except RuntimeError:
        raise _nowhere(folder, "that user has no home folder") from None
    except OSError:
        raise _nowhere(folder, "the working folder no longer exists") from None
    return folder if named else folder / "hydra-loader"


def _folder_for_caches() -> str:
    """``~/.cache`` on Linux, ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows."""
    try:
        from platformdirs import user_cache_dir  # noqa: PLC0415  # only URLs need it
    except ImportError as error:
        raise CheckpointError(f"reading URLs needs a package that is not installed ({error})", INSTALL) from error
    try:
        return user_cache_dir()
    except RuntimeError:  # no home folder; the caller reports it
        return "~/.cache"


def _nowhere(folder: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"the cache folder {shown_path(folder)} cannot be found: {why}",
        Fix(f"{VARIABLE}=FOLDER", "an absolute path that this user can write to"),
    )
