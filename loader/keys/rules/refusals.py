"""The refusals of rules that match nothing, break a name, or make one name of two.

Guarantees: all problems of one kind are reported at once; every collision is reported with the rule that made it, with
both keys and both shapes; a line that is offered for one leaves no rule without a hit.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile

from ...errors import FitError
from ...formats.tree import Node, TensorEntry
from ...schema import Rule
from ...text.lines import Fix, line, together, under
from ...text.wording import counted, listing, phrases, safe_text, shape
from .tensors import Place, Shape, TensorRule
from .tracing import LEAVE_OUT, Trace, Traced, blamed_rule, judged, line_of, said, step_of

_NARROWER = Fix(note="make the rule narrower, or drop one of the two before it")
_SPECIAL = re.compile(r"([*?[])")


@dataclass(frozen=True, slots=True)
class Clash:
    """Two entries of one name."""

    rule: str
    """The one that made the second of them."""
    one: Trace
    other: Trace

    @property
    def is_of_a_group(self) -> bool:
        """Whether one group of the rule has both as results."""
        made = self.one.made_by[-1:] == self.other.made_by[-1:] == (self.rule,)
        return made and self.one.sources == self.other.sources


@dataclass(frozen=True, slots=True)
class Naming:
    """What rules made of a file's names."""

    keys: Mapping[str, Node]
    """The file's entries."""
    found: Traced
    rules: Mapping[str, Rule]
    """The enabled ones, in order."""
    shapes: Mapping[str, Shape | None]
    """The model's keys."""
    where: Place

    def refuse_collisions(self, live: Sequence[Trace]) -> None:
        """Raises FitError if two entries have one name.

        Args:
            live: Those that are not dropped.
        """
        clashes: dict[str, list[Clash]] = {}
        for clash in _clashes(live, [*self.rules]):
            clashes.setdefault(clash.rule, []).append(clash)
        if clashes:
            texts = (
                f"{said(rule, self.rules[rule])} gives two keys one name in {self.where}: "
                f"{phrases(map(self._said, ones))}"
                for rule, ones in clashes.items()
            )
            rule, ones = next(iter(clashes.items()))
            raise FitError("; ".join(texts), *(self._fixes(rule, ones) if len(clashes) == 1 else ()), _NARROWER)

    def _said(self, clash: Clash) -> str:
        return f"{self._side(clash.one)} and {self._side(clash.other)} both become {safe_text(clash.one.name)}"

    def _side(self, trace: Trace) -> str:
        """Writes a key with its shape, and that of what was made of it: ``[8, 8] of l.0.qkv.weight [24, 8]``."""
        texts = [f"{safe_text(key)} {_shape_of(self.keys[key])}".rstrip() for key in trace.sources]
        if not trace.made_by:
            return texts[0]
        settled = isinstance(trace.entry, TensorEntry)
        made = _shape_of(trace.entry) if settled else _shape(self.shapes.get(trace.name))  # type: ignore[arg-type]
        return f"{made or 'a part'} of {listing(texts, 2, 400)}"

    def _fixes(self, rule: str, clashes: Sequence[Clash]) -> Iterator[Fix]:
        """Yields the lines that leave out one of two."""
        kind = self.rules[rule]
        if isinstance(kind, TensorRule) and all(clash.is_of_a_group for clash in clashes):
            fewer = kind.without({clash.other.position for clash in clashes})
            if fewer is not None:
                yield line_of(rule, fewer, self.where)
            return
        for moved in (False, True):
            dropped = [self._one(clash, moved=moved) for clash in clashes]
            if not any(trace.made_by for trace in dropped) and not self._idles(dropped):
                yield self._dropping({trace.sources[0] for trace in dropped})

    def _one(self, clash: Clash, *, moved: bool) -> Trace:
        """The entry of a collision that the rule named, or the other one."""
        return clash.one if (clash.rule in clash.one.named) is moved else clash.other

    def _idles(self, dropped: Sequence[Trace]) -> bool:
        """Whether a rule would have no hit without these entries."""
        used = [rule for trace in dropped for rule in trace.used]
        return any(used.count(rule) >= self.found.hits[rule] and not self.rules[rule].optional for rule in {*used})

    def _dropping(self, keys: Collection[str]) -> Fix:
        """The line with a rule before the others that drops exactly these keys of the file; empty if no glob does."""
        kept = [key for key in self.keys if key not in keys]
        globs = (("drop", _glob(keys, kept)), ("keep", _glob(kept, keys)))
        found = next(({kind: glob} for kind, glob in globs if glob), None)
        if found is None:
            return Fix()
        new = next(name for name in map("first{}".format, ("", *range(len(self.rules)))) if name not in self.rules)
        rules = {new: found, **{name: rule.settings() for name, rule in self.rules.items()}}
        which = listing(keys) if len(keys) == 1 else counted(len(keys), "key")
        return line(self.where.path, rules, note=f"leaves {which} out")


