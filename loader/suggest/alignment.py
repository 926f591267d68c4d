"""Common renamings between two families of names: aligned names, and modules that are counted differently.

Guarantees: a name is aligned only where it has one best partner of the same shapes; names that contradict each other
(weight and bias, query and key) never are; and where nothing but an undistinctive shape speaks for a pair it is left
alone. The rules do to every aligned key what the alignment says. Renumbered layers keep their order and have the same
names below them; a network of another depth is not taken for a shifted one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

from ..keys.candidates import Shape
from ..keys.rules.key import Rename
from ..keys.segments import Path, is_number, segments
from ..schema import Rule
from ..text.wording import phrases, safe_text
from .attempts import Attempt, Step, numbered
from .names import ANY, likeness, template
from .steps import pattern_rule

_MOST_FAMILIES = 1500
_MOST_PAIRS = 4096
_MOST_RULES = 32
_ALIKE = 0.55
_MARGIN = 0.04

_Families = dict[Path, dict[tuple[int, ...], Shape | None]]
_Aligned = dict[Path, Path]
"""File template → model template."""
_Form = Callable[[Path], tuple[Path, tuple[int, ...]]]
"""Returns a name's template and the numbers in it."""


def alignment(attempt: Attempt) -> Iterator[Step]:
    """Renames every family of names in the file to its family in the model.

    Numbers first count alike on both sides, then are names like any other.
    """
    yield from _alignment(attempt, template)
    yield from _alignment(attempt, _literal)


def _literal(path: Path) -> tuple[Path, tuple[int, ...]]:
    return path, ()


def _alignment(attempt: Attempt, form_of: _Form) -> Iterator[Step]:
    names = attempt.everything()
    shaped = {name: attempt.source.shapes[key] for key, name in names.items()}
    fitting = {name for name, shape in shaped.items() if attempt.model.filled_by(name, shape) is not None}
    filled = {attempt.model.filled_by(name, shaped[name]) for name in fitting}
    in_file = _families({name: shape for name, shape in shaped.items() if name not in fitting}, form_of)
    in_model = _families({name: s for name, s in attempt.model.shapes.items() if name not in filled}, form_of)
    if not (in_file and in_model) or max(len(in_file), len(in_model)) > _MOST_FAMILIES:
        return
    aligned = _align(in_file, in_model)
    fixed = {form_of(segments(name))[0] for name in fitting}
    rules = _rules({**{path: path for path in fixed}, **aligned}) if aligned else []
    if rules:
        reason = f"names and shapes can be aligned: {phrases(map(str, rules), 3)}"
        yield Step(tuple(rules), reason, 2)


def _families(shapes: Mapping[str, Shape | None], form_of: _Form) -> _Families:
    families: _Families = {}
    for name, shape in shapes.items():
        form, numbers = form_of(segments(name))
        families.setdefault(form, {})[numbers] = shape
    return families


def _signature(family: Mapping[tuple[int, ...], Shape | None]) -> Hashable:
    return tuple(sorted((numbers, shape) for numbers, shape in family.items() if shape is not None))


def _align(in_file: _Families, in_model: _Families) -> _Aligned:
    """Pairs families of equal shapes, those with one candidate first; each pair helps its neighbors."""
    groups: dict[Hashable, tuple[list[Path], list[Path]]] = {}
    for side, families in enumerate((in_file, in_model)):
        for form, family in families.items():
            groups.setdefault(_signature(family), ([], []))[side].append(form)
    possible = [(old, new) for old, new in groups.values() if old and new and len(old) * len(new) <= _MOST_PAIRS]
    aligned: _Aligned = {}
    while True:
        before = len(aligned)
        for old, new in possible:
            _pair(old, new, aligned)
        if len(aligned) == before:
            break
    for old, new in possible:
        _unpair_crossed(old, new, aligned)
    return aligned


def _unpair_crossed(old: Sequence[Path], new: Sequence[Path], aligned: _Aligned) -> None:
    """Undoes the pairs of a group that contradict the order of numbers, where names prove nothing."""
    places = {form: place for place, form in enumerate(new)}
    found = [(form, places[aligned[form]]) for form in old if form in aligned]
    order = [place for form, place in found if any(map(is_number, (*form, *aligned[form])))]
    if order != sorted(order):
        for form, _ in found:
            del aligned[form]


def _pair(old: Sequence[Path], new: Sequence[Path], aligned: _Aligned) -> None:
    taken = set(aligned.values())
    left = [form for form in old if form not in aligned]
    right = [form for form in new if form not in taken]
    if not left or not right:
        return
    parents = _parents(aligned)
    scores = {(a, b): _score(a, b, parents) for a in left for b in right}
    only = len(old) == len(new) == 1 and any(len(form) > 1 for form in (*old, *new))
    for a in left:
        ranked = sorted(((scores[a, b], b) for b in right), reverse=True)
        score, best = ranked[0]
        rivals = [scores[a, b] for b in right if b != best] + [scores[c, best] for c in left if c != a]
        enough = score > 0 if only else score >= _ALIKE
        if enough and all(score > rival + _MARGIN for rival in rivals):
            aligned[a] = best


def _parents(aligned: _Aligned) -> dict[Path, Path]:
    """Returns the modules that are paired because something directly in them is."""
    return {old[:at]: new[:at2] for old, new in aligned.items() for at, at2 in ((-1, -1), (-2, -2)) if old[:at]}


def _score(old: Path, new: Path, parents: Mapping[Path, Path]) -> float:
    alike = likeness(old, new)
    if not alike or old.count(ANY) != new.count(ANY):
        return 0.0
    for up, bonus in ((-1, 1.0), (-2, 0.3)):
        if old[:up] in parents:
            return alike + bonus if parents[old[:up]] == new[:up] else alike - bonus
    return alike


