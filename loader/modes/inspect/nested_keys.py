"""The nested keys of a file as rows of an inspection: what each may hold, its prefixes, and the rules for them.

Guarantees: pure functions of names, types and sizes; the ranking is that of `loader.keys.candidates`. Rules for
segments that a wrapper writes are proposed as they are; those for prefixes that may belong to the model are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...formats.pickle.needed import needed_globals
from ...keys.candidates import AVERAGE, LIGHTNING, Candidate, candidates, is_script
from ...keys.rules import READY_MADE
from ...keys.written import may_be_typed, rules_override, under_ready_names
from ...schema import RuleConfig
from ...suggest.names import WRAPPERS, Path, segments
from ...suggest.nature import described
from ...suggest.steps import unwrapping
from .rows import CandidateRow, PrefixRow, TensorRow
from .survey import Survey, own_bytes, own_elements

_IN_FRONT = "module"
"""Also an ordinary name; a wrapper's only where nearly all names begin so."""
_NEARLY_ALL = 0.9
_LIGHTNING = "model"
_MOST_SEGMENTS = 3


@dataclass(frozen=True, slots=True)
class Names:
    """What is said of the names in one container."""

    prefixes: list[PrefixRow] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)


def candidate_rows(found: Survey) -> list[CandidateRow]:
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
    named = held.role in {"weights", "model", "average"}
    names = describe_names(held.names, averaged=AVERAGE in held.names, lightning=lightning) if named else Names()
    pickled = held.role == "model" and not is_script(held.container)
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
        "globals": needed_globals(held.container.record) if pickled else [],
    }


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
        rules.append(READY_MADE["lightning"]["lightning"])
        prefixes.append(_prefix((_LIGHTNING,), bare))
    elif common:
        prefixes.append(_prefix(common, bare))
    return Names(prefixes, [_override(rules)] if rules else [])


def _is_wrapper(wrapper: str, paths: Sequence[Path]) -> bool:
    if wrapper != _IN_FRONT:
        return any(wrapper in path[:-1] for path in paths)
    return sum(_begins(path) for path in paths) >= _NEARLY_ALL * len(paths)


def _begins(path: Path) -> bool:
    """Whether a name begins with DataParallel's segment, other wrappers' aside."""
    return next((segment for segment in path if segment == _IN_FRONT or segment not in WRAPPERS), "") == _IN_FRONT


def _wrapped(wrapper: str, paths: Sequence[Path]) -> PrefixRow:
    having = [path for path in paths if wrapper in path]
    rule = unwrapping([wrapper], having, averaged=False)
    return {"prefix": f"{wrapper}.", "tensors": len(having), "rule": _override(list(rule))}


def _common(paths: Sequence[Path]) -> Path:
    """The segments that all names begin with; none where they are a list of modules or one of its items."""
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
    rule = _override([RuleConfig(strip=prefix)]) if may_be_typed(prefix) else ""
    return {"prefix": prefix, "tensors": having, "rule": rule}


def _override(rules: Sequence[RuleConfig]) -> str:
    named = {("fit" if number == 0 else f"fit{number + 1}"): rule for number, rule in enumerate(rules)}
    return rules_override("rules", under_ready_names(named, {}, lightning=True))
