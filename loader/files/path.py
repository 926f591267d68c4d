"""From the path a user types to a file on this machine.

Guarantees: `~` and `pkg://` are resolved without importing the package, a relative path starts at the working
directory, and the message for a missing file has the absolute path that was tried and similar names in its folder.
`leads_out` finds symbolic links that leave a checkpoint's folder; the only ordinary case is the Hugging Face cache,
whose `models--…/snapshots/REVISION/NAME` link into `models--…/blobs`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path, PurePosixPath

from ..errors import CheckpointError, ConfigError
from ..runtime import own_name
from ..text import lines
from ..text.lines import Fix
from ..text.wording import closest, listing, safe_text

if sys.platform == "win32":
    from pathlib import WindowsPath as _SystemPath
else:
    from pathlib import PosixPath as _SystemPath

_DIGITS = re.compile(r"([0-9]+)")
PACKAGE = "pkg://"
"""Begins the name of a file inside an installed package."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SLASH_LOST = re.compile(r"(https?|s3|gs|hf):/?(?!/)", re.IGNORECASE)
"""The beginning of a URL that lost one or both slashes."""
_LONGEST_PATH = 400
_MOST_ENTRIES = 10_000
"""A folder with more entries is not searched for similar names."""


def is_url(text: str | Path) -> bool:
    """Whether a text is a URL; ``pkg://`` is not, since it names a file on this machine."""
    return _URL.match(str(text)) is not None and not str(text).lower().startswith(PACKAGE)


def resolve_path(text: str | Path) -> Path:
    """Finds the file or folder that a config names.

    Args:
        text: A path, `~` allowed, no URL; `pkg://package.name/sub/file` is a file inside an installed package.

    Returns:
        The absolute path of something that exists.

    Raises:
        CheckpointError: It does not exist, or the text is not a path.
    """
    typed = str(text)
    if not typed or "\0" in typed:
        raise CheckpointError(
            f"checkpoint.path is {typed!r:.60}; the path of a file was expected", Fix("checkpoint.path=FILE")
        )
    path = _in_package(typed) if typed.startswith(PACKAGE) else _on_disk(typed)
    if not os.path.lexists(path):
        raise missing_file(path, typed)
    return path


def shown_path(path: str | Path) -> str:
    """Writes a path for a message, whole unless it is absurdly long."""
    return safe_text(called(path), longest=_LONGEST_PATH)


class CopyPath(_SystemPath):
    """The path of a local copy: messages name its origin, since a user knows a URL and not its place in a cache."""

    origin: str = ""

    @classmethod
    def of(cls, path: Path, origin: str) -> CopyPath:
        """The path of a copy of `origin`; paths derived from it are ordinary ones."""
        made = cls(path)
        made.origin = origin
        return made


def called(path: str | Path) -> str:
    """The name of a file in messages and reports: its path, or the URL that it was downloaded from."""
    return (path.origin if isinstance(path, CopyPath) else "") or str(path)


def is_copy(path: Path) -> bool:
    """Whether a path is a local copy's."""
    return isinstance(path, CopyPath) and bool(path.origin)


def path_override(path: str | Path, *, note: str = "") -> lines.Fix:
    """The override that names a path, as a shell takes it."""
    return lines.line("checkpoint.path", called(path), note=note)


def missing_file(path: Path, typed: str = "") -> CheckpointError:
    """The error for a missing file, with similar names in its folder."""
    origin = f" (checkpoint.path is {shown_path(typed)})" if typed and typed != str(path) else ""
    parent = next((folder for folder in path.parents if folder.is_dir()), path.parent)
    message = f"no such file: {shown_path(path)}{origin}"
    if _is_pattern(typed):
        return CheckpointError(f"{message}; several files are a sweep", lines.glob_line("checkpoint.path", typed))
    if _SLASH_LOST.match(typed):
        return CheckpointError(f"{message}; a URL has two slashes", path_override(_SLASH_LOST.sub(r"\1://", typed)))
    if parent != path.parent:
        message += f"; the folder {shown_path(path.parent)} does not exist either"
    near = closest(path.name, _names_in(parent)) if parent == path.parent else []
    if near:
        message += f"; similar names there: {listing(near)}"
    return CheckpointError(message, _advice(path, near))


