"""Confirms an attempt of the search and turns it into an explanation.

Guarantees: every explanation was run through the loader's own rules, hooks and plan; none fills too little of the
model, or uses a small part of a large file on the evidence of common shapes alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..errors import LoaderError
from ..formats.tree import Container, TensorEntry
from ..keys.candidates import LIGHTNING, Shape
from ..keys.optimizers import is_moment
from ..keys.plan import Plan
from ..keys.rules import rewrite
from ..keys.rules.key import Keep, Rename, Strip
from ..keys.rules.ready import ready_made, under_ready_names
from ..keys.select import find
from ..keys.written import (
    globs_override,
    key_override,
    rules_override,
)
from ..schema import AUTO, AllowConfig, Rule
from ..text.wording import listing, safe_text
from .attempts import Attempt, named
from .leftovers import BUFFERS, EVERYTHING, excuse
from .names import is_number, segments
from .nature import adapter_of
from .problem import Explanation, Problem, Verdict, asked, judge, swapped

_HALF = 0.5
_NEARLY_ALL = 0.9
_SEVERAL = 4
_ALIGNED = 2
"""The rank of attempts that align names."""
_GLOB_SIGNS = "*?["


def confirm(problem: Problem, attempt: Attempt) -> Explanation | None:
    """Confirms an attempt and adds the allowances for its leftovers; None if it explains too little."""
    best = _confirmed(problem, attempt, attempt.rules)
    if best is None or not best.verdict.plan.loaded:
        return None
    if best.verdict.plan.refused:
        best = min((best, *_narrowed(problem, attempt, best)), key=lambda found: len(found.verdict.plan.refused))
    allow = problem.allow
    if best.verdict.plan.refused:
        excused = excuse(best.verdict.plan, problem.allow, problem.wanted, _offered(problem, best))
        if excused is None or _may_be_named_otherwise(problem, best):
            return None
        allow = excused
        best = _judged(problem, attempt, best.rules, allow)
    if best is None or best.verdict.plan.refused or not _plausible(problem, attempt, best):
        return None
    return _explained(problem, attempt, best, allow)


def _offered(problem: Problem, found: _Confirmed) -> dict[str, tuple[str, TensorEntry]]:
    """Returns the file's tensors by full model key, after the rules, with their keys in the file."""
    names, entries = found.verdict.rewriting.names, found.entries
    return {problem.full(name): (key, entries[key]) for key, name in names.items() if key in entries}


@dataclass(frozen=True, slots=True)
class _Confirmed:
    rules: Mapping[str, Rule]
    verdict: Verdict
    entries: Mapping[str, TensorEntry]


def _confirmed(problem: Problem, attempt: Attempt, rules: Mapping[str, Rule]) -> _Confirmed | None:
    """Judges the attempt without the rules that hit nothing in the whole file."""
    patient = {name: dataclasses.replace(rule, optional=True) for name, rule in rules.items()}
    try:
        hits = {hit.name: hit.hits for hit in rewrite(attempt.source.container.children, patient).hits}
    except LoaderError:
        return None
    kept = {name: rule for name, rule in rules.items() if hits.get(name, 1) or rule.optional}
    return _judged(problem, attempt, kept, problem.allow)


def _judged(problem: Problem, attempt: Attempt, rules: Mapping[str, Rule], allow: AllowConfig) -> _Confirmed | None:
    try:
        verdict = judge(problem, attempt.source.container, rules, allow)
    except LoaderError:
        return None
    return _Confirmed(rules, verdict, attempt.source.container.tensors())


def _narrowed(problem: Problem, attempt: Attempt, found: _Confirmed) -> list[_Confirmed]:
    """Judges the same rules after one that keeps only the keys that they change."""
    given = {name: rule for name, rule in found.rules.items() if name in attempt.given}
    added = [rule for name, rule in found.rules.items() if name not in attempt.given]
    narrowed = []
    for at, rule in enumerate(added):
        prefix = _prefix(rule)
        if not prefix or any(sign in prefix for sign in _GLOB_SIGNS):
            continue
        rules = named(given, [*added[:at], Keep(f"{prefix}*"), *added[at:]])
        after = _judged(problem, attempt, rules, problem.allow)
        if after is not None and len(after.verdict.plan.loaded) == len(found.verdict.plan.loaded):
            narrowed.append(after)
    return narrowed


