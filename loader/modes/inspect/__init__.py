"""What is in a checkpoint: `mode=inspect`.

Guarantees: needs no model, imports no torch and reads no tensor's data, unless `checkpoint.check` or
`checkpoint.sha256` asks for the whole file; nothing that the file names is imported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from fnmatch import translate

from ...errors import FitError
from ...files.path import shown_path
from ...formats.pickle.needed import needed_globals
from ...formats.tree import Container
from ...keys.candidates import IN_ARCHIVE, candidates
from ...keys.select import subtree
from ...keys.written import key_override
from ...parts.open import Part, open_parts
from ...report import fill, terminal
from ...report.data import Report
from ...runtime import collector_paused
from ...schema import AUTO, InspectConfig, JobConfig, config_path
from ...text.lines import line
from ...text.wording import closest, counted, listing, safe_text
from ...trust.dangerous import is_hostile
from . import tell
from .draw import Known, draw
from .fold import fold
from .following import what_to_type
from .modules import module_rows
from .nested_keys import candidate_rows
from .rows import FileRow, GlobalRow
from .survey import Survey, notes_of, survey


def inspect_files(job: JobConfig, report: Report) -> None:
    """Looks into every part's file.

    Args:
        job: What to look into, and how much of it to show; its model is not looked at.
        report: Gets `inspection`: ``{files: [FileRow]}``.

    Raises:
        CheckpointError: A file cannot be read, or is refused.
        FitError: A nested key is not there, or the filter leaves nothing.
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
    """Returns the report of an inspection as labelled lines."""
    return [*tell.lines((report.inspection or {})["files"]), *terminal.ending(report)]


def _look_into(part: Part, job: JobConfig, report: Report) -> FileRow:
    settings, checkpoint, told = part.config.checkpoint, part.checkpoint, report.parts[part.name]
    if settings.key == AUTO:
        settings.key = told.key = _likeliest(checkpoint.root)
        told.applied = [key_override("checkpoint.key", settings.key)]
    root = subtree(
        checkpoint.root,
        settings.key,
        shown_path(checkpoint.path),
        config_path(part.name, "key", listed=part.listed),
    )
    found = survey(root)
    told.tensors = len(found.tensors)
    ranked = candidate_rows(found)
    row: FileRow = {
        "part": part.name,
        "path": told.path,
        "format": told.format,
        "key": settings.key,
        "bytes": told.bytes,
        "totals": found.totals(),
        "files": list(found.files.values()) if len(found.files) > 1 else [],
        "candidates": ranked,
        "modules": [],
        "tensors": [],
        "entries": [],
        "notes": notes_of(root),
        "globals": _globals(root, told.dangers),
        "next": [str(fix) for fix in what_to_type(ranked, settings, root.record)] if not job.parts else [],
        "tree": [],
        "depth": job.inspect.depth,
        "filter": list(job.inspect.filter),
    }
    _show(row, found, job.inspect)
    return row


_GLOB_SIGNS = re.compile(r"[\[\]*?]")


def _show(row: FileRow, found: Survey, wanted: InspectConfig) -> None:
    """Fills in what `inspect.depth` and `inspect.filter` leave to be shown."""
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
    modules = module_rows(tensors, entries, found.containers, {} if wanted.filter else found.again, None)
    containers = {module["key"]: module for module in modules if module["kind"] != "prefix"}
    chosen = bool(wanted.filter) or wanted.depth is not None
    closed = {c["key"]: c["why"] for c in row["candidates"] if c["role"] == "optimizer" and c["key"] and not chosen}
    row["tree"] = draw(fold(tensors, entries), Known(containers, closed), wanted.depth)
    row["modules"] = [module for module in modules if _within(module["key"], wanted.depth)]
    row["tensors"] = [tensor for tensor in tensors if _within(tensor["key"], wanted.depth)]
    row["entries"] = [entry for entry in entries if _within(entry["key"], wanted.depth)]


def _within(key: str, depth: int | None) -> bool:
    return depth is None or key.count(".") < depth


def _leaves_nothing(row: FileRow, found: Survey, globs: Sequence[str]) -> FitError:
    keys = [entry["key"] for entry in (*found.tensors, *found.entries)]
    near = closest(globs[0], keys[:1000], most=1)
    meant = [_GLOB_SIGNS.sub("?", name) for name in near]
    told = f" (did you mean '{safe_text(meant[0])}'?)" if meant else ""
    return FitError(
        f"inspect.filter={listing(globs)} matches none of the {counted(len(keys), 'key')} of {row['path']}{told}; "
        f"they are {listing(key or '(all of it)' for key in keys)}",
        line("inspect.filter", ["*.weight"] if meant == near else meant, note="globs over whole dotted keys"),
    )


def _likeliest(root: Container) -> str | None:
    """The nested key that stands for ``auto``; None is the top level."""
    return next((found.key for found in candidates(root)), None) or None


def _globals(root: Container, dangers: Sequence[str]) -> list[GlobalRow]:
    """What rebuilding everything would import; a checkpoint of several files keeps no record at its root.

    Args:
        root: What is looked into.
        dangers: What an attack would use, wherever the file names it.
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
