"""The files of a list, each opened as one that stands alone.

Guarantees: all files that are refused are named; a line that is offered holds the whole list, and mends all of them or
is left out.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from ..errors import CheckpointError
from ..formats.opened import Checkpoint
from ..schema import CheckpointConfig
from ..text.lines import Fix, line, together, typed
from ..text.wording import counted, phrases

_KEYS = ("checkpoint.path", "checkpoint.sha256")
_Open = Callable[[str, str | None], Checkpoint]
_Refused = tuple[int, CheckpointError]
"""The place of a file in the list, and why it is refused."""


def open_listed(settings: CheckpointConfig, digests: Sequence[str | None], open_: _Open) -> list[Checkpoint]:
    """Opens the files of a list, in order.

    Args:
        settings: The settings that have the list.
        digests: One for each file.
        open_: Opens a file with its digest.

    Raises:
        CheckpointError: Files cannot be read, or are refused.
    """
    members, refused = list[Checkpoint](), list[_Refused]()
    for at, (path, digest) in enumerate(zip(settings.paths, digests, strict=True)):
        try:
            members.append(open_(path, digest))
        except CheckpointError as error:
            refused.append((at, error))
    if not refused:
        return members
    first = refused[0][1]
    if len({error.message for _, error in refused}) == 1:
        first.fixes = _fixes(settings, refused)
        raise first
    messages = phrases(dict.fromkeys(error.message for _, error in refused))
    files = counted(len(settings.paths), "file")
    raise CheckpointError(f"{len(refused):,} of {files} are refused: {messages}", *_fixes(settings, refused))


def _fixes(settings: CheckpointConfig, refused: Sequence[_Refused]) -> tuple[Fix, ...]:
    """Returns what is offered for the files, as one line for the list; in words, what is offered for any of them."""
    if len(settings.paths) == 1:
        return tuple(_alone(fix, settings) for fix in refused[0][1].fixes)
    known = {"checkpoint.path": settings.paths, "checkpoint.sha256": settings.sha256}
    lists: dict[str, list[str]] = {key: list(own) for key, own in known.items() if isinstance(own, list)}
    notes, changed = list[Fix](), dict[str, str]()
    whole = True
    for at, error in refused:
        found = next((one for fix in error.fixes if (one := _changed(fix, lists)) is not None), None)
        if found is not None:
            key, value, note = found
            lists[key][at] = value
            changed.setdefault(key, note)
        whole = whole and found is not None
        notes += [fix for fix in error.fixes if _changed(fix, lists) is None and (len(refused) == 1 or not fix.line)]
    lines = [line(key, lists[key]) for key in changed] if whole else []
    return (*dict.fromkeys(notes), together(lines, "; ".join(filter(None, changed.values()))))


def _changed(fix: Fix, lists: dict[str, list[str]]) -> tuple[str, str, str] | None:
    """Returns the key and value that a line gives one file, and its note; None for any other fix."""
    words = shlex.split(fix.line)
    key, equals, value = words[0].partition("=") if len(words) == 1 else ("", "", "")
    if not equals or key not in lists or "\\" in value:
        return None
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    return key, value[1:-1] if quoted else value, fix.note


def _alone(fix: Fix, settings: CheckpointConfig) -> Fix:
    """A fix for the only file of a list, as it is for a list."""
    words = shlex.split(fix.line)
    key, equals, value = words[-1].partition("=") if words else ("", "", "")
    if words[:1] == ["-m"]:
        return typed(f"{key}=[{value}]", note="all of them")
    taken = equals and len(words) == 1 and (key == _KEYS[0] or (key == _KEYS[1] and isinstance(settings.sha256, list)))
    return typed(f"{key}=[{value}]", note=fix.note) if taken else fix
