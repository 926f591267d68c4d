"""The folders and files that a sweep and its jobs write.

Guarantees: a folder belongs to one sweep: one that an earlier sweep used, or another is writing to, is refused before
a job starts, and the claim on it ends with its process. Jobs that would write to one folder or file are refused before
the first one starts, as far as the jobs are known by then. No folder of a run or sweep is named after a URL's secret;
if only the sweeper knows the jobs, folder names made from overrides are refused once any secret is known.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ..config.jobs import is_numbered, is_only_numbered
from ..errors import ConfigError
from ..files.descriptors import SAFE_FLAGS
from ..files.write import release_lock, try_lock
from ..text.lines import NO_FIX, Fix, line, together, typed
from ..text.redaction import has_secrets, redacted, remember
from ..text.wording import counted, safe_text
from .records import records_folder

SUMMARY = "summary.json"
"""The name of a sweep's summary, in its folder."""

_LOCK = "lock"
_LONGEST = 400


class Claim:
    """The exclusive use of a sweep's folder.

    Args:
        folder: The sweep's folder; created if absent.

    Raises:
        ConfigError: Another sweep is writing to it, an earlier one did, or it cannot be written.
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
        """Releases the folder, and removes it if it is empty."""
        if self._descriptor is not None:
            release_lock(self._descriptor, records_folder(self.folder) / _LOCK)
            self._descriptor = None
        with suppress(OSError):
            records_folder(self.folder).rmdir()
            self.folder.rmdir()


def unwritable(folder: Path, error: OSError) -> ConfigError:
    """Returns the refusal of a sweep whose folder is read-only or full."""
    fault = f"the sweep's folder {_shown(folder)} cannot be written: {error.strerror}"
    return ConfigError(fault, Fix("hydra.sweep.dir=FOLDER", "a writable folder"))


def is_written(folder: Path) -> bool:
    """Returns whether the sweep in this folder is still running, as far as can be known."""
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
        found = f"another sweep is writing to {_shown(folder)}; expected one folder per sweep"
        raise ConfigError(found, _other(folder))
    return descriptor


def _refuse_earlier(folder: Path) -> None:
    found, usable = _earlier(folder)
    if found:
        other = _other(folder)
        again = together([other, line("sweep.resume", str(folder))], "goes on where it ended") if usable else NO_FIX
        raise ConfigError(f"{_shown(folder)} contains {found}; expected one folder per sweep", other, again)


def _earlier(folder: Path) -> tuple[str, bool]:
    """Describes the results of an earlier sweep in a folder; empty if it ran no job. Returns if they can be resumed."""
    kept = sum(1 for _ in records_folder(folder).glob("[0-9]*.json"))
    if kept:
        return f"an earlier, interrupted sweep with {counted(kept, 'job')}", True
    usable = True
    try:
        jobs = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["jobs"]
        ran = sum(job["status"] != "not run" for job in jobs)
    except FileNotFoundError:
        usable = False
        ran = sum(1 for _ in folder.glob("*/report.json")) if (folder / "multirun.yaml").is_file() else 0
    except (OSError, ValueError, LookupError, TypeError):
        return f"a {SUMMARY} that this version cannot read", False
    return f"an earlier sweep with {counted(ran, 'job')}" if ran else "", usable


def _other(folder: Path) -> Fix:
    number = 2
    while os.path.lexists(f"{folder}-{number}"):
        number += 1
    return line("hydra.sweep.dir", f"{folder}-{number}")


def _shown(folder: Path) -> str:
    return safe_text(str(folder), _LONGEST)


_FOLDER = "hydra.sweep.subdir"
_FILES = {"convert": "convert.path", "scaffold": "scaffold.path"}
"""The config key of the file that a job of each mode writes."""
_ENDINGS = {"convert.path": ".safetensors", "scaffold.path": ".yaml"}
_NUMBER = "${hydra:job.num}"
_PLAIN = re.compile(r"[\w./@+${}: -]+")
"""A path with interpolations, to which one more can be added."""


def refuse_shared(config: DictConfig, jobs: Sequence[Sequence[str]] | None, composer: Any) -> None:
    """Refuses a sweep if several of its jobs would write to one folder or file.

    Args:
        config: The sweep's own config.
        jobs: The overrides of each job; None if only the sweeper knows them.
        composer: Hydra's config loader.

    Raises:
        ConfigError: With the first two such jobs.
    """
    if jobs is None:
        for key in (_FOLDER, *_files(config)):
            pattern = _pattern_of(config, key)
            if pattern and "${" not in pattern:
                raise _shared(key, pattern, "every job")
        return
    changed = {override.lstrip("+").partition("=")[0] for job in jobs for override in job}
    doubtful = _doubtful(config, changed)
    if len(jobs) < 2 or not doubtful:
        return
    written: dict[tuple[str, str], int] = {}
    for number, (key, place, pattern) in _places(config, jobs, composer):
        other = written.setdefault((key, place), number)
        if other != number and key in doubtful:
            raise _shared(key, pattern, f"jobs {other} and {number}")


def _files(config: DictConfig) -> list[str]:
    """Returns the key of the file that a job writes, if its mode writes one."""
    return [key for mode, key in _FILES.items() if OmegaConf.select(config, "mode") == mode]


def _pattern_of(config: DictConfig, key: str) -> str:
    """Returns the unresolved value of a key; an empty text if it is not set."""
    above, _, name = key.rpartition(".")
    node = OmegaConf.select(config, above)
    value = OmegaConf.to_container(node, resolve=False).get(name) if isinstance(node, DictConfig) else None  # type: ignore[union-attr]
    return "" if value is None else str(value)


def _doubtful(config: DictConfig, changed: set[str]) -> set[str]:
    """Returns the keys that may have one value for two jobs, given the keys that their overrides change."""
    modes = [key for mode, key in _FILES.items() if changed & {"mode", "experiment"} or key in _files(config)]
    return {key for key in (_FOLDER, *modes) if key in changed or not is_numbered(_pattern_of(config, key))}


def _shared(key: str, pattern: str, jobs: str) -> ConfigError:
    kind = "folder" if key == _FOLDER else "file"
    fault = f"{key}={safe_text(pattern, _LONGEST)} is one {kind} for {jobs}; expected one {kind} per job"
    other = "${hydra.job.num}" if key == _FOLDER else _numbered(pattern, _ENDINGS[key])
    return ConfigError(fault, typed(f"{key}={other}"))


def _numbered(pattern: str, ending: str) -> str:
    """Adds the job's number to a file's name."""
    if not _PLAIN.fullmatch(pattern):
        return f"{_NUMBER}{ending}"
    if pattern.endswith(("/", os.sep)) or os.path.isdir(pattern):  # noqa: PTH112  # False for a name that is too long
        return f"{pattern.rstrip(f'/{os.sep}')}{os.sep}{_NUMBER}{ending}"
    return f"{os.path.splitext(pattern)[0]}-{_NUMBER}{ending}"  # noqa: PTH122  # the path stays as typed


def _places(
    config: DictConfig, jobs: Sequence[Sequence[str]], composer: Any
) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """Yields, for each job, the keys of what it writes, with the absolute path and the unresolved value."""
    for number, composed in enumerate(_composed_jobs(config, jobs, composer)):
        with at_hand(composed):
            sweep = composed.hydra.sweep
            place = os.path.abspath(Path(str(sweep.dir), str(sweep.subdir)))  # noqa: PTH100  # also takes out `..`
            yield number, (_FOLDER, place, _pattern_of(config, _FOLDER))
            for key in _files(composed):
                with suppress(OmegaConfBaseException):  # the job itself will report it
                    path = OmegaConf.select(composed, key)
                    if path is not None:
                        place = os.path.abspath(os.path.expanduser(str(path)))  # noqa: PTH100, PTH111
                        yield number, (key, place, _pattern_of(composed, key))


def _composed_jobs(config: DictConfig, jobs: Sequence[Sequence[str]], composer: Any) -> Iterator[DictConfig]:
    """Composes the config of each job."""
    for number, overrides in enumerate(jobs):
        composed = composer.load_sweep_config(config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        yield composed


@contextmanager
def at_hand(config: DictConfig) -> Iterator[None]:
    """Makes `${hydra:...}` in a config refer to that config."""
    known = HydraConfig.instance()
    before, known.cfg = known.cfg, config  # type: ignore[assignment]  # its method `set_config` would copy the config
    try:
        yield
    finally:
        known.cfg = before


_RUN, _SWEEP, _JOB = "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"
_NAMES = {
    _RUN: "outputs/${now:%Y-%m-%d}/${now:%H-%M-%S-%f}",
    _SWEEP: "multirun/${now:%Y-%m-%d}/${now:%H-%M-%S-%f}",
    _JOB: "${hydra.job.num}",
}
"""Names without overrides, as in `conf/config.yaml`."""
_OVERRIDES = "override_dirname"


def refuse_secret_run(config: DictConfig) -> None:
    """Raises ConfigError if the name of a single run's folder contains a secret."""
    _refuse(_named(config, _RUN))