def _prefix(rule: Rule) -> str:
    """What the names begin with that a rule is about; empty where it is about others too."""
    match rule:
        case Strip(prefix, False) | Rename(prefix, _, False):
            return prefix
    return "module." if rule == ready_made()["ddp"]["ddp"] else ""


def _plausible(problem: Problem, attempt: Attempt, found: _Confirmed) -> bool:
    """Whether the loaded tensors are weights, and fit by more than a coincidence of common shapes."""
    if any(map(is_moment, _sources(problem, found))):
        return False
    plan, loaded = found.verdict.plan, len(found.verdict.plan.loaded)
    filled = loaded / max(sum(want.kind != "extra" for want in problem.wanted.values()), loaded)
    used = len(plan.matches) / len(found.entries) if found.entries else 0.0
    telling = _telling(problem, found)
    if attempt.rank >= _ALIGNED and (min(filled, used) < _NEARLY_ALL or _leaves_modules_out(problem, plan)):
        return False
    if filled <= _HALF and not (used >= _NEARLY_ALL and loaded >= _SEVERAL and (filled == _HALF or telling >= 2)):
        return False
    one_layer = not any("." in name for name in attempt.model.shapes)
    if used > _HALF or telling >= 3 or (attempt.rank == 0 and loaded >= _SEVERAL and not one_layer):
        return True
    if filled == 1 and problem.part and _is_named_in_full(problem, found):
        return True
    return filled == 1 and not one_layer and (_is_as_typed(problem, attempt) or _is_a_module(problem, attempt, found))


def _is_named_in_full(problem: Problem, found: _Confirmed) -> bool:
    """Whether the file names the tensors of a part as the whole model does: it is a file of the whole model."""
    keys = [match.key for match in found.verdict.plan.matches if match.taken.key]
    return all(f".{name}".endswith(f".{key}") for name, key in zip(_sources(problem, found), keys, strict=True))


def _is_as_typed(problem: Problem, attempt: Attempt) -> bool:
    """Whether the names are the model's without any step, under the typed nested key."""
    return not attempt.steps and attempt.source.key == problem.key


def _is_a_module(problem: Problem, attempt: Attempt, found: _Confirmed) -> bool:
    """Whether the loaded tensors are one whole module of the file, of which there is no second one."""
    sources = [segments(name) for name in _sources(problem, found)]
    shared = next((at for at, column in enumerate(zip(*sources, strict=False)) if len(set(column)) > 1), None)
    place = sources[0][:shared] if shared is not None else sources[0][:-2]
    tails = {
        name: ".".join(segments(name)[len(place) :]) for name in found.entries if segments(name)[: len(place)] == place
    }
    if not place or attempt.rank or attempt.guess or len(tails) != len(sources):
        return False
    tail = next(iter(tails.values()))
    elsewhere = {name.removesuffix(tail) for name in found.entries.keys() - tails.keys() if name.endswith(f".{tail}")}
    return not any(all(start + end in found.entries for end in tails.values()) for start in elsewhere)


def _sources(problem: Problem, found: _Confirmed) -> list[str]:
    """Returns the loaded tensors' names in the file."""
    names = {problem.full(name): key for key, name in found.verdict.rewriting.names.items()}
    return [names[match.taken.key] for match in found.verdict.plan.matches if match.taken.key in names]


def _leaves_modules_out(problem: Problem, plan: Plan) -> bool:
    """Whether anything but buffers has no partner on either side, allowed by the user or not."""
    extra = [key for key in plan.unexpected if key.rpartition(".")[2] not in BUFFERS]
    return bool(extra) or any(problem.wanted[key].kind == "parameter" for key in plan.missing)


def _may_be_named_otherwise(problem: Problem, found: _Confirmed) -> bool:
    """Whether missing keys look like unexpected ones, by name and shape: they must not stay random."""
    plan, offered, refused = found.verdict.plan, _offered(problem, found), set(found.verdict.plan.refused)
    missing = {key: problem.wanted[key].shape for key in plan.missing if key in refused}
    extra = {key: offered[key][1].shape for key in plan.unexpected if key in refused and key in offered}
    return not _modules(missing).isdisjoint(_modules(extra))


