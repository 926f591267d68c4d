"""Writes a refusal: what does not fit, by module and with both shapes, what would make it fit, and the lines to type.

Guarantees: pure functions of a plan; bounded text that is harmless for a terminal. Every line to type was confirmed by
a real plan, whose numbers are next to it; equally good explanations are numbered alike in the message and in the lines.
Every number of keys is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import FitError
from ..keys.candidates import Shape
from ..keys.plan import Plan, Wanted
from ..keys.rules.key import Add
from ..keys.segments import is_number, ranges, segments
from ..keys.written import may_be_typed, rules_override, written
from ..text.lines import NO_FIX, Fix, typed
from ..text.wording import counted, listing, safe_text, shape
from .leftovers import Proposal
from .names import Group, group
from .nature import transposed
from .search import Candidate
from .tensors.proposed import DOUBT

NO_WAY = (
    Fix("checkpoint.path=…", "another file: no nested key or rule was found that makes this one fit"),
    Fix("model=…", "another architecture"),
)
"""What to do if there is nothing to type."""

_BY_HAND = Fix(note="allow.missing, allow.unexpected and allow.mismatched excuse the keys that you name")
_MOST_CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class Advised:
    """The findings that a refusal shows."""

    proposals: Sequence[Proposal] = ()
    """The ways to make the files fit."""
    candidates: Sequence[Candidate] = ()
    """Nested keys, and how much they can fill."""
    remarks: Sequence[str] = ()
    """Remarks on the files and the search."""
    instead: Sequence[Fix] = ()
    """What to give instead, if nothing makes them fit for a known reason."""
    first: Fix = NO_FIX
    """The line that comes before all proposals."""

    def lines(self) -> list[str]:
        """Returns the reasons for the proposals, and the remarks."""
        return [*explained(self.proposals, self.candidates), *self.remarks]

    def refusal(self, lines: Sequence[str], otherwise: Sequence[Fix]) -> FitError:
        """Returns a refusal with the lines to type; with `otherwise` if there are none and no reason is known."""
        lines_ = ((proposal.overrides, DOUBT if proposal.doubt else "") for proposal in self.proposals)
        fixes = [self.first, *(typed(*overrides, note=note) for overrides, note in lines_)]
        if not any(fixes):
            fixes = [*(self.instead or otherwise)]
        error = FitError("\n".join(lines), *fixes)
        error.proposed = bool(self.proposals)
        return error


def misfit(
    plan: Plan, wanted: Mapping[str, Wanted], file: Mapping[str, Shape], source: str, found: Advised = Advised()
) -> FitError:
    """Returns the refusal of a plan that does not pass; it carries the plan.

    Args:
        plan: The plan.
        wanted: The model's keys.
        file: The files' tensors by full model key, after the rules.
        source: The files, for the message.
        found: The findings.
    """
    head = f"{source} does not fit the model: {_share(plan.filled(wanted), len(wanted))} would be loaded."
    lines = [head, *diagnosis(plan, wanted, file), *found.lines()]
    error = found.refusal(lines, [*NO_WAY, *([_BY_HAND] if plan.loaded else [])])
    error.plan = plan
    return error


def undecided(settings: Sequence[str], source: str, found: Advised, diagnosed: Sequence[str] = ()) -> FitError:
    """Returns the refusal to choose for ``auto``.

    Args:
        settings: The settings that are auto: ``rules=auto``.
        source: The file, for the message.
        found: The findings; auto may take none of the proposals by itself.
        diagnosed: The diagnosis of the file as it is.
    """
    what = " ".join(settings)
    if len(found.proposals) > 1:
        equal = " that are equally good" if _alike(found.proposals) else ""
        head = f"{what}: {source} fits the model in {len(found.proposals)} ways{equal}, so none is chosen."
    elif found.proposals:
        head = f"{what}: {source} fits only in a way that {what} may not choose."
    else:
        head = f"{what}: nothing was found that makes {source} fit the model."
    return found.refusal([head, *diagnosed, *found.lines()], NO_WAY)


def with_proposals(error: FitError, found: Advised, *, otherwise: Sequence[Fix] = ()) -> FitError:
    """Adds the lines that make the file fit to the refusal of a nested key or a rule; `otherwise` if there are none."""
    return found.refusal([error.message, *found.lines()], otherwise)


def explained(proposals: Sequence[Proposal], candidates: Sequence[Candidate] = ()) -> list[str]:
    """Returns the reasons for the proposals, and how much each would load."""
    lines = []
    if len(candidates) > 1:
        filled = [f"{_place(c.key)} {c.loaded:,}" for c in candidates[:_MOST_CANDIDATES]]
        lines.append(f"keys of the model that each nested key could fill: {', '.join(filled)}")
    if len(proposals) > 1:
        lines.append(f"{len(proposals)} explanations{' are equally good' if _alike(proposals) else ''}:")
    for number, proposal in enumerate(proposals, 1):
        label = f"  {number}. " if len(proposals) > 1 else ""
        lines.append(
            f"{label}{_share(proposal.loaded, proposal.wanted)} would be loaded this way: {'; '.join(proposal.reasons)}"
        )
    return lines


def _alike(proposals: Sequence[Proposal]) -> bool:
    """Whether all load as much with as few allowances."""
    return len({(proposal.loaded, proposal.wanted, proposal.excused) for proposal in proposals}) == 1


def _share(loaded: int, wanted: int) -> str:
    return f"{loaded:,} of {counted(wanted, 'key')}"


def _place(key: str | None) -> str:
    return "(top level)" if key is None else safe_text(key)


_MOST_GROUPS = 8
_LONGEST_PATTERN = 100
_WIDEST = 60


def diagnosis(plan: Plan, wanted: Mapping[str, Wanted], file: Mapping[str, Shape]) -> list[str]:
    """Returns the lines on what does not fit, and the likely reasons.

    Args:
        plan: The plan of the load.
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
    """Returns remarks on differences that no rule can repair, going by the keys that are left."""
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
    """Names weights that are weight-normed on one side and plain on the other."""
    missing, extra = ({f".{key}" for key in keys} for keys in (plan.missing, plan.unexpected))
    in_file = sorted(_owners(extra) & {key.removesuffix(".weight") for key in missing if key.endswith(".weight")})
    in_model = sorted(_owners(missing) & {key.removesuffix(".weight") for key in extra if key.endswith(".weight")})
    remarks = []
    if in_file:
        names = listing(name[1:] or "the model itself" for name in in_file)
        remarks.append(f"weight-normed in the file and plain in the model: {names}")
    if in_model:
        names = listing(name[1:] or "the model itself" for name in in_model)
        remarks.append(f"weight-normed in the model and plain in the file, which no rule can change: {names}")
    return remarks


