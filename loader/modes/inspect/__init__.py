"""`mode=inspect`: reports the contents of a checkpoint.

Guarantees: needs no model, imports no torch and reads no tensor data, unless `checkpoint.check`, `checkpoint.sha256` or
`inspect.fingerprint` asks for it; imports nothing that the file names. The report's lines are bounded in number and
harmless for a terminal.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fnmatch import translate

from ...errors import FitError
from ...formats.pickle.globals import needed_globals
from ...formats.tree import Container
from ...keys.candidates import IN_ARCHIVE, candidates
from ...keys.select import subtree
from ...keys.written import key_override, written
from ...parts import Part
from ...parts.adapters.alone import alone
from ...parts.open import open_parts
from ...report import fill, terminal
from ...report.combined import summary
from ...report.data import Report
from ...report.terminal import Line
from ...runtime import collector_paused
from ...schema import AUTO, InspectConfig, JobConfig, config_path
from ...text.lines import line
from ...text.wording import closest, counted, listing, phrases, safe_text, size
from ...trust import HOSTILE, is_hostile
from .contents import Contents, list_contents, notes_of
from .identity import identity_of
from .nested_keys import candidate_rows, what_to_type
from .rows import CandidateRow, FileRow, GlobalRow
from .tree import Known, draw, fold, is_view, module_rows

_MOST_CANDIDATES = 12
_MOST_NOTES = 6
_GLOB_SIGNS = re.compile(r"[\[\]*?]")


def run(job: JobConfig, report: Report) -> None:
    """Reports the contents of every part's file.

    Args:
        job: The parts, and how much of them to show; its model is ignored.
        report: Gets `inspection`: ``{files: [FileRow]}``.

    Raises:
        CheckpointError: A file cannot be read, or is refused.
        FitError: A nested key is not in the file, or the filter leaves nothing.
    """
    clock = fill.Clock(report)
    with ExitStack() as files, clock("total"):
        with clock("open"):
            parts = open_parts(job, files)
        fill.parts(report, parts)
        with clock("inspect"), collector_paused():
            report.inspection = {"files": [_look_into(part, job, report) for part in parts]}
        for part in parts:
            part.checkpoint.check_unchanged()


def lines(report: Report) -> list[terminal.Line]:
    """Returns the report of an inspection as labeled lines."""
    files = (report.inspection or {"files": []})["files"]
    return [*(line for file in files for line in _file_lines(file)), *terminal.ending(report)]


def _look_into(part: Part, job: JobConfig, report: Report) -> FileRow:
    settings, checkpoint, described = part.config.checkpoint, part.checkpoint, report.parts[part.name]
    if settings.key == AUTO:
        settings = dataclasses.replace(settings, key=_likeliest(checkpoint.root))
        described.key, described.applied = settings.key, [key_override("checkpoint.key", settings.key)]
    root = subtree(
        checkpoint.root,
        settings.key,
        checkpoint.label,
        config_path(part.name, "key", listed=part.listed),
    )
    if checkpoint.combination is not None:
        checkpoint.combination.check(root)
    found = list_contents(root)
    described.tensors = len(found.tensors)
    ranked = candidate_rows(found)
    adapter = alone(checkpoint, config_path(part.name, "path", listed=part.listed))
    following = what_to_type(ranked, settings, root.record) if adapter is None else [adapter[1]]
    row: FileRow = {
        "part": part.name,
        "path": described.path,
        "format": described.format,
        "key": settings.key,
        "bytes": described.bytes,
        "totals": found.totals(),
        "files": list(found.files.values()) if len(found.files) > 1 else [],
        "candidates": ranked,
        "modules": [],
        "tensors": [],
        "entries": [],
        "notes": notes_of(root) if adapter is None else {**notes_of(root), "adapter": adapter[0]},
        "globals": _globals(root, described.dangers),
        "next": [str(fix) for fix in following] if not job.parts else [],
        "tree": [],
        "depth": job.inspect.depth,
        "filter": list(job.inspect.filter),
    }
    if described.combined is not None:
        row["combined"] = described.combined
    _show(row, found, job.inspect)
    if job.inspect.fingerprint:
        row["fingerprint"] = identity_of(part, root)
    return row


def _show(row: FileRow, found: Contents, wanted: InspectConfig) -> None:
    """Fills in the rows that `inspect.depth` and `inspect.filter` select."""
    tensors, entries = found.tensors, found.entries
    if len(found.files) < 2:
        for tensor in tensors:
            tensor.pop("file", None)
    if wanted.filter:
        shows = re.compile("|".join(map(translate, wanted.filter))).match
        tensors = [tensor for tensor in tensors if shows(tensor["key"])]
        entries = [entry for entry in entries if shows(entry["key"])]
        if not tensors and not entries:
            raise _leaves_nothing(row, found, wanted.filter)
    modules = module_rows(tensors, entries, found.containers, {} if wanted.filter else found.again)
    containers = {module["key"]: module for module in modules if module["kind"] != "prefix"}
    chosen = bool(wanted.filter) or wanted.depth is not None
    closed = {c["key"]: c["why"] for c in row["candidates"] if c["role"] == "optimizer" and c["key"] and not chosen}
    row["tree"] = draw(fold(tensors, entries), Known(containers, closed), wanted.depth)
    row["modules"] = [module for module in modules if _within(module["key"], wanted.depth)]
    row["tensors"] = [tensor for tensor in tensors if _within(tensor["key"], wanted.depth)]
    row["entries"] = [entry for entry in entries if _within(entry["key"], wanted.depth)]


def _within(key: str, depth: int | None) -> bool:
    return depth is None or key.count(".") < depth


def _leaves_nothing(row: FileRow, found: Contents, globs: Sequence[str]) -> FitError:
    keys = [entry["key"] for entry in (*found.tensors, *found.entries)]
    near = closest(globs[0], keys[:1000], most=1)
    meant = [_GLOB_SIGNS.sub("?", name) for name in near]
    question = f" (did you mean '{safe_text(meant[0])}'?)" if meant else ""
    return FitError(
        f"inspect.filter={listing(globs)} matches none of the {counted(len(keys), 'key')} of {row['path']}{question}; "
        f"they are {listing(key or '(all of it)' for key in keys)}",
        line("inspect.filter", ["*.weight"] if meant == near else meant, note="globs over whole dotted keys"),
    )


def _likeliest(root: Container) -> str | None:
    """Returns the nested key that ``auto`` means; None is the top level."""
    return next((found.key for found in candidates(root)), None) or None


def _globals(root: Container, dangers: Sequence[str]) -> list[GlobalRow]:
    """Lists the names that rebuilding everything would import.

    Args:
        root: The part of the file; a checkpoint of several files keeps no record at its root.
        dangers: The names that only an attack needs, anywhere in the file.
    """
    records: list[object] = []
    for _, container in root.walk():
        records.append(container.record)
        records += [child.record for child in container.children.values() if hasattr(child, "record")]
    return [
        {"name": name, "hostile": is_hostile(name)}
        for name in sorted({*needed_globals(records), *dangers})
        if not name.startswith(IN_ARCHIVE)
    ]


def _file_lines(file: FileRow) -> Iterator[Line]:
    """One file: a bounded number of lines, harmless for a terminal."""
    yield from _header(file)
    yield from _candidates(file)
    for index, text in enumerate(file["tree"]):
        yield "inside" if index == 0 else "", text, ""
    yield from _global_lines(file)
    for index, text in enumerate(file["next"]):
        yield "next" if index == 0 else "", text, "green"


def _header(file: FileRow) -> Iterator[Line]:
    totals = file["totals"]
    under = f" under '{safe_text(file['key'])}'" if file["key"] else ""
    part = f" → {safe_text(file['part'])}" if file["part"] else ""
    name = summary(file["combined"]) if "combined" in file else safe_text(file["path"], 300)
    yield "file", f"{name}: {file['format']}, {size(file['bytes'])}{part}", ""
    dtypes = ", ".join(f"{sums['tensors']:,} {name}" for name, sums in totals["dtypes"].items())
    amount = f"{counted(totals['tensors'], 'tensor')}{under}, {counted(totals['elements'], 'element')}"
    yield "", f"{amount}, {size(totals['bytes'])}{f': {dtypes}' if dtypes else ''}", ""
    yield from _identity(file)
    if any(map(is_view, file["tensors"])) and totals["stored_bytes"] > totals["bytes"]:
        spare = size(totals["stored_bytes"] - totals["bytes"])
        yield "", f"{spare} of the file belong to no tensor: the tensors are views of larger storages", "dim"
    devices = [f"{safe_text(name, 20)} ({number:,})" for name, number in totals["devices"].items() if name != "cpu"]
    if devices:
        yield "", f"saved from {phrases(devices)}", "dim"
    if file["files"]:
        shards = [f"{safe_text(shard['name'])} ({shard['tensors']:,})" for shard in file["files"]]
        yield "", f"in {counted(len(shards), 'file')}: {phrases(shards)}", "dim"
    for name, note in list(file["notes"].items())[:_MOST_NOTES]:
        yield "", f"{safe_text(name)}: {safe_text(note)}", "dim"


def _identity(file: FileRow) -> Iterator[Line]:
    if "fingerprint" in file:
        place = f"'{safe_text(file['key'])}'" if file["key"] else "the top level"
        none = f"none: {place} holds no tensor itself; checkpoint.key selects what does"
        yield "weights", f"fingerprint {file['fingerprint'] or none}", ""


def _candidates(file: FileRow) -> Iterator[Line]:
    for row in file["candidates"][:_MOST_CANDIDATES]:
        place = safe_text(row["key"]) if row["key"] else "(top level)"
        amount = f"{counted(row['tensors'], 'tensor')}, {counted(row['parameters'], _unit(row))}, {size(row['bytes'])}"
        yield row["role"], f"{place}: {amount}; {safe_text(row['why'], 200)}", ""
        for prefix in row["prefixes"]:
            every = "every name has" if prefix["tensors"] == row["tensors"] else f"{prefix['tensors']:,} names have"
            yield "", f"{every} '{safe_text(prefix['prefix'])}': {_removal(prefix['rule'], row)}", "dim"
    more = len(file["candidates"]) - _MOST_CANDIDATES
    if more > 0:
        yield "", f"… and {more:,} more places with tensors, in report.json", "dim"


def _unit(row: CandidateRow) -> str:
    return "parameter" if row["role"] in {"weights", "model", "average"} else "element"


def _removal(rule: str, row: CandidateRow) -> str:
    """How to remove a prefix."""
    if not rule:
        return "a prefix that cannot be typed"
    return f"{written(rule)} removes it{'' if row['rules'] else ', if the model has no such name'}"


def _global_lines(file: FileRow) -> Iterator[Line]:
    hostile = [row["name"] for row in file["globals"] if row["hostile"]]
    others = [row["name"] for row in file["globals"] if not row["hostile"]]
    if hostile:
        yield "DANGER", f"the file names {listing(hostile)}, {HOSTILE}", "bold red"
    if others:
        yield "names", f"{listing(others, 8)}: needed to rebuild its objects, not to load its weights", "dim"
