"""Modules that are counted differently in a file and in a model.

Guarantees: layers keep their order and must have the same names below them; a network of another depth is not taken
for a shifted one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..schema import RuleConfig
from ..text.wording import safe_text
from .draft import Draft, Step
from .names import ANY, Path, segments, template
from .steps import pattern_rule
from .target import Shape, numbered

_MOST_RULES = 64

_Children = Mapping[int, Mapping[str, Shape | None]]
_Pairs = tuple[tuple[int, int], ...]
"""File number → model number, in an order in which no rule meets what another one made."""


def renumbering(draft: Draft) -> Iterator[Step]:
    """Numbering shifted by an offset, or spread by layers without weights in between."""
    names = draft.everything()
    in_file = numbered((name, draft.source.shapes[key]) for key, name in names.items())
    in_model = numbered(draft.target.shapes.items())
    pairs = {p: _pairs(in_file[p], in_model[p]) for p in in_file if p in in_model}
    shifted = {prefix: found for prefix, found in pairs.items() if found}
    outermost = {p: found for p, found in shifted.items() if not any(_inside(p, other) for other in shifted)}
    rules = [rule for rule, _ in _rules(outermost, list(in_file))]
    if 0 < len(rules) <= _MOST_RULES:
        prefix, found = next(iter(outermost.items()))
        old, new = min(found)
        place = safe_text(f"{prefix}." if prefix else "")
        yield Step(tuple(rules), f"the file counts otherwise: '{place}{old}.' is '{place}{new}.' in the model", 1)


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


def _rules(shifted: Mapping[str, _Pairs], prefixes: list[str]) -> Iterator[tuple[RuleConfig, str]]:
    """One rule for each number, shared by all prefixes of one form where these are counted alike."""
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
                    yield RuleConfig(rename=f"{start}{old}.", to=f"{start}{new}."), prefix


def _inside(prefix: str, other: str) -> bool:
    return prefix != other and (not other or prefix.startswith(f"{other}."))