def _modules(shapes: Mapping[str, Shape | None]) -> set[frozenset[tuple[str, Shape | None]]]:
    """Returns the looks of the keys' modules: last segments and shapes."""
    found: dict[str, set[tuple[str, Shape | None]]] = {}
    for key, shape in shapes.items():
        module, _, leaf = key.rpartition(".")
        if leaf not in BUFFERS:
            found.setdefault(module or key, set()).add((leaf if module else "", shape))
    return {frozenset(looks) for looks in found.values()}


def _telling(problem: Problem, found: _Confirmed) -> int:
    """Counts the module names that file and model share where they are matched."""
    sources = {problem.full(name): key for key, name in found.verdict.rewriting.names.items()}
    common: set[str] = set()
    for match in found.verdict.plan.matches:
        mine, theirs = segments(match.key)[:-1], segments(sources.get(match.taken.key, ""))[:-1]
        common.update(segment for segment in mine if segment in theirs and not is_number(segment))
    return len(common)


def _explained(problem: Problem, attempt: Attempt, found: _Confirmed, allow: AllowConfig) -> Explanation | None:
    overrides, excused = list[str](), list[str]()
    reasons = [step.reason for step in attempt.steps]
    if attempt.source.key != problem.key:
        overrides.append(key_override(problem.config("key"), attempt.source.key))
        reasons.insert(0, f"the weights are {_at(attempt.source.key)}{_not_at(problem)}")
    lightning = LIGHTNING in problem.root.children
    rules = under_ready_names(found.rules, attempt.given, lightning=lightning)
    if problem.rules is None or list(rules.values()) != list(problem.rules.values()):
        overrides.append(rules_override(problem.config("rules"), rules))
    kind = adapter_of(_left_over(problem, found))
    reasons += [f"the {kind} adapter of the file is not applied"] if kind is not None else []
    swap = swapped(asked(problem, attempt.source.key), attempt.source.key, _sources(problem, found))
    reasons += _changes(problem, rules, swap)
    for field, reason in (
        ("missing", "{} stays as the model initialises it"),
        ("unexpected", "{} of the file is not loaded"),
        ("mismatched", "{} has another size and stays as the model initialises it"),
    ):
        before, after = getattr(problem.allow, field), getattr(allow, field)
        if after != before:
            excused.append(globs_override(f"allow.{field}", after))
            globs = ", ".join(safe_text(glob) for glob in after[len(before) :])
            reasons.append(reason.format("the rest" if globs == EVERYTHING else globs))
    reasons += [
        f"only {safe_text(rule.keep)} is taken"
        for name, rule in found.rules.items()
        if isinstance(rule, Keep) and name not in attempt.given
    ]
    if not reasons and not rules:
        reasons.append("without rules")
    if not (overrides or excused) or not all((*overrides, *excused)):
        return None
    return Explanation(
        key=attempt.source.key,
        rules=rules,
        allow=allow,
        reasons=tuple(reasons),
        overrides=tuple(overrides),
        verdict=found.verdict,
        wanted=len(problem.wanted),
        rank=attempt.rank,
        guess=attempt.guess,
        excused=bool(excused),
        swaps=bool(swap),
    )


def _left_over(problem: Problem, found: _Confirmed) -> list[str]:
    """Returns the names in the file of the tensors that are not loaded."""
    return list(found.entries.keys() - set(_sources(problem, found)))


def _at(key: str | None) -> str:
    return "at the top level" if key is None else f"under '{safe_text(key)}'"


def _not_at(problem: Problem) -> str:
    return "" if problem.key in (None, AUTO) else f" and not {_at(problem.key)}"


def _at_work(problem: Problem) -> list[str]:
    """Returns the user's own rules that hit something under their nested key."""
    selected = problem.root if problem.key is None else find(problem.root, problem.key)
    if not isinstance(selected, Container):
        return list(problem.rules or {})
    patient = {name: dataclasses.replace(rule, optional=True) for name, rule in (problem.rules or {}).items()}
    try:
        return [hit.name for hit in rewrite(selected.children, patient).hits if hit.hits]
    except LoaderError:
        return list(patient)


def _changes(problem: Problem, rules: Mapping[str, Rule], swap: str) -> Iterator[str]:
    """Says which of the user's rules are dropped, and whether other weights are loaded than those asked for."""
    left = [name for name in _at_work(problem) if rules.get(name) != (problem.rules or {})[name]]
    if left:
        yield f"without the {'rule' if len(left) == 1 else 'rules'} {listing(left)}"
    if swap:
        yield swap