def _is_pattern(typed: str) -> bool:
    """Whether a text looks like a shell's pattern for several files."""
    return any(sign in typed for sign in "*?") and not typed.startswith(PACKAGE)


def _on_disk(typed: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(typed)))  # noqa: PTH100, PTH111  # pathlib raises on an unknown user


def _advice(path: Path, near: list[str]) -> lines.Fix:
    from ..examples import COMMAND, EXAMPLE_FILES  # noqa: PLC0415  # only a missing file needs it

    if path.name in EXAMPLE_FILES:
        return lines.typed(*COMMAND.split(), called(path.parent), note="writes the example files")
    return path_override(path.parent / near[0]) if near else lines.Fix("checkpoint.path=FILE")


def _names_in(folder: Path) -> list[str]:
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) > _MOST_ENTRIES:
                    return []
    except OSError:
        return []  # a folder that cannot be listed offers no names
    return names


def _in_package(typed: str) -> Path:
    package, _, inside = typed.removeprefix(PACKAGE).partition("/")
    parts = PurePosixPath(inside).parts
    if not package or not parts or ".." in parts or PurePosixPath(inside).is_absolute():
        raise CheckpointError(
            f"checkpoint.path is {shown_path(typed)}; pkg://package.name/folder/file was expected",
            Fix("checkpoint.path=pkg://PACKAGE/FILE"),
        )
    folders = package_folders(package)
    if not folders:
        raise _no_package(package, typed)
    paths = [folder.joinpath(*parts) for folder in folders]
    return next(filter(os.path.lexists, paths), paths[-1])


def _no_package(package: str, typed: str) -> CheckpointError:
    top = lines.typed(package.partition(".")[0]).line or "it"
    return CheckpointError(
        f"checkpoint.path is {shown_path(typed)}, and there is no package '{safe_text(package)}' on the Python path",
        lines.Fix(note="install the package"),
        lines.Fix("export PYTHONPATH=FOLDER", f"the folder that holds {top}/"),
    )


def package_folders(package: str) -> list[Path]:
    """The folders of a package; empty if there is no such package.

    Args:
        package: Its dotted name.
    """
    top, *below = own_name(package).split(".")
    if not all(map(str.isidentifier, (top, *below))):
        return []
    try:
        spec = importlib.util.find_spec(top)  # it would import the parents of a dotted name
    except (ImportError, ValueError):
        return []
    locations = spec.submodule_search_locations if spec is not None else None
    return [folder for place in locations or () if (folder := Path(place, *below)).is_dir()]


_CACHED = "models--"
_SNAPSHOTS = "snapshots"


def leads_out(path: Path, folder: Path) -> Path | None:
    """The real path of a file below a folder, if a link leads outside; None if it stays inside.

    Args:
        path: A file below the folder; it need not exist.
        folder: The checkpoint's folder.
    """
    root = Path(os.path.realpath(folder))
    real = Path(os.path.realpath(path))
    return None if real.is_relative_to(_cache_of(root) or root) else real


def cached_repository(folder: Path) -> str:
    """The name on the Hub of the model whose cache contains this folder; empty if none does."""
    cache = _cache_of(Path(os.path.realpath(folder)))
    return "" if cache is None else cache.name.removeprefix(_CACHED).replace("--", "/")


def _cache_of(folder: Path) -> Path | None:
    for snapshot in (folder, *folder.parents):
        cache = snapshot.parent.parent
        if snapshot.parent.name == _SNAPSHOTS and cache.name.startswith(_CACHED):
            return cache
    return None


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which numbers in names count as numbers: 2 before 10."""
    pieces = _DIGITS.split(name)
    keys = [(0, piece) for piece in pieces]
    keys[1::2] = [(len(number), number) for number in (piece.lstrip("0") for piece in pieces[1::2])]
    return [*keys, (0, name)]


def conf_dir() -> Path:
    """Returns the folder of configs: next to the package in a checkout, inside it in an installed copy."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(
        f"the folder conf with config.yaml is neither in {package} nor next to it; this copy of the package is "
        "incomplete",
        Fix("pip install --force-reinstall hydra-loader"),
    )
