"""Confirms an attempt of the search and turns it into an explanation.

Guarantees: every explanation was run through the loader's own rules, hooks and plan; none fills too little of the
model, or uses a small part of a large file on the evidence of common shapes alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from ..errors import LoaderError
from ..formats.tree import Container, TensorEntry
from ..keys.candidates import LIGHTNING, Shape
from ..keys.plan import Plan
from ..keys.rules.key import Keep, Rename, Strip
from ..keys.rules.ready import ready_made, under_ready_names
from ..keys.segments import is_number, segments
from ..keys.select import find, is_moment
from ..keys.written import (
    globs_override,
    key_override,
    rules_override,
)
from ..schema import AUTO, AllowConfig, Rule
from ..text.wording import listing, safe_text
from .attempts import Attempt, named
from .leftovers import BUFFERS, EVERYTHING, excuse
from .nature import adapter_of
from .problem import Explanation, Problem, Verdict, asked, hits_of, judge, swapped

_HALF = 0.5
_NEARLY_ALL = 0.9
_SEVERAL = 4
_ALIGNED = 2
"""The rank of attempts that align names."""
_GLOB_SIGNS = "*?["


def confirm(problem: Problem, attempt: Attempt) -> Explanation | None:
    """Confirms an attempt and adds the allowances for its leftovers; None if it explains too little."""
    # Without the rules that match nothing in the whole file.
    hits = hits_of(problem, attempt.source.container, attempt.rules)
    rules = {name: rule for name, rule in attempt.rules.items() if (hits or {}).get(name, 1) or rule.optional}
    allow = _with_allowed(problem.allow, attempt)
    best = _judged(problem, attempt, rules, allow) if hits is not None else None
    if best is None or not best.plan.loaded:
        return None
    if best.plan.refused:
        best = min((best, *_narrowed(best)), key=lambda found: len(found.plan.refused))
    if best.plan.refused:
        more = excuse(best.plan, allow, problem.wanted, best.offered)
        if more is None or _may_be_named_otherwise(best):
            return None
        best = _judged(problem, attempt, best.rules, more)
    if best is None or best.plan.refused or not _is_plausible(best):
        return None
    return _explained(best)


def _with_allowed(allow: AllowConfig, attempt: Attempt) -> AllowConfig:
    """Adds what the steps of an attempt leave as the model has it."""
    globs = dict.fromkeys(glob for step in attempt.steps for glob in step.allowed if glob not in allow.mismatched)
    return dataclasses.replace(allow, mismatched=[*allow.mismatched, *globs]) if globs else allow


@dataclass(frozen=True)
class _Judged:
    """An attempt with the loader's verdict."""

    problem: Problem
    attempt: Attempt
    rules: Mapping[str, Rule]
    allow: AllowConfig
    verdict: Verdict

    @property
    def plan(self) -> Plan:
        return self.verdict.plan

    @cached_property
    def entries(self) -> Mapping[str, TensorEntry]:
        return self.attempt.source.container.tensors()

    @cached_property
    def offered(self) -> dict[str, tuple[str, TensorEntry]]:
        """The tensors by full model key, after the rules, each with its first key in the file."""
        made = self.verdict.rewriting.made.items()
        tensors = ((name, one.sources[0], one.entry) for name, one in made)
        return {self.problem.full(name): (key, e) for name, key, e in tensors if isinstance(e, TensorEntry)}

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """The loaded tensors' first names in the file, and their full model keys."""
        made = {self.problem.full(name): one.sources[0] for name, one in self.verdict.rewriting.made.items()}
        return [(made[match.taken.key], match.key) for match in self.plan.matches if match.taken.key in made]

    @cached_property
    def sources(self) -> list[str]:
        """All names in the file that the loaded tensors come from."""
        made = {self.problem.full(name): one.sources for name, one in self.verdict.rewriting.made.items()}
        used = (key for match in self.plan.matches for key in made.get(match.taken.key, ()))
        return list(dict.fromkeys(used))


def _judged(problem: Problem, attempt: Attempt, rules: Mapping[str, Rule], allow: AllowConfig) -> _Judged | None:
    try:
        verdict = judge(problem, attempt.source.container, rules, allow)
    except LoaderError:
        return None
    return _Judged(problem, attempt, rules, allow, verdict)


def _narrowed(found: _Judged) -> list[_Judged]:
    """Judges the same rules after one that keeps only the keys that they change."""
    typed = found.attempt.own
    own = {name: rule for name, rule in found.rules.items() if name in typed}
    added = [rule for name, rule in found.rules.items() if name not in typed]
    narrowed = []
    for at, rule in enumerate(added):
        prefix = _prefix(rule)
        if not prefix or any(sign in prefix for sign in _GLOB_SIGNS):
            continue
        rules = named(own, [*added[:at], Keep(f"{prefix}*"), *added[at:]])
        after = _judged(found.problem, found.attempt, rules, found.allow)
        if after is not None and len(after.plan.loaded) == len(found.plan.loaded):
            narrowed.append(after)
    return narrowed


def _prefix(rule: Rule) -> str:
    """Returns the prefix of all names that a rule changes; empty if it changes others too."""
    match rule:
        case Strip(prefix, False) | Rename(prefix, _, False):
            return prefix
    return "module." if rule == ready_made()["ddp"]["ddp"] else ""


