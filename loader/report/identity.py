"""What one job is of: by this, a later sweep recognizes the same job (`sweep.resume`).

Guarantees: two jobs are the same only if their configs, the loader's and torch's version, and every file are: those
that the config names, those that were opened as a checkpoint, and the source files of every `_target_` and of the
user's own modules. A file that changed while the job ran, or one out of the network without a digest, is the same as
nothing. Computing it imports no torch and reads no file but sources. A URL's secrets do not count, and are not in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import LoaderError
from ..files.file import note_opened
from ..files.path import PACKAGE, is_url, resolve_path
from ..formats.signatures import GOLDEN
from ..runtime import own_name
from ..text.redaction import redacted
from .environment import torch_version

_ASIDE = ("hydra", "sweep", "track")
"""Sections that do not change what a job does: how it is run, and where its result is logged."""
_OUTPUTS = (("convert", "path"), ("scaffold", "path"))
_FREE = ("model", "adapters", "evaluate", "verify")
"""Sections in which any text may be the path of a file."""
_MOST_FILES = 20_000
"""Files of a folder that are looked at."""
_LARGE = 4 << 20
"""Bytes from which a source file is compared by size and time."""
_TARGET = "_target_"

State = dict[str, Any] | None
"""What was seen of a file; None if it was absent. Equal states are the same content, as far as can be seen."""


class Identity:
    """What a job is of, while it runs.

    Args:
        config: The job's resolved config.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._known = identity_of(config)
        self._opened = note_opened()
        self._began = time.time_ns()

    def complete(self) -> dict[str, Any]:
        """Returns it with all files that the job used."""
        named = self._known["files"]
        places = {str(place.absolute()) for place in map(_place, named) if place is not None}
        opened = {name: _seen(status) for name, status in self._opened.items() if name not in places}
        files = {**named, **opened}
        sources = {str(file): self._source(file) for file in sorted(_sources(self._config))}
        return {**self._known, "files": files, "sources": sources}

    def _source(self, file: Path) -> State:
        """Returns the state of a source file; no state is that of one which changed after it may have been read."""
        state = source_state(file)
        try:
            changed = file.stat().st_mtime_ns >= self._began
        except OSError:
            changed = True
        return {"changed": time.time_ns()} if changed else state


def identity_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is known of a job without running it: ``{config, versions, files}``."""
    kept = {key: value for key, value in config.items() if key not in _ASIDE}
    for section, key in _OUTPUTS:
        if isinstance(kept.get(section), Mapping):
            kept[section] = {name: value for name, value in kept[section].items() if name != key}
    text = redacted(json.dumps(kept, default=str))
    return {
        "config": hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest(),
        "versions": {"loader": __version__, "torch": torch_version()},
        "files": dict(_files(config)),
    }


def difference(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Compares a job that ran with one that would run now.

    Args:
        recorded: The result of `Identity.complete`, out of a report.
        now: The result of `identity_of`.

    Returns:
        The first thing that differs; None if they are the same job.
    """
    if recorded.get("config") != now["config"]:
        return "the config"
    if recorded.get("versions") != now["versions"]:
        return "the version of torch or of the loader"
    files, sources = recorded.get("files"), recorded.get("sources")
    if not isinstance(files, Mapping) or not isinstance(sources, Mapping):
        return "the record"
    current = {name: now["files"].get(name, _UNKNOWN) for name in {**files, **now["files"]}}
    for name, state in current.items():
        found = _state(name) if state is _UNKNOWN else state
        if name not in files or not _equal(files[name], found, name):
            return str(name)
    return next((str(name) for name, state in sources.items() if source_state(Path(str(name))) != state), None)


_UNKNOWN: State = {"unknown": True}


def _equal(recorded: Any, now: State, name: str) -> bool:
    if now is None or not isinstance(recorded, Mapping):
        return recorded is None and now is None
    if "remote" in now:
        return False
    if recorded == now:
        return True
    digest = now.get("sha256")
    place = _place(name)
    if digest is None or place is None or recorded.get("sha256") != digest or recorded.get("bytes") != now["bytes"]:
        return False
    return _sha256(place) == str(digest)