def _owners(keys: Iterable[str]) -> set[str]:
    return {key.removesuffix(end) for key in keys for end in _NORMED if key.endswith(end)}


def _depth(plan: Plan, wanted: Mapping[str, Wanted], file: Mapping[str, Shape]) -> list[str]:
    """Names lists of modules that fit but are longer on one side."""
    in_model, in_file, common = _counted(wanted), _counted(file), _counted(plan.loaded)
    remarks = []
    for prefix, numbers in common.items():
        mine, theirs = in_model.get(prefix, set()), in_file.get(prefix, set())
        if mine != theirs and numbers == mine & theirs and (mine < theirs or theirs < mine):
            place = safe_text(f"{prefix}." if prefix else "")
            depths = (f"{place}{ranges(list(depth))}" for depth in (mine, theirs))
            remarks.append("different depth: {} in the model, {} in the file".format(*depths))
    return remarks[:_MOST_GROUPS]


def _counted(keys: Iterable[str]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for key in keys:
        path = segments(key)
        for at, segment in enumerate(path[:-1]):
            if is_number(segment):
                found.setdefault(".".join(path[:at]), set()).add(int(segment))
    return found


def _nameless(plan: Plan, wanted: Mapping[str, Wanted], file: Mapping[str, Shape]) -> list[str]:
    """Offers a name for the only tensor of a file that names none."""
    if "" not in plan.unexpected:
        return []
    remark = "the file's only tensor has no name"
    fitting = [key for key in plan.missing if wanted[key].shape == file.get("") and may_be_typed(key)]
    if not fitting:
        return [remark]
    line = written(rules_override("+rules", {"named": Add(fitting[0])}))
    if not line:
        return [remark]
    return [f"{remark}; {line} gives it the name of the model key with its shape"]
