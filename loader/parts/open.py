"""Opening: from a path or URL to a checkpoint, from a job to its parts with their files.

Guarantees: opening a file runs nothing that it names and imports nothing for it; it is either opened or refused with a
`CheckpointError` that says what it is. A file that several parts name is opened once, and closed with the job.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ..errors import CheckpointError, ConfigError, located
from ..files.path import called, is_url, resolve_path, shown_path
from ..formats.find import find, find_in
from ..formats.opened import Checkpoint
from ..formats.sniff import known_formats
from ..runtime import collector_paused
from ..schema import CHECKS, MEAN, CheckpointConfig, JobConfig, PartConfig, config_path
from ..text.lines import Fix, line, typed
from ..text.redaction import remember
from ..text.wording import closest, listing, matches, safe_text
from ..trust import HOSTILE
from . import Part, part_configs

log = logging.getLogger(__name__)

_SHIPPED = "pkg://loader.examples/"
"""The shipped checkpoint, which is used where no path is set."""


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
        check: `structure` compares no checksums, `crc` those of the data in use, `full` all of them at once.
        data: Whether tensors will be read; if not, only the header of a remote file may be fetched.

    Returns:
        The checkpoint; its `path` is absolute, for a remote file that of the local copy.

    Raises:
        CheckpointError: It is missing, unreadable, damaged, not a checkpoint, or has another digest or format.
        ConfigError: `format`, `check` or `sha256` is invalid.
    """
    remember(str(path))
    _refuse_unknown("checkpoint.format", format, known_formats(format))
    _refuse_unknown("checkpoint.check", check, CHECKS)
    wanted = _digest(path, sha256)
    with ExitStack() as stack:
        if is_url(path):
            from ..remote import open_remote  # noqa: PLC0415  # only URLs need it

            file = open_remote(str(path), sha256=wanted, data=data or check == "full")
            stack.callback(file.close)
            named, kind = file.path, find_in(file, stack, format)
        else:
            named = resolve_path(path)
            kind = find(named, stack, format)
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
        near = closest(value, known, most=1) or [name for name in known if value in name.split("-")]
        meant = f" (did you mean '{safe_text(near[0])}'?)" if near else ""
        raise ConfigError(
            f"{key} is '{safe_text(value)}'{meant}; one of {', '.join(known)} was expected",
            *(line(key, name) for name in near or known[:1]),
        )


def _digest(path: str | Path, expected: str | None) -> str | None:
    if expected is None:
        return None
    wanted = expected.lower()
    if len(wanted) != 64 or set(wanted) - set("0123456789abcdef"):
        raise ConfigError(
            f"checkpoint.sha256 is '{safe_text(expected)}'; 64 hexadecimal digits were expected",
            _digest_line(path),
        )
    return wanted


def _digest_line(path: str | Path) -> Fix:
    """The command that prints the digest of a checkpoint on this machine."""
    local = None if is_url(path) else resolve_path(path)
    if local is not None and local.is_file():
        return typed("sha256sum", called(local))
    return Fix("checkpoint.sha256=…", "as the publisher of the file states it")


def _compare_digest(path: Path, digest: Callable[[], str], wanted: str | None) -> None:
    if wanted is None:
        return
    found = digest()
    if found != wanted:
        refusal = CheckpointError(
            f"{shown_path(path)} is not the expected file: its sha256 is {found}, checkpoint.sha256 says {wanted}",
            Fix(note="download the file again"),
            Fix(f"checkpoint.sha256={found}", "if this one is right"),
        )
        refusal.another = True
        raise refusal


def open_parts(job: JobConfig, stack: ExitStack) -> tuple[Part, ...]:
    """Opens the files of all parts, each file once.

    Args:
        job: The job.
        stack: Closes the files when it unwinds.

    Raises:
        CheckpointError: A file cannot be read, or is refused.
    """
    opening = _Opening(stack, data=reads_tensors(job))
    parts = []
    for name, config in part_configs(job).items():
        override = config_path(name, "path", listed=bool(job.parts))
        parts.append(Part(name, config, opening.checkpoint(config.checkpoint, override), listed=bool(job.parts)))
    return tuple(parts)


