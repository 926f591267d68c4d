"""Writes a loaded and verified model as safetensors.

Guarantees: errors that depend on neither the checkpoint nor the model are raised before either is opened or built. A
file that exists is replaced only by a conversion of the same source in the same way, and the source never. An
interrupted conversion leaves everything as it was, the source's golden record included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...builder.embedded import untrusted
from ...builder.record import KEY, WITHOUT, Record, Source, is_input, to_text, unwritable
from ...errors import ConfigError
from ...files.path import called, is_copy
from ...files.write import drafts
from ...formats.find import Sources
from ...formats.safetensors import nbytes, pieces
from ...formats.signatures import GOLDEN
from ...keys.written import rules_override
from ...module.policy import resolve_dtype
from ...parts import Part
from ...pipeline import Load
from ...report import terminal
from ...report.data import Report
from ...schema import OF_A_FILE, JobConfig
from ...text.lines import Fix, override, program, typed
from ...text.redaction import redacted
from ...text.wording import counted, listing, phrases, safe_text, size
from ...verify import golden, say_kept
from .contents import Contents, contents, shards
from .destination import Destination, destination, refuse_to_replace
from .names import contents_in_file, refuse_irreversible, rules_for
from .turns import turn


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
    if written["absent"]:
        shown.append(("", f"not in the model, not written: {listing(written['absent'])}", "yellow"))
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

    def planned(self, load: Load) -> None:
        """Refuses a plan whose steps cannot be taken backwards, where the checkpoint's names are to be written.

        Raises:
            ConfigError: A rule has no inverse, or the model has keys that the file has no name for.
        """
        if load.prepared is not None and load.job.convert.names == "checkpoint":
            refuse_irreversible(load.prepared)

    def carry_out(self, load: Load, recorded: Path | None, report: Report, renewed: bytes | None = None) -> None:
        """Writes the model.

        Args:
            load: Carried out and verified; its job has the model's own config.
            recorded: The golden record of the checkpoint; if the model was run, it is copied next to the result.
            report: Filled with what was written.
            renewed: The content of a new golden record of the checkpoint, written with the result or not at all.

        Raises:
            ConfigError: The format cannot hold the model, or the file cannot be written.
        """
        job, parts, theirs = load.job, load.parts, load.job.convert.names == "checkpoint"
        found = contents_in_file(load.prepared) if theirs and load.prepared is not None else contents(load.module)
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
            "absent": found.absent,
            "golden": None if recorded is None else str(golden.record_of(files[-1])),
            "next": typed(*_next(load, found, self.destination.typed(files[-1]))).line,
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
                made.write(path, pieces(state, notes, found.read))
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
            names=job.convert.names,
        )


def _copied(job: JobConfig, recorded: Path | None) -> Path | None:
    """The golden record that the result gets a copy of: one that the model was held to."""
    return recorded if job.verify.forward else None


def _source(part: Part) -> Source:
    ruled = part.config.rules
    rules = None if ruled is None else {name: rule.settings() for name, rule in ruled.items() if rule.enabled}
    adapters = [adapter.recorded(_name) for adapter in part.adapters]
    return Source(part.checkpoint.titled(_name), part.checkpoint.sha256(), part.config.checkpoint.key, rules, adapters)


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


def _next(load: Load, found: Contents, path: str) -> Iterator[str]:
    """The overrides that load what was written."""
    job = load.job
    if job.convert.embed:
        yield "model=embedded"
    yield override("checkpoint.path", path)
    if load.prepared is not None and found.read is not None:
        rules = rules_for(load.prepared, found)
        yield from [rules_override("rules", rules)] if rules else []
    if job.convert.embed:
        names = untrusted(job.model or {}, None)
        if names:
            yield override("trusted_targets", [*OF_A_FILE, *names])
    if found.left_out:
        yield override("allow.missing", list(found.left_out))
