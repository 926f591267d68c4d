"""An attempt of the search: a nested key and some rules, and the model keys that they fill.

Guarantees: plain data that never changes; the names are the result of the real rules on the file's keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import LoaderError
from ..formats.tree import Container
from ..keys.candidates import AVERAGE, Shape, is_average
from ..keys.plan import fits
from ..keys.rules import rewrite
from ..keys.segments import Path, is_number, segments
from ..keys.select import is_moment
from ..schema import Rule
from .names import template

_ALIASES = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
"""Old names that torch's load hook of a parametrized weight norm accepts."""


@dataclass(frozen=True, slots=True)
class ModelKeys:
    """The names and shapes of a part of a model, relative to the part."""

    shapes: Mapping[str, Shape | None]
    """Key → shape; None fits any."""
    aliases: Mapping[str, str]
    """Alternative name → the key that it fills."""
    _suffixes: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, shapes: Mapping[str, Shape | None]) -> ModelKeys:
        """Indexes a model's keys."""
        aliases = {
            key.removesuffix(new) + old: key
            for key in shapes
            for new, old in _ALIASES.items()
            if f".{key}".endswith(f".{new}")
        }
        return cls(shapes, aliases)

    def filled_by(self, name: str, shape: Shape) -> str | None:
        """Returns the key that a tensor of this name and shape fills."""
        key = self.aliases.get(name, name)
        return key if key in self.shapes and fits(self.shapes[key], shape) else None

    def ending_in(self, suffix: str) -> list[str]:
        """Returns the names, aliases included, that end in these whole segments."""
        if not self._suffixes:
            for name in (*self.shapes, *self.aliases):
                for rest in _suffixes(name):
                    self._suffixes.setdefault(rest, []).append(name)
        return self._suffixes.get(suffix, [])

    def shape_of(self, name: str) -> Shape | None:
        """Returns the shape for a name or an alias."""
        return self.shapes[self.aliases.get(name, name)]


def numbered(names: Iterable[tuple[str, Shape | None]]) -> dict[str, dict[int, dict[str, Shape | None]]]:
    """Finds the modules with numbered children: prefix → number → the names below, with shapes."""
    found: dict[str, dict[int, dict[str, Shape | None]]] = {}
    for name, shape in names:
        path = segments(name)
        for at, segment in enumerate(path):
            if is_number(segment) and str(int(segment)) == segment:
                below = found.setdefault(".".join(path[:at]), {}).setdefault(int(segment), {})
                below[".".join(path[at + 1 :])] = shape
    return found


def _suffixes(name: str) -> Iterable[str]:
    path = segments(name)
    return (".".join(path[at:]) for at in range(len(path)))


_SAMPLE = 1500
_FEW = 4


@dataclass(frozen=True, slots=True)
class Step:
    """Rules that belong together, and the reason for them."""

    rules: tuple[Rule, ...]
    reason: str
    rank: int = 0
    """How much they assume: 0 wrappers and prefixes, 1 another name or number, 2 an alignment of many names."""
    guess: bool = False
    """Whether another step is just as likely."""
    well_known: bool = False
    """Whether the rules are common knowledge; they are preferred to others with the same effect."""
    doubt: bool = False
    """Whether tensors of the right shapes may get the wrong values: shapes do not show the order."""
    resizes: bool = False
    """Whether it brings tensors of another size to the model's."""
    allowed: tuple[str, ...] = ()
    """Globs for keys of another size that stay as the model initializes them."""


@dataclass(frozen=True, slots=True)
class Source:
    """The tensors under one nested key, and the sample of them that the search looks at."""

    key: str | None
    container: Container
    shapes: Mapping[str, Shape]
    sample: tuple[str, ...]
    """Keys that may fill the model; a part of them if there are many."""
    weight: float
    """Number of keys for each one in the sample."""

    @classmethod
    def of(cls, key: str | None, container: Container, model: ModelKeys) -> Source:
        """Takes a container's tensors."""
        shapes = {name: entry.shape for name, entry in container.tensors().items()}
        wanted = set(model.shapes.values())
        weights = {name: shape for name, shape in shapes.items() if not is_moment(name)}
        useful = [name for name, shape in weights.items() if shape in wanted or None in wanted] or list(weights)
        sample = useful if len(useful) <= _SAMPLE else _sampled(useful)
        return cls(key, container, shapes, tuple(sample), len(useful) / max(len(sample), 1))


