"""Writes a loaded and verified model as safetensors.

Guarantees: errors that depend on neither the checkpoint nor the model are raised before either is opened or built. A
file that exists is replaced only by a conversion of the same source in the same way, and the source never. An
interrupted conversion leaves everything as it was, the source's golden record included. Conversions to one destination
take turns: each judges the complete result of the one before; the lock dies with its process.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ...builder.embedded import untrusted
from ...builder.record import KEY, WITHOUT, Record, Source, is_input, to_text, unwritable
from ...errors import ConfigError
from ...files.descriptors import SAFE_FLAGS
from ...files.path import called, is_copy, shown_path
from ...files.write import drafts, release_lock, wait_for_lock
from ...formats.find import Sources
from ...formats.safetensors import nbytes, pieces
from ...formats.signatures import GOLDEN
from ...module.dtype import resolve_dtype
from ...parts import Part
from ...report import terminal
from ...report.data import Report
from ...schema import OF_A_FILE, JobConfig
from ...text.lines import Fix, override, program, typed
from ...text.redaction import redacted
from ...text.wording import counted, listing, phrases, safe_text, size
from ...verify import golden, say_kept
from .contents import Contents, contents, shards
from .destination import Destination, destination, refuse_to_replace

log = logging.getLogger(__name__)

_FLAGS = os.O_RDWR | os.O_CREAT | SAFE_FLAGS | getattr(os, "O_NOFOLLOW", 0)


def lines(report: Report) -> list[terminal.Line]:
    """Returns the report of a conversion as labeled lines."""
    written = report.written or {}
    files = written["files"]
    several = f" in {counted(len(files) - 1, 'shard')}" if len(files) > 1 else ""
    amount = f"{counted(written['tensors'], 'tensor')}{several}, {size(written['bytes'])}"
    shown = [("written", f"{safe_text(written['path'], 300)}: {amount}", "")]
    if written["golden"]:
        shown.append(("", f"golden record {safe_text(written['golden'], 300)}", "dim"))
    if written["aliases"]:
        tied = phrases(f"{safe_text(second)} = {safe_text(first)}" for second, first in written["aliases"].items())
        shown.append(("", f"tied, stored once: {tied}", "dim"))
    if written["left_out"]:
        others = listing(f"{key} ({kind})" for key, kind in written["left_out"].items())
        shown.append(("", f"left out, not tensors: {others}", "yellow"))
    shown.append(("load it", f"{program()} {written['next']}", "green"))
    return [
        *terminal.sources(report),
        *terminal.keys(report),
        *terminal.checks(report),
        *terminal.evaluation(report),
        *shown,
        *terminal.ending(report),
    ]


class Conversion:
    """A conversion that a job is to end with.

    Args:
        job: A job in ``mode=convert``.

    Raises:
        ConfigError: It could not be carried out, whatever the checkpoint holds.
    """

    def __init__(self, job: JobConfig) -> None:
        self.destination: Destination = destination(job.convert)
        if job.device == "meta":
            raise ConfigError("mode=convert writes weights, and device=meta has none", Fix("device=cpu"))
        if job.convert.embed:
            to_text(Record({}, _writable(job.model)))

    def check(self, job: JobConfig, parts: Sequence[Part], recorded: Path | None) -> list[Path]:
        """Refuses to replace what is not to be lost.

        Returns:
            The files of an earlier result of this conversion.

        Raises:
            ConfigError: Something else exists where it would write.
        """
        sources, inputs = Sources(part.checkpoint for part in parts), Sources((), job.verify.input)
        return refuse_to_replace(
            self.destination, lambda: self._record(job, parts), sources, inputs, _copied(job, recorded)
        )

    def carry_out(
        self,
        module: nn.Module,
        job: JobConfig,
        parts: Sequence[Part],
        recorded: Path | None,
        report: Report,
        renewed: bytes | None = None,
    ) -> None:
        """Writes the model.

        Args:
            module: Loaded and verified.
            job: With the model's own config.
            parts: The opened parts.
            recorded: The golden record of the checkpoint; if the model was run, it is copied next to the result.
            report: Filled with what was written.
            renewed: The content of a new golden record of the checkpoint, written with the result or not at all.

        Raises:
            ConfigError: The format cannot hold the model, or the file cannot be written.
        """
        found = contents(module)
        notes = {**found.aliases, "format": "pt", KEY: to_text(self._record(job, parts))}
        with turn(self.destination):
            # Another job may have written there since this one looked.
            there = self.check(job, parts, recorded)
            recorded = _copied(job, recorded)
            files = self._write(found, notes, there, recorded, renewed)
        if recorded is not None and renewed is not None:
            say_kept(recorded, report.verification)
        for part in parts:
            report.parts[part.name].sha256 = part.checkpoint.sha256()
        report.written = {
            "path": str(files[-1]),
            "files": [str(file) for file in files],
            "bytes": sum(file.stat().st_size for file in files),
            "tensors": len(found.tensors),
            "aliases": found.aliases,
            "left_out": found.left_out,
            "golden": None if recorded is None else str(golden.record_of(files[-1])),
            "next": typed(*_next(job, found, self.destination.typed(files[-1]))).line,
        }

    def _write(
        self,
        found: Contents,
        notes: Mapping[str, str],
        there: Sequence[Path],
        recorded: Path | None,
        renewed: bytes | None,
    ) -> list[Path]:
        """Writes the file, or the shards and then their index; returns them in this order."""
        place = self.destination
        states = list(shards(found.tensors, place.shard_size))
        files = [place.single] if len(states) == 1 else [place.shard(n + 1, len(states)) for n in range(len(states))]
        record = b"" if recorded is None else recorded.read_bytes() if renewed is None else renewed
        with drafts() as made:
            for path, state in zip(files, states, strict=True):
                made.write(path, pieces(state, notes))
            if len(files) > 1:
                total = sum(map(nbytes, found.tensors.values()))
                map_ = {key: path.name for path, state in zip(files, states, strict=True) for key in state}
                index = {"metadata": {"total_size": total}, "weight_map": map_}
                files.append(place.index)
                made.write(place.index, [json.dumps(index, indent=2).encode()])
            written = {*files}
            if recorded is not None:
                written.add(golden.record_of(files[-1]))
                made.write(golden.record_of(files[-1]), [record])
            if recorded is not None and renewed is not None:
                made.write(recorded, [record], Fix("verify.record=false"))
            ours = [path for path in there if recorded is not None or not path.name.endswith(GOLDEN)]
            made.settle([path for path in there if path == place.index], [path for path in ours if path not in written])
        return files

    def _record(self, job: JobConfig, parts: Sequence[Part]) -> Record:
        asked = job.verify.input
        return Record(
            sources={part.name: _source(part) for part in parts},
            model=job.model if job.convert.embed else None,
            input=asked if is_input(asked) else None,
            dtype=resolve_dtype(job.dtype),
        )


def _copied(job: JobConfig, recorded: Path | None) -> Path | None:
    """The golden record that the result gets a copy of: one that the model was held to."""
    return recorded if job.verify.forward else None


def _source(part: Part) -> Source:
    ruled = part.config.rules
    rules = None if ruled is None else {name: rule.settings() for name, rule in ruled.items() if rule.enabled}
    return Source(_name(part.checkpoint.path), part.checkpoint.sha256(), part.config.checkpoint.key, rules)


def _name(path: Path) -> str:
    """A file's name where it is from, without what else its URL holds."""
    return redacted(called(path).partition("?")[0]).rpartition("/")[2] if is_copy(path) else path.name


