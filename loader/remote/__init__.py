"""Checkpoints that are not on this machine: ``https://``, ``http://``, ``s3://``, ``gs://`` and ``hf://``.

Guarantees: importing this package imports neither fsspec nor a protocol's package. What is opened is a
`CheckpointFile`: a copy in the cache that is complete and has the digest that was asked for, or, where no data is
wanted, the remote file's header. Nothing that came from elsewhere is run, unpacked, or looked for anywhere else.
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
    """Opens the file that a URL names.

    Args:
        text: The URL of a file, of the index of a checkpoint in several files, or, where the protocol has folders, of a
            folder with one checkpoint.
        sha256: The digest that it must have, of which nothing else is known yet.
        data: Whether tensors will be read; without, the header of a safetensors file is all that is fetched, unless a
            digest is to be checked.

    Raises:
        CheckpointError: It is not to be had, or is something else.
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
            file = source.whole(found, path, None if is_set(found) else sha256)
        else:
            file = source.header(found, path)
        stack.pop_all()  # from here on, closing the file closes the connections
    return file


def local_copy(text: str) -> Path:
    """Downloads the file that a URL names, unless it is in the cache, and returns where it is now."""
    file = open_remote(text, sha256=None, data=True)
    file.close()
    return file.blob if isinstance(file, RemoteCopy) else file.path


def cache_folder() -> Path:
    """``$LOADER_CACHE``, else ``hydra-loader`` in ``$XDG_CACHE_HOME`` or in the system's folder for caches.

    Raises:
        CheckpointError: It is in the home of a user that is not known, or relative to a folder that is gone.
    """
    named = os.environ.get(VARIABLE)
    folder = Path(named or os.environ.get("XDG_CACHE_HOME") or _folder_for_caches())
    try:
        folder = folder.expanduser().absolute()
    except RuntimeError:
        raise _nowhere(folder, "there is no home folder of that user") from None
    except OSError:
        raise _nowhere(folder, "the working folder is gone") from None
    return folder if named else folder / "hydra-loader"


def _folder_for_caches() -> str:
    """``~/.cache`` on Linux, ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows."""
    try:
        from platformdirs import user_cache_dir  # noqa: PLC0415  # only URLs need it
    except ImportError as error:
        raise CheckpointError(f"reading URLs needs a package that is not installed ({error})", INSTALL) from error
    try:
        return user_cache_dir()
    except RuntimeError:  # there is no home folder, which is refused where it is looked for
        return "~/.cache"


def _nowhere(folder: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"the cache is to be in {shown_path(folder)}, and {why}",
        Fix(f"{VARIABLE}=FOLDER", "the whole path of one that this user may write to"),
    )