def _is_plausible(found: _Judged) -> bool:
    """Whether the loaded tensors are weights, and fit by more than a coincidence of common shapes."""
    if any(map(is_moment, found.sources)):
        return False
    problem, attempt, plan, loaded = found.problem, found.attempt, found.plan, len(found.plan.loaded)
    filled = loaded / max(sum(want.kind != "extra" for want in problem.wanted.values()), loaded)
    used = len(found.sources) / len(found.entries) if found.entries else 0.0
    telling = _telling(found)
    if attempt.rank >= _ALIGNED and (min(filled, used) < _NEARLY_ALL or _leaves_modules_out(problem, plan)):
        return False
    if filled <= _HALF and not (used >= _NEARLY_ALL and loaded >= _SEVERAL and (filled == _HALF or telling >= 2)):
        return False
    one_layer = not any("." in name for name in attempt.model.shapes)
    if used > _HALF or telling >= 3 or (attempt.rank == 0 and loaded >= _SEVERAL and not one_layer):
        return True
    if filled == 1 and problem.part and _is_named_in_full(found):
        return True
    return filled == 1 and not one_layer and (_is_as_typed(problem, attempt) or _is_a_module(found))


def _is_named_in_full(found: _Judged) -> bool:
    """Whether the file names the tensors of a part as the whole model does: it is a file of the whole model."""
    return all(f".{name}".endswith(f".{key}") for name, key in found.pairs)


def _is_as_typed(problem: Problem, attempt: Attempt) -> bool:
    """Whether the names are the model's without any step, under the typed nested key."""
    return not attempt.steps and attempt.source.key == problem.key


def _is_a_module(found: _Judged) -> bool:
    """Whether the loaded tensors are one whole module of the file, and the only one of its form."""
    sources, attempt = [segments(name) for name in found.sources], found.attempt
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


def _leaves_modules_out(problem: Problem, plan: Plan) -> bool:
    """Whether anything but buffers has no partner on either side, allowed by the user or not."""
    extra = [key for key in plan.unexpected if key.rpartition(".")[2] not in BUFFERS]
    return bool(extra) or any(problem.wanted[key].kind == "parameter" for key in plan.missing)


def _may_be_named_otherwise(found: _Judged) -> bool:
    """Whether missing keys look like unexpected ones, by name and shape: they must not stay random."""
    plan, offered, refused = found.plan, found.offered, set(found.plan.refused)
    missing = {key: found.problem.wanted[key].shape for key in plan.missing if key in refused}
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


def _telling(found: _Judged) -> int:
    """Counts the module names that file and model share where they are matched."""
    common: set[str] = set()
    for name, key in found.pairs:
        mine, theirs = segments(key)[:-1], segments(name)[:-1]
        common.update(segment for segment in mine if segment in theirs and not is_number(segment))
    return len(common)


def _explained(found: _Judged) -> Explanation | None:
    problem, attempt = found.problem, found.attempt
    overrides = []
    reasons = [step.reason for step in attempt.steps]
    if attempt.source.key != problem.key:
        overrides.append(key_override(problem.config("key"), attempt.source.key))
        reasons.insert(0, f"the weights are {_at(attempt.source.key)}{_not_at(problem)}")
    rules = under_ready_names(found.rules, attempt.own, lightning=LIGHTNING in problem.root.children)
    if problem.rules is None or list(rules.values()) != list(problem.rules.values()):
        overrides.append(rules_override(problem.config("rules"), rules))
    kind = adapter_of(found.entries.keys() - set(found.sources))
    reasons += [f"the {kind} adapter of the file is not applied"] if kind is not None else []
    swap = swapped(asked(problem, attempt.source.key), attempt.source.key, found.sources)
    reasons += [*_dropped(problem, rules), *([swap] if swap else [])]
    allowances = list(_allowances(problem.allow, found.allow))
    added = (rule for name, rule in found.rules.items() if name not in attempt.own)
    reasons += [reason for _, reason in allowances]
    reasons += [f"only {safe_text(rule.keep)} is taken" for rule in added if isinstance(rule, Keep)]
    excused = [override for override, _ in allowances]
    if not (overrides or excused) or not all((*overrides, *excused)):
        return None
    return Explanation(
        key=attempt.source.key,
        rules=rules,
        allow=found.allow,
        reasons=tuple(reasons if reasons or rules else ["if no rules are applied"]),
        overrides=tuple(overrides),
        verdict=found.verdict,
        wanted=len(problem.wanted),
        rank=attempt.rank,
        guess=attempt.guess,
        excused=bool(excused),
        average=attempt.average,
        swaps=bool(swap),
        doubt=attempt.doubt,
        resizes=attempt.resizes,
    )


def _allowances(typed: AllowConfig, allow: AllowConfig) -> Iterator[tuple[str, str]]:
    """Yields the override and the reason of each list of globs that grew."""
    for field, reason in (
        ("missing", "{} stays as the model initializes it"),
        ("unexpected", "{} of the file is not loaded"),
        ("mismatched", "{} has another size and stays as the model initializes it"),
    ):
        before, after = getattr(typed, field), getattr(allow, field)
        if after != before:
            globs = ", ".join(safe_text(glob) for glob in after[len(before) :])
            yield globs_override(f"allow.{field}", after), reason.format("the rest" if globs == EVERYTHING else globs)


def _at(key: str | None) -> str:
    return "at the top level" if key is None else f"under '{safe_text(key)}'"


def _not_at(problem: Problem) -> str:
    return "" if problem.key in (None, AUTO) else f" and not {_at(problem.key)}"


def _dropped(problem: Problem, rules: Mapping[str, Rule]) -> Iterator[str]:
    """Names the user's rules that hit something under their nested key and are dropped or changed."""
    typed = problem.rules or {}
    selected = find(problem.root, problem.key)
    hits = hits_of(problem, selected, typed) if isinstance(selected, Container) else None
    dropped = [name for name, rule in typed.items() if (hits is None or hits.get(name)) and rules.get(name) != rule]
    if dropped:
        yield f"without the {'rule' if len(dropped) == 1 else 'rules'} {listing(dropped)}"