def _writable(model: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A model's config, if it comes back from a file as it is."""
    if model is None:
        raise ConfigError(
            "a pickled model has no config that could go into the converted file, and convert.embed is true", WITHOUT
        )
    faults = list(unwritable(model, "model"))
    if faults:
        raise ConfigError(
            f"the model's config cannot go into the converted file: {phrases(faults)}; text, numbers, true, false, "
            "null, lists and mappings of these were expected",
            WITHOUT,
        )
    return model


def _next(job: JobConfig, found: Contents, path: str) -> Iterator[str]:
    """The overrides that load what was written."""
    if job.convert.embed:
        yield "model=embedded"
    yield override("checkpoint.path", path)
    if job.convert.embed:
        names = untrusted(job.model or {}, None)
        if names:
            yield override("trusted_targets", [*OF_A_FILE, *names])
    if found.left_out:
        yield override("allow.missing", list(found.left_out))


@contextmanager
def turn(place: Destination) -> Iterator[None]:
    """Waits until nobody else writes to a destination, and keeps others from it meanwhile.

    Raises:
        ConfigError: The folder does not take the file that is locked.
    """
    path = place.folder / f".{place.stem[:40]}.lock"
    descriptor = _taken(path, place)
    try:
        yield
    finally:
        release_lock(descriptor, path)


def _taken(path: Path, place: Destination) -> int:
    while True:
        try:
            descriptor = os.open(path, _FLAGS, 0o666)
        except OSError as error:
            raise ConfigError(
                f"the lock file {shown_path(path)} cannot be opened: {error.strerror}",
                Fix("convert.path=FILE", "in a writable folder"),
            ) from error
        try:
            wait_for_lock(
                descriptor,
                lambda: log.info("%s: another conversion is writing there; waiting", shown_path(place.single)),
            )
            if _stands_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _stands_at(path: Path, descriptor: int) -> bool:
    """Whether a file still has its name, and is what the next one locks."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
