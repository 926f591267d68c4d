"""The nested keys of a file as rows of an inspection: what each may hold, its prefixes, their rules, and what to type.

Guarantees: pure functions of names, types and sizes; the ranking is that of `loader.keys.candidates`. Rules for
segments that a wrapper writes are proposed as they are; those for prefixes that may belong to the model are not. The
lines to type mean the same to a shell and to Hydra's grammar; a name that could act on a terminal is in none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...formats.pickle.globals import needed_globals
from ...keys.candidates import AVERAGE, LIGHTNING, Candidate, candidates
from ...keys.rules.key import Strip
from ...keys.rules.ready import ready_made, under_ready_names
from ...keys.segments import Path, segments
from ...keys.written import located, may_be_typed, rules_override
from ...schema import CheckpointConfig, Rule
from ...suggest.names import WRAPPERS
from ...suggest.nature import described, embedded_line, pickled_line
from ...suggest.steps import unwrapping
from ...text.lines import NO_FIX, Fix, program, typed
from .contents import Contents, own_bytes, own_elements
from .rows import CandidateRow, PrefixRow, TensorRow

_IN_FRONT = "module"
"""Also an ordinary name; a wrapper's only if nearly all names start with it."""
_NEARLY_ALL = 0.9
_LIGHTNING = "model"
_MOST_SEGMENTS = 3
_MOST_OTHERS = 4
_OTHERWISE = {"weights": "these weights", "model": "this model", "average": "this average of weights"}


@dataclass(frozen=True, slots=True)
class Names:
    """The prefixes in the names of one container."""

    prefixes: list[PrefixRow] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)


def candidate_rows(found: Contents) -> list[CandidateRow]:
    """Lists the nested keys that hold tensors, best first."""
    root = found.containers[""]
    ranked = candidates(root)
    holder = {id(member): held.key for held in ranked for member in held.members}
    rows: dict[str, list[TensorRow]] = {held.key: [] for held in ranked}
    for row in found.tensors:
        key = holder.get(id(found.containers[found.holder[row["key"]]]))
        if key is not None:
            rows[key].append(row)
    lightning = LIGHTNING in root.children
    return [_candidate(held, rows[held.key], lightning=lightning) for held in ranked]


def _candidate(held: Candidate, rows: Sequence[TensorRow], *, lightning: bool) -> CandidateRow:
    nature = described(held.container) if held.role != "optimizer" else None
    averaged = AVERAGE in held.names
    names = describe_names(held.names, averaged=averaged, lightning=lightning) if held.holds_model else Names()
    return {
        "key": held.key,
        "role": held.role,
        "type": held.container.type,
        "tensors": len(held.names),
        "parameters": sum(map(own_elements, rows)),
        "bytes": sum(map(own_bytes, rows)),
        "why": f"{nature.remark}; {held.why}" if nature is not None else held.why,
        "prefixes": names.prefixes,
        "rules": names.rules,
        "globals": needed_globals(held.container.record) if held.is_pickled else [],
    }


def what_to_type(ranked: Sequence[CandidateRow], settings: CheckpointConfig, notes: object = None) -> list[Fix]:
    """Lists the command lines to type after looking at a file.

    Args:
        ranked: Its nested keys, best first.
        settings: How the file was opened.
        notes: The notes in its header, as they are there.

    Returns:
        Whole commands; none if nothing in the file looks like a model's weights.
    """
    models = [row for row in ranked if row["role"] in _OTHERWISE]
    if not models:
        return []
    best, *others = models
    place = _place(best, settings)
    fixes = [embedded_line(place, notes), _plan(best, settings), pickled_line(place, best["globals"])]
    for other in others[:_MOST_OTHERS]:
        fix = _plan(other, settings)
        fixes.append(Fix(fix.line, f"or {_OTHERWISE[other['role']]}") if fix else fix)
    return [Fix(f"{program()} {fix.line}", fix.note) for fix in fixes if fix]


def _plan(row: CandidateRow, settings: CheckpointConfig) -> Fix:
    place = _place(row, settings)
    unsure = bool(row["prefixes"]) and not row["rules"]
    rules = ["rules=auto"] if unsure else row["rules"]
    return typed("mode=plan", "model._target_=my_pkg.Net", *place, *rules) if place else NO_FIX


def _place(row: CandidateRow, settings: CheckpointConfig) -> list[str]:
    outer = settings.key or ""
    return located(settings, f"{outer}.{row['key']}" if outer and row["key"] else outer or row["key"])


def describe_names(names: Sequence[str], *, averaged: bool, lightning: bool) -> Names:
    """Finds wrappers and common beginnings.

    Args:
        names: The tensors' names.
        averaged: Whether an AveragedModel's counter is among them.
        lightning: Whether the file is a Lightning checkpoint.
    """
    paths = [path for name in names if len(path := segments(name)) > 1]
    if not paths:
        return Names()
    found = [wrapper for wrapper in WRAPPERS if _is_wrapper(wrapper, paths)]
    prefixes = [_wrapped(wrapper, paths) for wrapper in found]
    rules = list(unwrapping(found, paths, averaged=averaged)) if found else []
    bare = [bare for path in paths if (bare := tuple(segment for segment in path if segment not in found))]
    common = _common(bare)
    if lightning and 2 * sum(path[0] == _LIGHTNING for path in bare) > len(bare):
        rules.append(ready_made()["lightning"]["lightning"])
        prefixes.append(_prefix((_LIGHTNING,), bare))
    elif common:
        prefixes.append(_prefix(common, bare))
    return Names(prefixes, [_override(rules)] if rules else [])


def _is_wrapper(wrapper: str, paths: Sequence[Path]) -> bool:
    if wrapper != _IN_FRONT:
        return any(wrapper in path[:-1] for path in paths)
    return sum(_begins(path) for path in paths) >= _NEARLY_ALL * len(paths)


def _begins(path: Path) -> bool:
    """Whether a name starts with DataParallel's segment, ignoring other wrappers."""
    return next((segment for segment in path if segment == _IN_FRONT or segment not in WRAPPERS), "") == _IN_FRONT


def _wrapped(wrapper: str, paths: Sequence[Path]) -> PrefixRow:
    having = [path for path in paths if wrapper in path]
    rule = unwrapping([wrapper], having, averaged=False)
    return {"prefix": f"{wrapper}.", "tensors": len(having), "rule": _override(list(rule))}


def _common(paths: Sequence[Path]) -> Path:
    """Returns the segments that all names start with; none if they are a list of modules or one of its items."""
    if len(paths) < 2:
        return ()
    shared = 0
    first, last = min(paths), max(paths)
    most = min(len(first), len(last)) - 1
    while shared < min(most, _MOST_SEGMENTS) and first[shared] == last[shared]:
        shared += 1
    found = first[:shared]
    counts = found and (found[-1].isdigit() or all(path[shared].isdigit() for path in paths))
    return () if counts else found


def _prefix(path: Path, paths: Sequence[Path]) -> PrefixRow:
    prefix = "".join(f"{segment}." for segment in path)
    having = sum(other[: len(path)] == path for other in paths)
    rule = _override([Strip(prefix)]) if may_be_typed(prefix) else ""
    return {"prefix": prefix, "tensors": having, "rule": rule}


def _override(rules: Sequence[Rule]) -> str:
    named = {("fit" if number == 0 else f"fit{number + 1}"): rule for number, rule in enumerate(rules)}
    return rules_override("rules", under_ready_names(named, {}, lightning=True))
