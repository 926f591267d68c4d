"""The model as the search sees it.

Guarantees: plain data; built once for a search and never changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import LoaderError
from ..formats.tree import Container
from ..keys.optimizers import is_moment
from ..keys.rules import rewrite
from ..schema import RuleConfig
from .names import Path, is_number, segments, template

Shape = tuple[int, ...]

_ALIASES = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
"""Old names that torch's own load hook of a parametrized weight norm takes."""


@dataclass(frozen=True, slots=True)
class Target:
    """The names and shapes that a part of a model wants, below the part."""

    shapes: Mapping[str, Shape | None]
    """Key → shape; None takes any."""
    aliases: Mapping[str, str]
    """Another name that loads → the key that it fills."""
    _suffixes: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, shapes: Mapping[str, Shape | None]) -> Target:
        """Indexes a model's keys."""
        aliases = {
            key.removesuffix(new) + old: key
            for key in shapes
            for new, old in _ALIASES.items()
            if f".{key}".endswith(f".{new}")
        }
        return cls(shapes, aliases)

    def filled_by(self, name: str, shape: Shape) -> str | None:
        """The key that a tensor of this name and shape fills."""
        key = self.aliases.get(name, name)
        if key not in self.shapes:
            return None
        wanted = self.shapes[key]
        fits = wanted is None or wanted == shape or (wanted == () and shape == (1,))
        return key if fits else None

    def ending_in(self, suffix: str) -> list[str]:
        """The names, aliases too, that end in these whole segments."""
        if not self._suffixes:
            for name in (*self.shapes, *self.aliases):
                for rest in _suffixes(name):
                    self._suffixes.setdefault(rest, []).append(name)
        return self._suffixes.get(suffix, [])

    def shape_of(self, name: str) -> Shape | None:
        """The shape behind a name or an alias."""
        return self.shapes[self.aliases.get(name, name)]


def numbered(names: Iterable[tuple[str, Shape | None]]) -> dict[str, dict[int, dict[str, Shape | None]]]:
    """The modules that count their children: prefix → number → what stands below, with shapes."""
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
    """Some rules that belong together, and why."""

    rules: tuple[RuleConfig, ...]
    reason: str
    rank: int = 0
    """How much they assume: 0 wrappers and prefixes, 1 another name or number, 2 an alignment of many names."""
    guess: bool = False
    """Whether another step has the same right to be taken."""
    well_known: bool = False
    """Whether everybody knows these rules; they are preferred to others that do the same."""


@dataclass(frozen=True, slots=True)
class Source:
    """The tensors under one nested key, and those of them that the search looks at."""

    key: str | None
    container: Container
    shapes: Mapping[str, Shape]
    sample: tuple[str, ...]
    """Keys that may fill the model, a part of them where there are many."""
    weight: float
    """How many keys each one of the sample stands for."""

    @classmethod
    def of(cls, key: str | None, container: Container, target: Target) -> Source:
        """Takes a container's tensors."""
        shapes = {name: entry.shape for name, entry in container.tensors().items()}
        wanted = set(target.shapes.values())
        weights = {name: shape for name, shape in shapes.items() if not is_moment(name)}
        useful = [name for name, shape in weights.items() if shape in wanted or None in wanted] or list(weights)
        sample = useful if len(useful) <= _SAMPLE else _sampled(useful)
        return cls(key, container, shapes, tuple(sample), len(useful) / max(len(sample), 1))


def _sampled(names: Sequence[str]) -> list[str]:
    """Names evenly taken, and every one of which there are few: a head among a thousand layers."""
    forms: dict[Path, list[str]] = {}
    for name in names:
        forms.setdefault(template(segments(name))[0], []).append(name)
    rare = [name for alike in forms.values() if len(alike) <= _FEW for name in alike][:_SAMPLE]
    taken = {*names[:: len(names) // _SAMPLE + 1], *rare}
    return [name for name in names if name in taken]


@dataclass(frozen=True, slots=True)
class Draft:
    """A nested key and some rules, with what they make of the file's keys."""

    source: Source
    target: Target
    given: Mapping[str, RuleConfig]
    """The user's own rules; they come first."""
    steps: tuple[Step, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    """File key → name, of the sample."""
    filled: Mapping[str, str] = field(default_factory=dict)
    """Model key → the file key that fills it, of the sample."""

    @classmethod
    def start(cls, source: Source, target: Target, given: Mapping[str, RuleConfig]) -> Draft | None:
        """The draft of a nested key and the user's rules; None where these break it."""
        return _settled(cls(source, target, given))

    def then(self, step: Step) -> Draft | None:
        """This draft with one more step; None where its rules break it."""
        return _settled(dataclasses.replace(self, steps=(*self.steps, step)))

    @property
    def rank(self) -> int:
        """What its boldest step assumes."""
        return max((step.rank for step in self.steps), default=0)

    @property
    def guess(self) -> bool:
        """Whether it rests on a step to which there is an equal."""
        return any(step.guess for step in self.steps)

    @property
    def rules(self) -> dict[str, RuleConfig]:
        """All its rules by name, the user's first."""
        return named(self.given, [rule for step in self.steps for rule in step.rules])

    def everything(self) -> Mapping[str, str]:
        """File key → name, of all tensors and not of the sample alone; empty where the rules collide on them."""
        if len(self.source.sample) == len(self.source.shapes):
            return self.names
        return _renamed(self.source.shapes, self.rules) or {}

    def unmatched(self, names: Mapping[str, str]) -> list[tuple[str, Shape]]:
        """Names that fill no model key, with their shapes."""
        shaped = ((name, self.source.shapes[key]) for key, name in names.items())
        return [(name, shape) for name, shape in shaped if self.target.filled_by(name, shape) is None]


def named(given: Mapping[str, RuleConfig], added: list[RuleConfig]) -> dict[str, RuleConfig]:
    """Gives names to rules and puts them behind the user's own."""
    rules = dict(given)
    for rule in added:
        number = next(n for n in range(1, len(rules) + 2) if _name(n) not in rules)
        rules[_name(number)] = rule
    return rules


def _name(number: int) -> str:
    return f"fit{number}" if number > 1 else "fit"


def _settled(draft: Draft) -> Draft | None:
    names = _renamed(draft.source.sample, draft.rules)
    if names is None:
        return None
    filled: dict[str, str] = {}
    for key, name in names.items():
        model_key = draft.target.filled_by(name, draft.source.shapes[key])
        if model_key is not None:
            filled.setdefault(model_key, key)
    return dataclasses.replace(draft, names=names, filled=filled)


def _renamed(keys: Mapping[str, Shape] | tuple[str, ...], rules: Mapping[str, RuleConfig]) -> dict[str, str] | None:
    # On a sample a rule may hit nothing although it hits something in the file.
    patient = {name: dataclasses.replace(rule, optional=True) for name, rule in rules.items()}
    try:
        return rewrite(keys, patient).names
    except LoaderError:
        return None