def _clashes(live: Sequence[Trace], order: Sequence[str]) -> Iterator[Clash]:
    first: dict[str, Trace] = {}
    for trace in sorted(live, key=lambda trace: (trace.sources, trace.position)):
        other = first.setdefault(trace.name, trace)
        if other is not trace:
            yield Clash(_maker(other, trace, order), other, trace)


def _maker(one: Trace, other: Trace, order: Sequence[str]) -> str:
    """Returns the rule after which two entries had one name."""
    names, found = (one.sources[0], other.sources[0]), one.made_by[-1:]
    for rule in order:
        following = (one.named.get(rule, names[0]), other.named.get(rule, names[1]))
        if names[0] != names[1] and following[0] == following[1]:
            found = (rule,)
        names = following
    return found[0]  # two entries of one source are of a rule that made several


def _shape_of(entry: Node) -> str:
    return _shape(entry.shape) if isinstance(entry, TensorEntry) else ""


def _shape(sizes: Shape | None) -> str:
    return "" if sizes is None else shape(sizes)


def _glob(keys: Collection[str], others: Collection[str]) -> str:
    """Returns a glob that matches these keys and no other; empty if there is no simple one."""
    names = list(keys)
    if not names:
        return ""
    start = _SPECIAL.sub(r"[\1]", _common(names))
    end = _SPECIAL.sub(r"[\1]", _common([name[::-1] for name in names])[::-1])
    globs = [start] if len(names) == 1 else [f"{start}*", f"*{end}"]
    return next((glob for glob in globs if glob != "*" and not any(fnmatchcase(one, glob) for one in others)), "")


def _common(names: Sequence[str]) -> str:
    """Returns the start that all names have."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(min(names), max(names), strict=False))
    return "".join(sign for sign, _ in pairs)


def refuse_idle(
    active: Mapping[str, Rule], hits: Mapping[str, int], keys: Sequence[str], left: Sequence[str], where: Place
) -> None:
    """Raises FitError if a rule that is not optional hits nothing.

    Args:
        active: The enabled rules by name.
        hits: How often each hit.
        keys: The file's keys.
        left: The names after all rules.
        where: The owner of the keys, for the message.
    """
    idle = [name for name, count in hits.items() if count == 0 and not active[name].optional]
    if not idle:
        return
    said = "; ".join(f"'{safe_text(name)}' ({active[name]})" for name in idle)
    noun = "rule matches" if len(idle) == 1 else "rules match"
    raise FitError(
        f"{len(idle)} {noun} none of the {counted(len(keys), 'key')} in {where}: {said}. Its keys are {listing(keys)}.",
        *_advice(active, idle, left, where),
    )


def _advice(active: Mapping[str, Rule], idle: Sequence[str], left: Sequence[str], where: Place) -> list[Fix]:
    """Returns the fixes for rules without a hit; some only come too early."""
    early = [name for name in idle if _hits_any(name, active[name], left, where)]
    order = [*(name for name in active if name not in early), *early]
    if early and order != list(active):
        return [line(where.path, order, note="the outermost wrapper comes first")]
    lines = (line(under(where.path, name, "optional"), value=True) for name in idle)
    idling = together(lines, note="allows the rule to match nothing")
    return [LEAVE_OUT, *([idling] if idling.line else [])]


def _hits_any(name: str, rule: Rule, keys: Sequence[str], where: Place) -> bool:
    if isinstance(rule, TensorRule):
        with judged(name, rule, where):
            return any(map(rule.hits, keys))
    step = step_of(name, rule, where)
    with blamed_rule(name, rule):
        return any(step(key) is not None for key in keys)


def refuse_broken_names(traces: Sequence[Trace], where: Place) -> None:
    """Raises FitError if a rule leaves an empty name, or one that begins or ends in a dot."""
    broken = [trace for trace in traces if _breaks(trace.sources[0], trace.name)]
    if broken:
        texts = phrases(f"{safe_text(trace.sources[0])} → '{safe_text(trace.name)}'" for trace in broken)
        raise FitError(
            f"the rules leave {counted(len(broken), 'key')} in {where} without a valid name: {texts}.",
            Fix(note="a prefix usually ends in a dot: {strip: module.}"),
        )


def _breaks(key: str, name: str) -> bool:
    """Whether a rule left an empty name, or a dot at an end that the file's key does not have."""
    if not name:
        return bool(key)
    return (name[0] == "." and key[:1] != ".") or (name[-1] == "." and key[-1:] != ".")
