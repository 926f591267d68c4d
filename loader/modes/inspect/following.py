"""What to type next, once it is known what is in a file.

Guarantees: whole command lines that go through a shell and Hydra's grammar and mean the same there; a name that could
act on a terminal is not written, and no name is offered to be admitted that only an attack needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ...keys.written import key_override, may_be_typed
from ...schema import CheckpointConfig
from ...text.lines import Fix, override, program, typed
from ...trust.dangerous import may_be_suggested
from .rows import CandidateRow

_MOST_OTHERS = 4
_MOST_GLOBALS = 50
RECORD = "hydra_loader"
"""The note of a converted file that holds its model's config."""
_OTHERWISE = {"weights": "these weights", "model": "this model", "average": "this average of weights"}


def what_to_type(ranked: Sequence[CandidateRow], settings: CheckpointConfig, notes: object = None) -> list[Fix]:
    """The lines to type after looking at a file.

    Args:
        ranked: Its candidates, best first.
        settings: How the file was opened.
        notes: What its header says beside the tensors, as it stands there.

    Returns:
        Whole commands; none where nothing in the file looks like a model's weights.
    """
    models = [row for row in ranked if row["role"] in {"weights", "model", "average"}]
    if not models or not may_be_typed(settings.path):
        return []
    best, *others = models
    lines = [*_embedded(best, settings, notes), *_plan(best, settings), *_rebuild(best, settings)]
    for other in others[:_MOST_OTHERS]:
        lines += [Fix(fix.line, f"or {_OTHERWISE[other['role']]}") for fix in _plan(other, settings) if fix]
    return [line for line in lines if line]


def architecture(ranked: Sequence[CandidateRow], settings: CheckpointConfig, notes: object = None) -> list[Fix]:
    """The lines that take the architecture out of the file, without the program; the arguments are those above."""
    models = [row for row in ranked if row["role"] in {"weights", "model", "average"}]
    if not models or not may_be_typed(settings.path):
        return []
    lines = [*_embedded(models[0], settings, notes), *_rebuild(models[0], settings)]
    return [Fix(fix.line.removeprefix(f"{program()} "), fix.note) for fix in lines]


def _plan(row: CandidateRow, settings: CheckpointConfig) -> list[Fix]:
    place = _place(row, settings)
    if place is None:
        return []
    unsure = [prefix for prefix in row["prefixes"] if not row["rules"]]
    rules = ["rules=auto"] if unsure else row["rules"]
    return [_command("mode=plan", "model._target_=my_pkg.Net", *place, *rules)]


def _embedded(row: CandidateRow, settings: CheckpointConfig, notes: object) -> list[Fix]:
    """The line for a file that `mode=convert` wrote along with its model's config."""
    record = notes.get(RECORD) if isinstance(notes, Mapping) else None
    place = _place(row, settings)
    told = isinstance(record, str) and re.search(r'"model": ?\{', record) is not None
    return [_command("model=embedded", *place)] if told and place is not None else []


def _rebuild(row: CandidateRow, settings: CheckpointConfig) -> list[Fix]:
    """The line that takes the whole model out of the file, where nothing speaks against it."""
    names, place = row["globals"], _place(row, settings)
    if row["role"] != "model" or place is None or not 0 < len(names) <= _MOST_GLOBALS:
        return []
    if not all(map(may_be_suggested, names)):
        return []
    command = _command("model=null", *place, override("checkpoint.allow_globals", names))
    return [Fix(command.line, "if you trust what it names")] if command else []


def _place(row: CandidateRow, settings: CheckpointConfig) -> list[str] | None:
    outer = settings.key or ""
    key = f"{outer}.{row['key']}" if outer and row["key"] else outer or row["key"]
    if not may_be_typed(key):
        return None
    return [override("checkpoint.path", settings.path), *([key_override("checkpoint.key", key)] if key else [])]


def _command(*overrides: str) -> Fix:
    fix = typed(*overrides)
    return Fix(f"{program()} {fix.line}") if fix else Fix()
