"""Quantized weights in an adapter: they do not become a model's weights either.

Guarantees: as in `keys.guard`, of the tensors of an adapter's file before and after its own rules; a line is offered
for these.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import FitError
from ...formats.tree import Container
from ...keys.guard import Guarded, refuse_quantized
from ...keys.plan import Offered, Wanted
from ...schema import Rule
from ...text.lines import Fix
from .deltas import Delta

_RULED = ("rules",)


def refuse_codes(
    label: str,
    root: Container,
    entries: Container,
    changes: Mapping[str, Delta],
    given: Mapping[str, Delta],
    keys: Mapping[str, list[str]],
    wanted: Mapping[str, Wanted],
    rules: tuple[str, Mapping[str, Rule]],
) -> None:
    """Refuses quantized weights that would replace a model's plain ones.

    Args:
        label: The adapter, for messages.
        root: All of its file.
        entries: The tensors that it uses.
        changes: What it changes, after its rules.
        given: The same before them.
        keys: The model's keys, by change.
        wanted: The model's keys.
        rules: The config path of its rules, and these.

    Raises:
        FitError: There are such weights.
    """
    plain = {id(delta) for delta in given.values()}
    offered = {
        key: Offered("", delta.sources[0], delta.entry, delta.sources, () if id(delta) in plain else _RULED)
        for name, delta in changes.items()
        for key in keys.get(name, [name])
    }
    path = f"+{rules[0]}" if rules[0] else ""
    try:
        refuse_quantized(Guarded(label, root, entries.children, offered, path, rules[1]), wanted)
    except FitError as error:
        place = rules[0].removesuffix("rules")
        fixes = [_moved(fix, place) for fix in error.fixes]
        raise FitError(error.message, *fixes) from error


def _moved(fix: Fix, place: str) -> Fix:
    """A line about the checkpoint as one about the adapter."""
    if not fix.line.startswith("checkpoint."):
        return fix
    return Fix(fix.line.replace("checkpoint.", place, 1), fix.note) if place else Fix(note=fix.note)