def _rules(aligned: Mapping[Path, Path]) -> list[Rule]:
    """Turns an alignment into as few rules as possible, shortest prefixes first; none if it takes too many."""
    changes: list[tuple[Path, Path, bool]] = []
    _descend((), aligned, changes)
    ordered = _in_order(changes) if len(changes) <= _MOST_RULES else None
    return [_rule(old, new, leaf=leaf) for old, new, leaf in ordered] if ordered is not None else []


def _descend(prefix: Path, aligned: Mapping[Path, Path], changes: list[tuple[Path, Path, bool]]) -> None:
    below: dict[Path, dict[Path, Path]] = {}
    for old, new in aligned.items():
        below.setdefault(old[: len(prefix) + 1], {})[old] = new
    for start, pairs in sorted(below.items()):
        rests = {new[: len(new) - len(old) + len(start)] for old, new in pairs.items() if _same_rest(old, new, start)}
        common = all(_same_rest(old, new, start) for old, new in pairs.items()) and len(rests) == 1
        alone = len(pairs) == 1 and next(iter(pairs)) == start
        if alone:
            new = pairs[start]
            changes += [(start, new, True)] if start != new else []
        elif common:
            new = next(iter(rests))
            changes += [(start, new, False)] if start != new else []
        else:
            _descend(start, {old: new for old, new in pairs.items() if old != start}, changes)
            if start in pairs and pairs[start] != start:
                changes.append((start, pairs[start], True))


def _same_rest(old: Path, new: Path, start: Path) -> bool:
    rest = old[len(start) :]
    if not rest or len(new) <= len(rest) or new[-len(rest) :] != rest:
        return False
    return start.count(ANY) == new[: -len(rest)].count(ANY)


def _in_order(changes: list[tuple[Path, Path, bool]]) -> list[tuple[Path, Path, bool]] | None:
    """Orders the rules so that none hits the result of another; None if they form a circle."""
    left, ordered = list(changes), list[tuple[Path, Path, bool]]()
    while left:
        safe = next((c for c in left if not any(_hits(other, c[1]) for other in left if other is not c)), None)
        if safe is None:
            return None
        left.remove(safe)
        ordered.append(safe)
    return ordered


def _hits(change: tuple[Path, Path, bool], made: Path) -> bool:
    old = change[0]
    return made[: len(old)] == old if not change[2] else made == old


def _rule(old: Path, new: Path, *, leaf: bool) -> Rule:
    if leaf:
        return pattern_rule(old, new, end="")
    if ANY in old:
        return pattern_rule(old, new)
    return Rename(".".join(old) + ".", to=".".join(new) + ".")


_MOST_RENUMBERED = 64

_Children = Mapping[int, Mapping[str, Shape | None]]
_Pairs = tuple[tuple[int, int], ...]
"""File number → model number, in an order in which no rule hits the result of another."""


def renumbering(attempt: Attempt) -> Iterator[Step]:
    """Renumbers modules that are shifted by an offset, or spread out by layers without weights."""
    names = attempt.everything()
    in_file = numbered((name, attempt.source.shapes[key]) for key, name in names.items())
    in_model = numbered(attempt.model.shapes.items())
    pairs = {p: _pairs(in_file[p], in_model[p]) for p in in_file if p in in_model}
    shifted = {prefix: found for prefix, found in pairs.items() if found}
    outermost = {p: found for p, found in shifted.items() if not any(_inside(p, other) for other in shifted)}
    rules = [rule for rule, _ in _renumbered(outermost, list(in_file))]
    if 0 < len(rules) <= _MOST_RENUMBERED:
        prefix, found = next(iter(outermost.items()))
        old, new = min(found)
        place = safe_text(f"{prefix}." if prefix else "")
        yield Step(tuple(rules), f"numbers differ: '{place}{old}.' in the file is '{place}{new}.' in the model", 1)


def _pairs(in_file: _Children, in_model: _Children) -> _Pairs:
    if len(in_file) != len(in_model):
        return ()
    pairs = tuple(zip(sorted(in_file), sorted(in_model), strict=True))
    if any(in_file[old].keys() != in_model[new].keys() for old, new in pairs):
        return ()
    below = [(in_file[old][name], in_model[new][name]) for old, new in pairs for name in in_file[old]]
    alike = sum(theirs in (None, mine) for mine, theirs in below)
    if 2 * alike < len(below):
        return ()
    down = [(old, new) for old, new in pairs if new < old]
    up = [(old, new) for old, new in pairs if new > old]
    return (*down, *reversed(up))


def _renumbered(shifted: Mapping[str, _Pairs], prefixes: list[str]) -> Iterator[tuple[Rule, str]]:
    """Yields one rule per number, shared by all prefixes of one form that are numbered alike."""
    forms: dict[Path, list[str]] = {}
    for prefix in prefixes:
        forms.setdefault(template(segments(prefix))[0], []).append(prefix)
    for form, alike in forms.items():
        moved = [prefix for prefix in alike if prefix in shifted]
        if not moved:
            continue
        together = ANY in form and len(alike) == len(moved) and len({shifted[prefix] for prefix in moved}) == 1
        for prefix in moved[:1] if together else moved:
            for old, new in shifted[prefix]:
                if together:
                    yield pattern_rule((*form, str(old)), (*form, str(new))), prefix
                else:
                    start = f"{prefix}." if prefix else ""
                    yield Rename(f"{start}{old}.", to=f"{start}{new}."), prefix


def _inside(prefix: str, other: str) -> bool:
    return prefix != other and (not other or prefix.startswith(f"{other}."))