def refuse_secret_sweep(config: DictConfig, jobs: Sequence[Sequence[str]] | None, composer: Any) -> None:
    """Refuses a sweep if the name of its folder, or of a job's, contains a secret.

    Args:
        config: The sweep's own config.
        jobs: The overrides of each job; None if only the sweeper knows them.
        composer: Hydra's config loader.

    Raises:
        ConfigError: One of the names does.
    """
    _refuse(_named(config, _SWEEP))
    pattern = _pattern_of(config, _JOB)
    if not has_secrets() or (jobs is None and _OVERRIDES not in pattern):
        return
    if jobs is None:
        raise _secret(_JOB)
    alike = jobs[:1] if is_only_numbered(pattern) else jobs
    _refuse(name for composed in _composed_jobs(config, alike, composer) for name in _named(composed, _JOB))


def _named(config: DictConfig, key: str) -> Iterator[tuple[str, str]]:
    remember(OmegaConf.to_container(config, resolve=False))
    if has_secrets():
        with at_hand(config):
            yield key, str(OmegaConf.select(config, key))


def _refuse(names: Iterator[tuple[str, str]]) -> None:
    for key, name in names:
        if redacted(name) != name:
            raise _secret(key)


def _secret(key: str) -> ConfigError:
    fault = f"{key} puts a password, token or other secret of a URL into a folder's name; expected a name without it"
    return ConfigError(fault, typed(f"{key}={_NAMES[key]}"))
