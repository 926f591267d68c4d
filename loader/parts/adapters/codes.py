"""Quantized weights in an adapter: they do not become a model's weights either.

Guarantees: as in `keys.guard`, of the tensors of an adapter's file before and after its own rules; a line is offered
for these.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from ...errors import FitError
from ...formats.tree import Container
from ...keys.guard import Guarded, refuse_quantized
from ...keys.plan import Offered, Wanted
from ...keys.quantized import may_be_quantized, quantized
from ...keys.rules.key import Drop
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
    if not may_be_quantized(entries.children):
        return
    plain = {id(delta) for delta in given.values()}
    offered = {
        key: Offered("", delta.sources[0], delta.entry, delta.sources, () if id(delta) in plain else _RULED)
        for name, delta in changes.items()
        for key in keys.get(name, [name])
    }
    kept = _without_drops(entries, given, rules[1])
    path = rules[0] if rules[1] or not rules[0] else f"+{rules[0]}"  # rules that are there are replaced, not merged
    try:
        refuse_quantized(Guarded(label, root, entries.children, offered, path, kept), wanted)
    except FitError as error:
        place = rules[0].removesuffix("rules")
        fixes = [_moved(fix, place) for fix in error.fixes]
        raise FitError(error.message, *fixes) from error


def _without_drops(entries: Container, given: Mapping[str, Delta], rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """Returns the rules without those that drop scales: where these are used, nothing is left to drop."""
    scales = {scale for one in quantized(entries.children) for scale in one.beside}
    names = [name for name, delta in given.items() if delta.sources[0] in scales]
    return {
        name: rule
        for name, rule in rules.items()
        if not (isinstance(rule, Drop) and any(fnmatchcase(key, rule.drop) for key in names))
    }


def _moved(fix: Fix, place: str) -> Fix:
    """A line about the checkpoint as one about the adapter."""
    if not fix.line.startswith("checkpoint."):
        return fix
    return Fix(fix.line.replace("checkpoint.", place, 1), fix.note) if place else Fix(note=fix.note)