def _files(config: Mapping[str, Any]) -> Iterator[tuple[str, State]]:
    """Yields the paths that a config names, as typed, with what is there."""
    for part in _parts(config):
        for path, digest in _digested(part.get("path"), part.get("sha256")):
            if is_url(path):
                if digest is None:
                    yield redacted(path), {"remote": True}
                continue
            state = _state(path)
            yield path, {**state, "sha256": digest} if state is not None and digest is not None else state
            yield f"{path}{GOLDEN}", _state(f"{path}{GOLDEN}")
    for section in _FREE:
        for text in _texts(config.get(section)):
            if is_url(text):
                yield redacted(text), {"remote": True}
            elif (state := _state(text)) is not None:
                yield text, state


def _digested(path: Any, digest: Any) -> Iterator[tuple[str, Any]]:
    """Yields the files of a path or a list of them, each with its digest."""
    paths = path if isinstance(path, list) else [path]
    digests = digest if isinstance(digest, list) and len(digest) == len(paths) else [digest] * len(paths)
    yield from ((one, own) for one, own in zip(paths, digests, strict=True) if isinstance(one, str))


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yields the settings of the root, of each part, and of the file that they are compared with."""
    parts, other = config.get("parts"), config.get("compare")
    compared = [other] if isinstance(other, Mapping) and other.get("path") else []
    for part in (config.get("checkpoint"), *(parts.values() if isinstance(parts, Mapping) else ()), *compared):
        if isinstance(part, Mapping):
            yield part


def _texts(node: Any) -> Iterator[str]:
    """Yields the texts in a node that can be paths."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            if key != _TARGET:
                yield from _texts(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _texts(value)


def _state(path: str) -> State:
    place = _place(path)
    try:
        status = place.stat() if place is not None else None
    except (OSError, ValueError):
        return None
    if place is None or status is None:
        return None
    if not stat.S_ISDIR(status.st_mode):
        return _seen(status) if stat.S_ISREG(status.st_mode) else {"remote": True}
    digest, number = hashlib.sha256(), 0
    for number, (name, found) in enumerate(_walk(place), 1):
        digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        if number >= _MOST_FILES:
            break
    return {"files": number, "digest": digest.hexdigest()}


def _place(path: str) -> Path | None:
    """Returns where a path leads; None if it leads nowhere."""
    try:
        return resolve_path(path) if path.lower().startswith(PACKAGE) else Path(path).expanduser()
    except (LoaderError, OSError, ValueError, RuntimeError):
        return None


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(here, name)
            try:
                yield str(path.relative_to(folder)), path.stat()
            except OSError:
                continue  # it ended between the two calls


def _seen(status: os.stat_result) -> dict[str, Any]:
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def source_state(file: Path) -> State:
    """Returns the state of a source file: its digest, or size and time of a large one."""
    try:
        status = file.stat()
        return _seen(status) if status.st_size > _LARGE else {"sha256": _sha256(file)}
    except OSError:
        return None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sources(config: Mapping[str, Any]) -> set[Path]:
    """Returns the files of the user's modules, and those that define the targets of a config."""
    used = {file for target in _targets(config) if (file := _defining_file(own_name(target))) is not None}
    return used | {*_own_modules()}


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == _TARGET and isinstance(value, str):
                yield value
            yield from _targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)


def _defining_file(target: str) -> Path | None:
    """Returns the file in which an imported object is defined."""
    words = target.split(".")
    for length in range(len(words), 0, -1):
        module = sys.modules.get(".".join(words[:length]))
        if module is None:
            continue
        found: Any = module
        try:
            for word in words[length:]:
                found = getattr(found, word)
            defined = sys.modules.get(str(getattr(found, "__module__", None)), module)
        except Exception:  # noqa: BLE001  # somebody else's `__getattr__` may raise anything
            defined = module
        return _file(defined)
    return None


def _file(module: Any) -> Path | None:
    # Not getattr: a module may load itself when it is asked for anything.
    name = vars(module).get("__file__") if type(module) is type(sys) else None
    return Path(name) if isinstance(name, str) and os.path.isabs(name) else None  # noqa: PTH117  # a text


_HERE = Path(__file__).parents[2]
_OTHERS = (sysconfig.get_path("stdlib"), str(_HERE / "loader"), str(_HERE / "hydra_loader"))
_PACKAGES = ("site-packages", "dist-packages")


def _own_modules() -> Iterator[Path]:
    """Yields the files of modules that are neither Python's, nor of an installed package, nor this package's."""
    for module in [*sys.modules.values()]:
        name = vars(module).get("__file__") if type(module) is type(sys) else None
        if isinstance(name, str) and not name.startswith(_OTHERS) and not any(part in name for part in _PACKAGES):
            yield from filter(None, [_file(module)])
