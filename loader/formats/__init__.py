"""Checkpoint files, read as data.

Guarantees: opening one runs nothing that the file names and imports nothing for it; whatever the file is, it is either
opened or refused with a `CheckpointError` that says what it is.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path

from loader.errors import CheckpointError, ConfigError
from loader.formats.file import CheckpointFile
from loader.formats.opened import OpenedFile
from loader.formats.path import resolve_path, shown_path
from loader.wording import did_you_mean, listing, safe_text

CHECKS = ("crc", "structure", "full")
_ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")


def open_checkpoint(
    path: str | Path,
    *,
    format: str = "auto",
    sha256: str | None = None,
    check: str = "crc",  # as in configs
) -> OpenedFile:
    """Opens a checkpoint and reads its index.

    Args:
        path: A file; `~` and `pkg://package/file` are resolved.
        format: `auto`, or the name of the format that it must have.
        sha256: The digest that it must have.
        check: `structure` compares no checksums, `crc` those of what is used, `full` all of them, at once.

    Raises:
        CheckpointError: It is missing, unreadable, damaged, no checkpoint, or has another digest or format.
        ConfigError: `format`, `check` or `sha256` is none.
    """
    from loader.formats.sniff import FORMATS, recognise  # noqa: PLC0415  # the formats build on this package

    _refuse_unknown("checkpoint.format", format, ("auto", *FORMATS))
    _refuse_unknown("checkpoint.check", check, CHECKS)
    resolved = resolve_path(path)
    if resolved.is_dir():
        raise _folder(resolved)
    file = CheckpointFile(resolved)
    try:
        found = recognise(file)
        if format not in {"auto", found.format}:
            raise CheckpointError(
                f"{shown_path(resolved)} is a {found.format} file; checkpoint.format says {format}",
                f"checkpoint.format={found.format}",
            )
        _compare_digest(file, sha256)
        with _collector_paused():
            return found.open(check)
    except BaseException:
        file.close()
        raise


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Millions of records are made and none is garbage: looking for cycles among them takes as long as reading."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _refuse_unknown(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(
            f"{key} is '{safe_text(value)}'{did_you_mean(value, known)}; one of {', '.join(known)} was expected",
            f"{key}={known[0]}",
        )


def _compare_digest(file: CheckpointFile, expected: str | None) -> None:
    if expected is None:
        return
    wanted = expected.lower()
    if len(wanted) != 64 or set(wanted) - set("0123456789abcdef"):
        raise ConfigError(
            f"checkpoint.sha256 is '{safe_text(expected)}'; 64 hexadecimal digits were expected",
            f"sha256sum {shown_path(file.path)}",
        )
    found = file.sha256()
    if found != wanted:
        raise CheckpointError(
            f"{shown_path(file.path)} is not the file that was meant: its sha256 is {found}, "
            f"checkpoint.sha256 says {wanted}",
            f"download the file again, or, if this one is right: checkpoint.sha256={found}",
        )


def _folder(path: Path) -> CheckpointError:
    try:
        names = sorted(name for name in os.listdir(path) if name.endswith(_ENDINGS))  # noqa: PTH208  # names, not paths
    except OSError:
        names = []  # a folder that cannot be listed has no file to offer
    held = f"; it holds {listing(names)}" if names else ""
    return CheckpointError(
        f"{shown_path(path)} is a folder; a checkpoint file was expected{held}",
        f"checkpoint.path={shown_path(path / names[0])}" if names else "checkpoint.path=FILE",
    )
