"""Says what does not fit: by module, shapes side by side, in a bounded number of lines.

Guarantees: pure functions of a plan; text from a file is made harmless; every line says a number of keys that is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..keys.plan import Plan, Wanted
from ..keys.written import may_be_typed, rules_override, written
from ..schema import RuleConfig
from ..text.wording import counted, listing, safe_text, shape
from .grouping import Group, group, ranges
from .names import is_number, segments
from .target import Shape
from .transposed import transposed

_MOST_GROUPS = 8
_LONGEST_PATTERN = 100
_WIDEST = 60


def diagnosis(plan: Plan, wanted: Mapping[str, Wanted], file: Mapping[str, Shape]) -> list[str]:
    """The lines of a report of what does not fit, and what may be behind it.

    Args:
        plan: What a load would do.
        wanted: The model's keys.
        file: The tensors of the files by full model key, after the rules.
    """
    refused = set(plan.refused)
    shapes = {key: want.shape for key, want in wanted.items()}
    missing = {key: shapes[key] for key in plan.missing if key in refused or not plan.loaded}
    unexpected = {key: file.get(key) for key in plan.unexpected if key in refused or not plan.loaded}
    clashes = {m.key: m for m in plan.mismatched if m.key in refused or not plan.loaded}
    pairs = {key: (clash.model, clash.checkpoint) for key, clash in clashes.items()}
    rows = [*_rows(group(missing, wanted), "missing from the file")]
    rows += _rows(group(unexpected, file), "unexpected in the file")
    rows += _clash_rows(group(pairs, star=False))
    width = min(max((len(left) for left, _ in rows), default=0), _WIDEST)
    return [f"  {left:<{width}}  {right}" for left, right in rows] + [f"  {line}" for line in notes(plan, wanted, file)]


def notes(plan: Plan, wanted: Mapping[str, Wanted], file: Mapping[str, Shape]) -> list[str]:
    """What no rule can mend, by the looks of the keys that are left."""
    return [*transposed(plan, wanted), *_normed(plan), *_depth(plan, wanted, file), *_nameless(plan, wanted, file)]


def _rows(groups: Sequence[Group], what: str) -> list[tuple[str, str]]:
    rows = [(_pattern(found), f"{len(found.keys):,} {what}{_shape_of(found)}") for found in groups[:_MOST_GROUPS]]
    return rows + _rest(groups, what)


def _clash_rows(groups: Sequence[Group]) -> list[tuple[str, str]]:
    rows = []
    for found in groups[:_MOST_GROUPS]:
        model, file = found.detail if isinstance(found.detail, tuple) else ((), ())
        count = f"  ({len(found.keys):,} keys)" if len(found.keys) > 1 else ""
        rows.append((_pattern(found), f"model {shape(model)}  file {shape(file)}{count}"))
    return rows + _rest(groups, "of another shape")


def _rest(groups: Sequence[Group], what: str) -> list[tuple[str, str]]:
    rest = groups[_MOST_GROUPS:]
    keys = sum(len(found.keys) for found in rest)
    return [(f"… {counted(len(rest), 'more group')}", f"{keys:,} {what}")] if rest else []


def _pattern(found: Group) -> str:
    return safe_text(found.pattern, _LONGEST_PATTERN) or "(no name)"


def _shape_of(found: Group) -> str:
    return f" {shape(found.detail)}" if isinstance(found.detail, tuple) and "*" not in found.pattern else ""


_NORMED = (".weight_g", ".weight_v", ".parametrizations.weight.original0", ".parametrizations.weight.original1")


def _normed(plan: Plan) -> list[str]:
    """Weights that are weight-normed on one side and plain on the other."""
    missing, extra = ({f".{key}" for key in keys} for keys in (plan.missing, plan.unexpected))
    in_file = sorted(_owners(extra) & {key.removesuffix(".weight") for key in missing if key.endswith(".weight")})
    in_model = sorted(_owners(missing) & {key.removesuffix(".weight") for key in extra if key.endswith(".weight")})
    told = []
    if in_file:
        names = listing(name[1:] or "the model itself" for name in in_file)
        told.append(f"weight-normed in the file and plain in the model, which no rule mends: {names}")
    if in_model:
        names = listing(name[1:] or "the model itself" for name in in_model)
        told.append(f"weight-normed in the model and plain in the file, which no rule mends: {names}")
    return told


def _owners(keys: Iterable[str]) -> set[str]:
    return {key.removesuffix(end) for key in keys for end in _NORMED if key.endswith(end)}


def _depth(plan: Plan, wanted: Mapping[str, Wanted], file: Mapping[str, Shape]) -> list[str]:
    """Modules that fit as far as they go, and go further on one side."""
    in_model, in_file, common = _counted(wanted), _counted(file), _counted(plan.loaded)
    told = []
    for prefix, numbers in common.items():
        mine, theirs = in_model.get(prefix, set()), in_file.get(prefix, set())
        if mine != theirs and numbers == mine & theirs and (mine < theirs or theirs < mine):
            place = safe_text(f"{prefix}." if prefix else "")
            depths = (f"{place}{ranges(list(depth))}" for depth in (mine, theirs))
            told.append("another depth: {} in the model, {} in the file".format(*depths))
    return told[:_MOST_GROUPS]


def _counted(keys: Iterable[str]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for key in keys:
        path = segments(key)
        for at, segment in enumerate(path[:-1]):
            if is_number(segment):
                found.setdefault(".".join(path[:at]), set()).add(int(segment))
    return found


def _nameless(plan: Plan, wanted: Mapping[str, Wanted], file: Mapping[str, Shape]) -> list[str]:
    """A file may hold one array and no name for it."""
    if "" not in plan.unexpected:
        return []
    told = "the file's only tensor has no name"
    fitting = [key for key in plan.missing if wanted[key].shape == file.get("") and may_be_typed(key)]
    if not fitting:
        return [told]
    line = written(rules_override("+rules", {"named": RuleConfig(add=fitting[0])}))
    if not line:
        return [told]
    return [f"{told}; {line} calls it as the model calls what has its shape"]
