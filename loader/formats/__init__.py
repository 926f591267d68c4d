"""Checkpoint files, read as data.

Guarantees: opening one runs nothing that the file names and imports nothing for it; whatever the file is, it is either
opened or refused with a `CheckpointError` that says what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, ConfigError, located
from ..files.path import called, is_url, resolve_path, shown_path
from ..runtime import collector_paused
from ..text.lines import Fix, line, typed
from ..text.redaction import remember
from ..text.wording import did_you_mean, safe_text
from .signatures import FORMATS

if TYPE_CHECKING:
    from .opened import Checkpoint

CHECKS = ("crc", "structure", "full")


def open_checkpoint(
    path: str | Path,
    *,
    format: str = "auto",
    sha256: str | None = None,
    check: str = "crc",  # as in configs
    data: bool = True,
) -> Checkpoint:
    """Opens a checkpoint and reads its index.

    Args:
        path: A file, the index of a checkpoint in several files, or a folder that holds one checkpoint; `~` and
            `pkg://package/file` are resolved, and a URL is downloaded (`loader.remote`).
        format: `auto`, or the name of the format that it must have.
        sha256: The digest that it must have; that of several files is described at `several.digest_of`.
        check: `structure` compares no checksums, `crc` those of what is used, `full` all of them, at once.
        data: Whether tensors will be read; without, a remote file's header may be all that is fetched.

    Returns:
        The checkpoint; its `path` is what was given, made absolute, or where the copy of a remote file is.

    Raises:
        CheckpointError: It is missing, unreadable, damaged, no checkpoint, or has another digest or format.
        ConfigError: `format`, `check` or `sha256` is none.
    """
    from . import found  # noqa: PLC0415  # the formats build on this package

    remember(str(path))
    _refuse_unknown("checkpoint.format", format, ("auto", *FORMATS))
    _refuse_unknown("checkpoint.check", check, CHECKS)
    wanted = _digest(path, sha256)
    with ExitStack() as stack:
        if is_url(path):
            from ..remote import open_remote  # noqa: PLC0415  # only URLs need it

            file = open_remote(str(path), sha256=wanted, data=data or check == "full")
            stack.callback(file.close)
            named, kind = file.path, found.find_in(file, stack)
        else:
            named = resolve_path(path)
            kind = found.find(named, stack)
        if format not in {"auto", kind.format}:
            raise CheckpointError(
                f"{shown_path(named)} is a {kind.format} {'checkpoint' if named.is_dir() else 'file'}; "
                f"checkpoint.format says {format}",
                line("checkpoint.format", kind.format),
            )
        _compare_digest(named, kind.sha256, wanted)
        with collector_paused(), located(shown_path(named)):
            opened = kind.open(check)
        opened.path = named
        stack.pop_all()  # from here on, the checkpoint closes its files
    return opened


def _refuse_unknown(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(
            f"{key} is '{safe_text(value)}'{did_you_mean(value, known)}; one of {', '.join(known)} was expected",
            line(key, known[0]),
        )


def _digest(path: str | Path, expected: str | None) -> str | None:
    if expected is None:
        return None
    wanted = expected.lower()
    if len(wanted) != 64 or set(wanted) - set("0123456789abcdef"):
        raise ConfigError(
            f"checkpoint.sha256 is '{safe_text(expected)}'; 64 hexadecimal digits were expected",
            typed("sha256sum", called(path)),
        )
    return wanted


def _compare_digest(path: Path, digest: Callable[[], str], wanted: str | None) -> None:
    if wanted is None:
        return
    found = digest()
    if found != wanted:
        raise CheckpointError(
            f"{shown_path(path)} is not the file that was meant: its sha256 is {found}, "
            f"checkpoint.sha256 says {wanted}",
            Fix(note="download the file again"),
            Fix(f"checkpoint.sha256={found}", "if this one is right"),
        )