def _sampled(names: Sequence[str]) -> list[str]:
    """Samples names evenly, with all those of a rare form: a head among a thousand layers."""
    forms: dict[Path, list[str]] = {}
    for name in names:
        forms.setdefault(template(segments(name))[0], []).append(name)
    rare = [name for alike in forms.values() if len(alike) <= _FEW for name in alike][:_SAMPLE]
    taken = {*names[:: len(names) // _SAMPLE + 1], *rare}
    return [name for name in names if name in taken]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A nested key and some rules, with the names that they give to the file's keys."""

    source: Source
    model: ModelKeys
    own: Mapping[str, Rule]
    """The user's own rules; they come first."""
    steps: tuple[Step, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    """File key → name, of the sample."""
    filled: Mapping[str, str] = field(default_factory=dict)
    """Model key → the file key that fills it, of the sample."""

    @classmethod
    def start(cls, source: Source, model: ModelKeys, own: Mapping[str, Rule]) -> Attempt | None:
        """Starts with a nested key and the user's rules; None if these collide."""
        return _settled(cls(source, model, own))

    def then(self, step: Step) -> Attempt | None:
        """Adds a step; None if its rules collide."""
        return _settled(dataclasses.replace(self, steps=(*self.steps, step)))

    @property
    def rank(self) -> int:
        """How much its boldest step assumes."""
        return max((step.rank for step in self.steps), default=0)

    @property
    def guess(self) -> bool:
        """Whether one of its steps has an equally likely alternative."""
        return any(step.guess for step in self.steps)

    @property
    def doubt(self) -> bool:
        """Whether shapes do not show that one of its steps is right."""
        return any(step.doubt for step in self.steps)

    @property
    def resizes(self) -> bool:
        """Whether one of its steps makes tensors of another size."""
        return any(step.resizes for step in self.steps)

    @property
    def average(self) -> bool:
        """Whether it fills the model with an average of weights, by the names; a model may have its own."""
        if is_average(self.source.key or "") or (AVERAGE in self.source.shapes and AVERAGE not in self.model.shapes):
            return True
        averaged = sum(is_average(file) and not is_average(key) for key, file in self.filled.items())
        return 2 * averaged > len(self.filled)

    @property
    def rules(self) -> dict[str, Rule]:
        """All rules by name, the user's first."""
        return named(self.own, [rule for step in self.steps for rule in step.rules])

    def everything(self) -> Mapping[str, str]:
        """Renames all tensors, not only the sample: file key → name; empty if the rules collide."""
        if len(self.source.sample) == len(self.source.shapes):
            return self.names
        return _renamed(self.source.shapes, self.rules) or {}

    def unmatched(self, names: Mapping[str, str]) -> list[tuple[str, Shape]]:
        """Returns the names that fill no model key, with their shapes."""
        shaped = ((name, self.source.shapes[key]) for key, name in names.items())
        return [(name, shape) for name, shape in shaped if self.model.filled_by(name, shape) is None]


def named(own: Mapping[str, Rule], added: list[Rule]) -> dict[str, Rule]:
    """Names rules and appends them to the user's own."""
    rules = dict(own)
    for rule in added:
        number = next(n for n in range(1, len(rules) + 2) if _name(n) not in rules)
        rules[_name(number)] = rule
    return rules


def _name(number: int) -> str:
    return f"fit{number}" if number > 1 else "fit"


def _settled(attempt: Attempt) -> Attempt | None:
    names = _renamed(attempt.source.sample, attempt.rules)
    if names is None:
        return None
    filled: dict[str, str] = {}
    for key, name in names.items():
        model_key = attempt.model.filled_by(name, attempt.source.shapes[key])
        if model_key is not None:
            filled.setdefault(model_key, key)
    return dataclasses.replace(attempt, names=names, filled=filled)


def _renamed(keys: Mapping[str, Shape] | tuple[str, ...], rules: Mapping[str, Rule]) -> dict[str, str] | None:
    # A rule may match nothing in the sample and something in the file.
    patient = {name: dataclasses.replace(rule, optional=True) for name, rule in rules.items()}
    try:
        return rewrite(list(keys), patient).names
    except LoaderError:
        return None
