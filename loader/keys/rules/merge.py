"""The rule that makes one tensor of several: `merge`, along a dim, stacked, or by a formula.

Guarantees: as in `tensors`. A group is complete or refused: a pattern without a key, two keys for one pattern, and a
gap in the numbers of stacked keys are faults, so that no tensor takes the place of another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...formats import boxes
from ...formats.tree import TensorEntry
from ...text.lines import Fix
from ...text.wording import counted, phrases, safe_text
from . import boxed
from .expressions import check_replacement, expression, referred
from .joins import Join, join_of
from .tensors import Context, Group, Mending, Result, TensorRule, Unfit, Unusable, each, naming, shown

Members = Mapping[int, Sequence[str]]
"""Position of a pattern, or number, of a group → its keys; of a complete group each has one."""


@dataclass(frozen=True, slots=True)
class Merge(TensorRule):
    """Joins the keys that get the same new name, one per pattern; for one pattern with a number, stacks them."""

    merge: str | list[str]
    """Regular expressions, one for each member, in order; or one that has the number of keys to stack in a group."""
    to: str
    """What replaces the match; the keys that get the same new name are joined."""
    dim: int = 0
    """The dim along which they are joined, or the new one along which they are stacked."""
    groups: int = 1
    """Equal runs into which the dim of each member is cut; those of all members take turns."""
    by: str | dict[str, Any] | None = None
    """A formula that joins them instead, with options as in ``{gptq: {bits: 4}}``."""
    example: ClassVar[Mapping[str, object]] = {"merge": [r"\.q\.", r"\.k\.", r"\.v\."], "to": ".qkv."}

    @property
    def reversible(self) -> bool:
        """Whether it joins without a formula."""
        return self.by is None

    def hits(self, name: str) -> bool:
        """Whether one of the expressions is found in the name."""
        return any(pattern.search(name) for pattern in self._patterns())

    def grouped(self, entries: Mapping[str, TensorEntry], context: Context) -> Iterable[Group]:
        """Returns the groups of keys that get the same new name."""
        join = self._checked()
        numbered = isinstance(self.merge, str)
        found = self._numbered(entries) if numbered else self._listed(entries, join)
        order = [*join.roles] if join is not None else []

        def made(new: str) -> Group:
            with naming(f"{safe_text(new)}:"):
                members = found[new]
                self._check_complete(members, entries, join)
                keys = [members[at][0] for at in sorted(members)]
                tensors = [_movable(key, entries[key]) for key in keys]
                roles = [order[at] if order else str(at) for at in sorted(members)]
                with naming(lambda: f"{phrases(shown(key, entries[key]) for key in keys)}:"):
                    if join is not None:
                        entry = join.joined(dict(zip(roles, tensors, strict=True)), context)
                    else:
                        entry = self._joined(tensors, numbered=numbered)
                return Group(tuple(keys), (Result(new, entry),))

        return each(found, made)

    def follow(self, prefix: str) -> Sequence[str]:
        """Returns the prefix of the merged tensor."""
        for pattern in self._patterns():
            if pattern.search(prefix):
                return (pattern.sub(self.to, prefix),)
        return (prefix,)

    def _patterns(self) -> list[re.Pattern[str]]:
        return [expression(one) for one in ([self.merge] if isinstance(self.merge, str) else self.merge)]

    def _checked(self) -> Join | None:
        """Returns the formula, if there is one; raises ValueError for settings that cannot work."""
        patterns = self._patterns()
        if not patterns:
            raise Unusable("'merge' lists no pattern", Mending("merge", self.example["merge"]))
        for pattern in patterns:
            check_replacement(pattern, self.to, "to")
        boxed.check_number(self.groups, "groups")
        if isinstance(self.merge, str):
            self._number_of(patterns[0])
        join = None if self.by is None else join_of(self.by)
        if join is None:
            if isinstance(self.merge, str) and self.groups != 1:
                raise Unusable("'groups' belongs to a list of patterns; one stacks numbered keys", Mending("groups", 1))
            return None
        if self.dim or self.groups != 1:
            idle = [Mending("dim", 0), Mending("groups", 1)]
            raise Unusable(f"'dim' and 'groups' belong to a merge without 'by', but 'by' is {join.name}", *idle)
        least = next((at for at, role in enumerate(join.roles) if set(join.roles[at:]) <= join.optional), None)
        counts = range(len(join.roles) if least is None else least, len(join.roles) + 1)
        if join.roles and (isinstance(self.merge, str) or len(patterns) not in counts):
            expected = f"one pattern for each of {', '.join(join.roles)}, in this order"
            found = counted(len(patterns), "pattern")
            raise ValueError(f"'merge' has {found} for by: {join.name}, expected {expected}")
        return join

    def _number_of(self, pattern: re.Pattern[str]) -> int:
        """Returns the group of an expression that is the number: the one that the new name does not use."""
        left = set(range(1, pattern.groups + 1)) - referred(pattern, self.to)
        if len(left) != 1:
            found = f"{len(left) or 'no'} groups that 'to' does not use"
            raise ValueError(
                f"the regular expression {safe_text(pattern.pattern)!r} has {found}, expected one, around the number "
                r"of the keys to stack, as in '\.experts\.(\d+)\.w1\.weight$'"
            )
        return left.pop()

    def _listed(self, entries: Mapping[str, TensorEntry], join: Join | None) -> Mapping[str, Members]:
        """Returns the keys of each new name by the position of their pattern."""
        found, patterns, faults = dict[str, dict[int, list[str]]](), self._patterns(), list[str]()
        for name in entries:
            fitting = [at for at, pattern in enumerate(patterns) if pattern.search(name)]
            if len(fitting) > 1:
                both = " and ".join(safe_text(patterns[at].pattern) for at in fitting)
                faults.append(f"{shown(name, entries[name])} matches {both}, expected one pattern")
            for at in fitting:
                found.setdefault(patterns[at].sub(self.to, name), {}).setdefault(at, []).append(name)
        if faults:
            raise Unfit(faults, boxed.NARROW)
        # A norm next to quantized weights has a first role alone, and nothing to be joined with.
        alone = {new for new, members in found.items() if len(patterns) > 1 and members == {0: [new]}}
        left = {new: members for new, members in found.items() if new not in alone}
        if join is None or not join.roles:
            return left
        by_role = ((new, {join.roles[at]: entries[names[0]] for at, names in left[new].items()}) for new in left)
        return {new: left[new] for new, members in by_role if join.concerns(members)}

    def _numbered(self, entries: Mapping[str, TensorEntry]) -> Mapping[str, Members]:
        """Returns the keys of each new name by their number."""
        (pattern,), faults = self._patterns(), list[str]()
        found, group = dict[str, dict[int, list[str]]](), self._number_of(pattern)
        for name in entries:
            first = pattern.search(name)
            if first is None:
                continue
            new, count = pattern.subn(self.to, name)
            number = first[group] or ""
            if count > 1 or not (number.isascii() and number.isdigit() and len(number) <= _MOST_DIGITS):
                reason = "matches more than once" if count > 1 else f"has no number but {safe_text(number)!r}"
                faults.append(f"{shown(name, entries[name])} {reason}")
                continue
            found.setdefault(new, {}).setdefault(int(number), []).append(name)
        if faults:
            raise Unfit(faults, boxed.NARROW)
        return found

    def _check_complete(self, members: Members, entries: Mapping[str, TensorEntry], join: Join | None) -> None:
        """Raises Unfit if a pattern or number has no key, or more than one."""

        def listed(keys: Iterable[str]) -> str:
            return phrases(shown(key, entries[key]) for key in keys)

        present = (key for at in sorted(members) for key in members[at])
        for at, keys in members.items():
            if len(keys) > 1:
                meaning = f"the number {at}" if isinstance(self.merge, str) else f"the pattern {self.merge[at]}"
                raise Unfit([f"{listed(keys)} are {len(keys)} keys for {meaning}"], boxed.NARROW)
        if isinstance(self.merge, str):
            gap = next((at for at, number in enumerate(sorted(members)) if at != number), None)
            if gap is not None:
                fault = f"the number {gap} is missing of 0 to {max(members)}: the file has {listed(present)}"
                raise Unfit([fault], _COMPLETE)
            return
        allowed = {at for at, role in enumerate(join.roles) if role in join.optional} if join is not None else set()
        absent = [at for at in range(len(self.merge)) if at not in members and at not in allowed]
        if absent:
            lacking = " and ".join(safe_text(self.merge[at]) for at in absent)
            raise Unfit([f"no key for {lacking}: the file has {listed(present)}"], _COMPLETE)

    def _joined(self, tensors: Sequence[TensorEntry], *, numbered: bool) -> TensorEntry:
        """Returns the tensors stacked, or joined along a dim."""
        first = tensors[0]
        dim = boxed.place_of(self.dim, first.shape, more=int(numbered))
        if len({one.dtype for one in tensors}) > 1:
            dtypes = phrases(dict.fromkeys(one.dtype for one in tensors))
            raise Unfit([f"their dtypes differ: {dtypes}"], Fix(note="save them again in one dtype"))
        if numbered:
            if len({one.shape for one in tensors}) > 1:
                raise Unfit(["their shapes differ, expected the same for each number"], boxed.NARROW)
            return boxes.stacked(tensors, dim)
        if len({(*one.shape[:dim], -1, *one.shape[dim + 1 :]) for one in tensors}) > 1:
            raise Unfit([f"their shapes differ in more than dim {dim}"], Fix(note="join them along another dim"))
        if self.groups == 1:
            return boxes.joined(tensors, dim)
        runs = [boxed.in_runs(one, dim, self.groups) for one in tensors]
        return boxed.out_of_runs(boxes.joined(runs, dim + 1), dim)


def _movable(name: str, entry: TensorEntry) -> TensorEntry:
    with naming(shown(name, entry)):
        return boxed.movable(entry)


_COMPLETE = Fix(note="open all files of the checkpoint, narrow the patterns, or drop the keys of this group first")
_MOST_DIGITS = 18
"""Of a number in a key."""
