"""Proposes the next steps of an attempt: wrappers, averages, norms and prefixes between file and model names.

Guarantees: each function proposes steps and judges none; the search tries them. Proposals come in a fixed order, the
likeliest first, and are bounded in number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..keys.candidates import AVERAGE, Shape, is_average
from ..keys.rules.key import Add, Drop, Keep, Regex, Rename, Strip
from ..keys.rules.ready import ready_made
from ..keys.segments import Path, is_number, segments
from ..schema import Rule
from ..text.wording import safe_text
from .attempts import Attempt, Step
from .names import ANY, WRAPPERS, template

_MOST_VOTES = 8
_MOST_TARGETS = 4
_NORMS = (
    ("parametrizations.weight.original0", "weight_g"),
    ("parametrizations.weight.original1", "weight_v"),
    ("parametrizations.weight.original", "weight_orig"),
)


def wrappers(attempt: Attempt) -> Iterator[Step]:
    """Removes all wrapper segments, at the start or in the middle, that the file has and the model does not."""
    in_file = [segments(name) for name, _ in attempt.unmatched(attempt.names)]
    in_model = {segment for name in attempt.model.shapes for segment in segments(name)}
    found = [w for w in WRAPPERS if w not in in_model and any(w in path for path in in_file)]
    if not found:
        return
    averaged = AVERAGE in attempt.source.shapes and AVERAGE not in attempt.model.shapes
    whose = "the file is an AveragedModel: " if averaged else ""
    reason = f"{whose}the file has {_quoted(f'{wrapper}.' for wrapper in found)} in its keys"
    yield Step(unwrapping(found, in_file, averaged=averaged), reason, well_known=True)


def averages(attempt: Attempt) -> Iterator[Step]:
    """Keeps the average alone, if a prefix marks it next to the weights."""
    paths = [segments(name) for name in attempt.names.values()]
    first = (next((at for at in range(1, len(path)) if is_average(path[at - 1])), 0) for path in paths)
    votes = Counter(_dotted(path[:at]) for path, at in zip(paths, first, strict=True) if at)
    for prefix, _ in votes.most_common(_MOST_TARGETS):
        if any(not name.startswith(prefix) for name in attempt.names.values()):
            yield Step((Keep(f"{prefix}*"), Strip(prefix)), _reason(prefix, ""))


def unwrapping(found: Sequence[str], paths: Sequence[Path], *, averaged: bool) -> tuple[Rule, ...]:
    """Returns the rules that remove wrapper segments.

    Args:
        found: The segments.
        paths: The names that have them.
        averaged: Whether the counter of `torch.optim.swa_utils.AveragedModel` is next to them.
    """
    rules = tuple(_unwrap(wrapper, paths) for wrapper in found)
    if not averaged:
        return rules
    return tuple(ready_made()["ema"].values()) if rules == (_ddp(),) else (Drop(AVERAGE), *rules)


def _unwrap(wrapper: str, paths: Sequence[Path]) -> Rule:
    in_front = (path[: path.index(wrapper)] for path in paths if wrapper in path)
    if wrapper == "module" and all(set(path) <= {"_orig_mod"} for path in in_front) and not _twice(wrapper, paths):
        return _ddp()
    return Strip(f"{wrapper}.", anywhere=True)


def _ddp() -> Rule:
    return ready_made()["ddp"]["ddp"]


def _twice(wrapper: str, paths: Sequence[Path]) -> bool:
    return any(path.count(wrapper) > 1 for path in paths)


def norms(attempt: Attempt) -> Iterator[Step]:
    """Renames weight norm and spectral norm, parametrized in the file and plain in the model."""
    rules = []
    for new, old in _NORMS:
        old_wanted = any(name.endswith(f".{old}") or name == old for name in attempt.model.shapes)
        if old_wanted and any(name.endswith(new) for name in attempt.names.values()):
            rules.append(Rename(new, to=old, anywhere=True))
    if rules:
        yield Step(tuple(rules), "the file's normed weights are parametrized, the model's are not", 1)


@dataclass(frozen=True, slots=True)
class _Change:
    """The difference between two names that end alike: below `context`, `old` became `new`."""

    context: Path
    old: Path
    new: Path


def prefixes(attempt: Attempt) -> Iterator[Step]:
    """Strips, adds or renames prefixes, at the start or inside; names that end alike vote for them."""
    votes: Counter[_Change] = Counter()
    places = _Open(attempt)
    for name, shape in attempt.unmatched(attempt.names):
        ballots, certain = _ballots(places, name, shape)
        for change in ballots:
            votes[change] += 2 if certain else 1
    ranked = sorted(votes.items(), key=lambda item: (-item[1], item[0].context, item[0].old, item[0].new))
    for change, support in ranked[:_MOST_VOTES]:
        rivals = [c for c, n in votes.items() if n == support and (c.context, c.old) == (change.context, change.old)]
        yield from _steps(change, guess=len(rivals) > 1)


class _Open:
    """The model names that an attempt does not fill yet."""

    def __init__(self, attempt: Attempt) -> None:
        self._draft = attempt
        # The rest of the file may fill what the sample leaves open: a filled layer stands for those that look like it.
        self._forms = {_form(key) for key in attempt.filled} if attempt.source.weight > 1 else set[Path]()
        self._known: dict[str, dict[Shape | None, list[str]]] = {}

    def ending_in(self, suffix: str, shape: Shape) -> list[str]:
        """Returns those that end in these whole segments and accept this shape."""
        if suffix not in self._known:
            found = self._known[suffix] = {}
            for name in filter(self._is_open, self._draft.model.ending_in(suffix)):
                found.setdefault(self._draft.model.shape_of(name), []).append(name)
        return [*self._known[suffix].get(None, []), *self._known[suffix].get(shape, [])]

    def _is_open(self, name: str) -> bool:
        key = self._draft.model.aliases.get(name, name)
        return key not in self._draft.filled and not (self._forms and _form(key) in self._forms)


def _form(name: str) -> Path:
    return template(segments(name))[0]


def _ballots(places: _Open, name: str, shape: Shape) -> tuple[list[_Change], bool]:
    path = segments(name)
    for at in range(len(path)):
        rest = path[at:]
        found = places.ending_in(".".join(rest), shape)
        if not found:
            continue
        bare = all(map(is_number, rest[:-1]))  # `0.weight` does not say where it belongs
        if len(found) > (1 if bare else _MOST_TARGETS):
            return [], False
        changes = [_change(path[:at], segments(other)[: -len(rest)]) for other in found]
        return [change for change in changes if change is not None], len(found) == 1
    return [], False


def _change(old: Path, new: Path) -> _Change | None:
    shared = 0
    while shared < min(len(old), len(new)) and old[shared] == new[shared]:
        shared += 1
    context, old, new = template(old[:shared])[0], old[shared:], new[shared:]
    (before, numbers), (after, numbers_after) = template(old), template(new)
    if numbers == numbers_after:
        return _Change(context, before, after)
    # A number on one side only names a module in a list; it is not an index that both share.
    return None if numbers and numbers_after else _Change(context, old, new)


def _steps(change: _Change, *, guess: bool) -> Iterator[Step]:
    old, new, context = _dotted(change.old), _dotted(change.new), _dotted(change.context)
    plain = ANY not in (*change.old, *change.new)
    if not change.context and plain:
        yield Step((_prefix_rule(old, new),), _reason(old, new), int(bool(old and new)), guess)
        return
    if change.old and plain:
        rule = Rename(old, to=new, anywhere=True) if new else Strip(old, anywhere=True)
        yield Step((rule,), _reason(old, new, inside=True), 1, guess)
    reason = f"'{_shown(context + old)}' in the file is '{_shown(context + new)}' in the model"
    if ANY not in (*change.context, *change.old):
        yield Step((Rename(context + old, to=context + new),), reason, 1, guess)
    else:
        yield Step((pattern_rule(change.context + change.old, change.context + change.new),), reason, 1, guess)


def pattern_rule(old: Path, new: Path, end: str = ".") -> Rule:
    """Returns a rule from one template of a prefix to another, which keeps the numbers."""
    expression = r"\.".join(r"(\d+)" if segment == ANY else re.escape(segment) for segment in old)
    count = 0
    parts = []
    for segment in new:
        count += segment == ANY
        # A digit after a group number would be read as part of it.
        parts.append(rf"\{count}" if segment == ANY else segment.replace("\\", r"\\"))
    return Regex(f"^{expression}{re.escape(end) if end else '$'}", to=".".join(parts) + end)


def _prefix_rule(old: str, new: str) -> Rule:
    if not old:
        return Add(new)
    return Rename(old, to=new) if new else Strip(old)


def _reason(old: str, new: str, *, inside: bool = False) -> str:
    if old and new:
        return f"'{_shown(old)}' in the file is '{_shown(new)}' in the model"
    where = "inside its keys" if inside else "at the start of its keys"
    return f"the file has '{_shown(old)}' {where}" if old else f"the model has '{_shown(new)}' {where}"


def _dotted(path: Path) -> str:
    return "".join(f"{segment}." for segment in path)


def _shown(prefix: str) -> str:
    return safe_text(prefix.replace(ANY, "N"))


def _quoted(names: Iterator[str]) -> str:
    return ", ".join(f"'{safe_text(name)}'" for name in names)


Generator = Callable[[Attempt], Iterator[Step]]
"""Proposes steps for an attempt."""