def with_root(parts: tuple[Part, ...], job: JobConfig, keys: Iterable[str], stack: ExitStack) -> tuple[Part, ...]:
    """Adds the root to parts that leave keys of the model uncovered, if ``checkpoint.path`` names a file for it.

    Args:
        parts: The opened parts.
        job: The job.
        keys: The model's keys.
        stack: Closes the file when it unwinds.

    Returns:
        The parts; the root, if it was added, comes first.

    Raises:
        CheckpointError: The root's file cannot be read, or is refused.
    """
    settings = job.checkpoint
    if not job.parts or "" in job.parts or not _names_file(job):
        return parts
    reading = [part for part in parts if part.config.checkpoint.path == settings.path]
    prefixes = tuple(f"{part.name}." for part in parts)
    uncovered = [key for key in keys if not key.startswith(prefixes)]
    if not uncovered:
        if not reading:
            unread = f"checkpoint.path={shown_path(settings.named)} is not read: the parts fill the whole model"
            return (replace(parts[0], remark=unread), *parts[1:])
        return parts
    if reading and all(matches(key, job.allow.missing) for key in uncovered):
        return parts  # the uncovered keys are allowed to be missing, and the file is for the parts
    same = (part.checkpoint for part in reading if _identity(part.config.checkpoint) == _identity(settings))
    file = next(same, None) or _Opening(stack, data=reads_tensors(job)).checkpoint(settings, "checkpoint.path")
    if reading and settings.key is None and not file.root.tensors():
        return parts  # the file holds a state dict for each part, and none for the root
    return (Part("", PartConfig(settings, job.rules, job.adapters), file), *parts)


def rest_is_open(job: JobConfig, parts: Sequence[Part]) -> bool:
    """Whether files are listed by part, and none is given for the keys that belong to no part."""
    return "" not in job.parts and all(part.listed for part in parts) and not _names_file(job)


def _names_file(job: JobConfig) -> bool:
    path = job.checkpoint.path
    return bool(path) and not job.checkpoint.paths[0].startswith(_SHIPPED)


def _identity(settings: CheckpointConfig) -> tuple[object, ...]:
    return str(settings.path), settings.format, str(settings.sha256), settings.check, str(settings.combine)


def reads_tensors(job: JobConfig) -> bool:
    """Whether the header of a remote file is not enough."""
    return job.mode not in ("plan", "inspect") or (job.mode == "inspect" and job.inspect.fingerprint)


class _Opening:
    """Opens the checkpoints of a job, each file once.

    Args:
        stack: Closes the files when it unwinds.
        data: Whether tensors will be read.
    """

    def __init__(self, stack: ExitStack, *, data: bool) -> None:
        self._stack = stack
        self._data = data
        self._files: dict[tuple[object, ...], Checkpoint] = {}
        self._combined: dict[tuple[object, ...], Checkpoint] = {}

    def checkpoint(self, settings: CheckpointConfig, override: str) -> Checkpoint:
        """Opens what the settings of a part name: one file, or several as one.

        Raises:
            CheckpointError: A file cannot be read, or is refused.
            ConfigError: The path is not set.
        """
        if not settings.path:
            raise ConfigError(f"'{override}' is required", line(override, "FILE"))
        digests = settings.sha256 if isinstance(settings.sha256, list) else [settings.sha256] * len(settings.paths)
        if isinstance(settings.path, str):
            return self._file(settings, settings.path, digests[0])
        identity = _identity(settings)
        if identity not in self._combined:
            from .combine import Combined, open_listed  # noqa: PLC0415  # few jobs name several files

            members = open_listed(settings, digests, lambda path, sha256: self._file(settings, path, sha256))
            self._combined[identity] = Combined(members, settings.combine or MEAN)
        return self._combined[identity]

    def _file(self, settings: CheckpointConfig, path: str, sha256: str | None) -> Checkpoint:
        identity = (path, settings.format, sha256, settings.check)
        if identity not in self._files:
            opened = open_checkpoint(path, format=settings.format, sha256=sha256, check=settings.check, data=self._data)
            self._stack.callback(opened.close)
            self._files[identity] = opened
            warn_of_dangers(opened)
        return self._files[identity]


def warn_of_dangers(checkpoint: Checkpoint) -> None:
    """Logs the dangerous names in an opened file's pickles."""
    if checkpoint.named:
        from ..formats.pickle.globals import dangers_among  # noqa: PLC0415  # pickles alone

        if found := dangers_among(checkpoint.named.values()):
            log.warning("%s names %s, %s", shown_path(checkpoint.path), listing(found), HOSTILE)
