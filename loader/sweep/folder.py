"""A sweep's folder belongs to one sweep.

Guarantees: what would put the results of one over those of another, or next to a summary that does not know them, is
refused before a job starts; the claim ends with the process that made it, however that ends. A sweep that goes on from
an earlier one has a folder of its own, too.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from ..errors import ConfigError
from ..files.descriptors import SAFE_FLAGS
from ..files.lock import release_lock, try_lock
from ..text.lines import Fix, line
from ..text.wording import counted, safe_text
from .records import records_folder

SUMMARY = "summary.json"
"""What says how a sweep went, in its folder."""

_LOCK = "lock"
_LONGEST = 400


class Claim:
    """A sweep's folder while the sweep writes it.

    Args:
        folder: The sweep's folder; it is made.

    Raises:
        ConfigError: Another sweep is writing it, an earlier one did, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor: int | None = _locked(folder)
        try:
            _refuse_earlier(folder)
        except ConfigError:
            self.release()
            raise

    def release(self) -> None:
        """Lets other sweeps have the folder; one that nothing was written into is removed."""
        if self._descriptor is not None:
            release_lock(self._descriptor, records_folder(self.folder) / _LOCK)
            self._descriptor = None
        with suppress(OSError):
            records_folder(self.folder).rmdir()
            self.folder.rmdir()


def unwritable(folder: Path, error: OSError) -> ConfigError:
    """The refusal of a sweep whose folder is read-only, or has no room."""
    told = f"the sweep's folder {_shown(folder)} cannot be written: {error.strerror}"
    return ConfigError(told, Fix("hydra.sweep.dir=FOLDER", "one that can"))


def is_written(folder: Path) -> bool:
    """Says whether the sweep whose folder this is still runs, as far as can be known."""
    try:
        descriptor = os.open(records_folder(folder) / _LOCK, os.O_RDWR | SAFE_FLAGS)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return try_lock(descriptor) is not True
    finally:
        os.close(descriptor)


def _locked(folder: Path) -> int:
    records = records_folder(folder)
    try:
        records.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(records / _LOCK, os.O_RDWR | os.O_CREAT | SAFE_FLAGS, 0o644)
    except OSError as error:
        raise unwritable(folder, error) from error
    if try_lock(descriptor) is False:
        os.close(descriptor)
        found = f"another sweep is writing {_shown(folder)}; a folder for each sweep was expected"
        raise ConfigError(found, _other(folder))
    return descriptor


def _refuse_earlier(folder: Path) -> None:
    found = _earlier(folder)
    if found is not None:
        told = f"{_shown(folder)} holds {found}; a folder for each sweep was expected"
        raise ConfigError(told, _other(folder))


def _earlier(folder: Path) -> str | None:
    """What an earlier sweep has left in a folder; one that was over before it ran a job left nothing."""
    kept = sum(1 for _ in records_folder(folder).glob("[0-9]*.json"))
    if kept:
        return f"an earlier sweep that was broken off, with {counted(kept, 'job')}"
    try:
        jobs = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["jobs"]
        ran = sum(job["status"] != "not run" for job in jobs)
    except FileNotFoundError:
        ran = sum(1 for _ in folder.glob("*/report.json")) if (folder / "multirun.yaml").is_file() else 0
    except (OSError, ValueError, LookupError, TypeError):
        return f"a {SUMMARY} that this version does not read"
    return f"an earlier sweep, with {counted(ran, 'job')}" if ran else None


def _other(folder: Path) -> Fix:
    number = 2
    while os.path.lexists(f"{folder}-{number}"):
        number += 1
    return line("hydra.sweep.dir", f"{folder}-{number}")


def _shown(folder: Path) -> str:
    return safe_text(str(folder), _LONGEST)
