"""Applies the search to a job: its parts, its model's load hooks, and ``auto``.

Guarantees: reads no tensor data and changes no model; ``auto`` is replaced by an explicit nested key and explicit rules
before anything is planned, and only if one explanation alone fills the part without further allowances.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from torch import nn

from ..builder import Recipe
from ..errors import FitError
from ..formats.tree import Container, Node, TensorEntry
from ..keys.candidates import Shape
from ..keys.guard import still_quantized
from ..keys.plan import Plan, Wanted
from ..keys.select import find
from ..keys.written import written
from ..module.hooks import rehearse
from ..parts import Part, below, mounted
from ..parts.offer import context_of
from ..schema import AUTO, AllowConfig
from ..text.lines import Fix, typed
from ..text.wording import listing, matches
from .alternatives import in_parts, of_another_size
from .leftovers import Proposal, apart, proposals
from .nature import Nature, moments_alone, nameless, nature, scaled_elsewhere
from .problem import Explanation, Problem, judge, plan_as_typed, rewritten
from .published import as_published
from .refusal import NO_WAY, Advised, diagnosis, misfit, undecided, with_proposals
from .search import Candidate, Findings, Searched, explain

_MOST_NATURES = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Advice:
    """Finds the ways to make the files of a job fit its model."""

    model: nn.Module
    parts: Sequence[Part]
    wanted: Mapping[str, Wanted]
    allow: AllowConfig
    recipe: Recipe | None = None
    """None if the model was not built from a config."""
    open_rest: bool = False
    """Whether no file is given for the keys that belong to no part."""
    _searched: dict[str, Searched] = dataclasses.field(default_factory=dict, init=False)
    """By part; for this model only."""

    def settled(self) -> list[Part]:
        """Returns the parts with ``auto`` replaced.

        Raises:
            FitError: Nothing fits, or several explanations are equally good, or an allowance would be needed.
        """
        return [self._settled(part) for part in self.parts]

    def _settled(self, part: Part) -> Part:
        autos = part.config.autos
        if not autos:
            return part
        problem = self.problem(part)
        found = self._explain(problem, keys_free="key" in autos, rules_free="rules" in autos).explanations
        if len(found) != 1 or found[0].excused or found[0].swaps or found[0].doubt:
            names = [f"{problem.config(name)}=auto" for name in autos]
            advised = self._advised([part])
            raise undecided(names, part.checkpoint.label, advised, _diagnosed(problem, advised))
        settings = dataclasses.replace(part.config.checkpoint, key=found[0].key)
        config = dataclasses.replace(part.config, checkpoint=settings, rules=dict(found[0].rules))
        return dataclasses.replace(part, config=config, applied=tuple(map(written, found[0].overrides)))

    def improved(self, error: FitError) -> FitError:
        """Adds the ways to make the files fit to the refusal of a nested key or a rule."""
        lost = any(not _holds_tensors(part) for part in self.parts)
        return with_proposals(error, self._advised(self.parts), otherwise=NO_WAY if lost else error.fixes)

    def misfit(self, plan: Plan, file: Mapping[str, Shape], source: str) -> FitError:
        """Returns the refusal of a plan that does not pass."""
        return misfit(plan, self.wanted, file, source, self._advised(self.parts))

    def _advised(self, parts: Sequence[Part]) -> Advised:
        """Collects what a refusal shows: lines to type, what the nested keys fill, and remarks."""
        ways, candidates, remarks = self._search(parts)
        natures = [] if ways else list(dict.fromkeys(n for part in parts for n in _natures(part, self.wanted)))
        averages = [remark for part in parts for remark in nameless(part.checkpoint.root, self.wanted)]
        remarks = [
            *(nature.remark for nature in natures),
            *averages,
            *(part.remark for part in parts if part.remark),
            *remarks,
        ]
        return Advised(ways, candidates, remarks, natures[0].instead if natures else (), self._for_the_rest())

    def _for_the_rest(self) -> Fix:
        """Returns the line for a file that fills the keys outside all parts, if none was given."""
        rest = self._uncovered() if self.open_rest else {}
        modules = dict.fromkeys(key.partition(".")[0] for key in rest)
        return typed("checkpoint.path=FILE", note=f"fills {listing(modules)}, which no part does") if rest else Fix()

    def _search(self, parts: Sequence[Part]) -> tuple[list[Proposal], tuple[Candidate, ...], list[str]]:
        found: list[tuple[str, Sequence[Explanation]]] = []
        candidates: tuple[Candidate, ...] = ()
        loaded = total = 0
        for part in parts:
            problem = self.problem(part)
            plan = plan_as_typed(problem)
            if plan is not None:
                loaded, total = loaded + len(plan.loaded), total + len(problem.wanted)
                continue
            findings = self._explain(problem)
            found.append((part.name, findings.explanations))
            candidates = findings.candidates if len(parts) == 1 else ()
        uncovered = self._uncovered() if len(parts) == len(self.parts) else {}
        globs = apart(uncovered, [key for key in self.wanted if key not in uncovered])
        if globs is None:
            return [], candidates, []
        ways = proposals(found, self.allow, (loaded, total + len(uncovered)), globs)
        if len(self.parts) == 1 and found and not any(way.loaded == way.wanted and not way.resizes for way in ways):
            problem = self.problem(self.parts[0])
            halves = in_parts(problem, self.model)
            if halves:
                return halves, candidates, []
            sized, remarks = of_another_size(problem, self.recipe)
            return [*sized, *ways], candidates, remarks
        return ways, candidates, []

    def _explain(self, problem: Problem, *, keys_free: bool = True, rules_free: bool = True) -> Findings:
        """Searches, reusing the results of earlier searches; names of a published layout need no search."""
        known = as_published(problem, keys_free=keys_free) if rules_free else None
        if known is not None:
            return Findings((known,))
        searched = self._searched.setdefault(problem.part, Searched())
        return explain(problem, keys_free=keys_free, rules_free=rules_free, searched=searched)

    def _uncovered(self) -> dict[str, bool]:
        """Returns the model keys outside all parts that nothing excuses yet, and whether each is a buffer."""
        prefixes = tuple(f"{part.name}." if part.name else "" for part in self.parts)
        return {
            key: want.kind == "buffer"
            for key, want in self.wanted.items()
            if not key.startswith(prefixes) and not matches(key, self.allow.missing)
        }

    def problem(self, part: Part) -> Problem:
        """Describes a part to the search."""
        others = mounted(part, self.parts)
        keys = ((part.full(key), want) for key, want in below(part.name, self.wanted))
        return Problem(
            part=part.name,
            root=part.checkpoint.root,
            wanted={key: want for key, want in keys if not key.startswith(others)},
            hooks=partial(rehearse, self.model),
            key=part.config.checkpoint.key,
            rules=part.config.rules,
            allow=self.allow,
            listed=part.listed,
            context=context_of(part),
            head=_head(self.model),
        )


def _head(model: nn.Module) -> int | None:
    """Returns the size of an attention head, if the modules that say it agree on an even one."""
    sizes = {size for module in model.modules() if isinstance(size := vars(module).get("head_dim"), int)}
    return sizes.pop() if len(sizes) == 1 and min(sizes) > 0 and not min(sizes) % 2 else None


def _holds_tensors(part: Part) -> bool:
    """Whether a part's nested key leads to a state dict."""
    found = find(part.checkpoint.root, part.config.checkpoint.key)
    return isinstance(found, Container) and bool(found.tensors())


def _natures(part: Part, wanted: Mapping[str, Wanted]) -> Iterator[Nature]:
    """Describes what a part's file holds instead of plain weights: under its nested key, else anywhere."""
    key, root = part.config.checkpoint.key, part.checkpoint.root
    places: Iterable[tuple[str, Node | None]] = [(key or "", find(root, key))] if _holds_tensors(part) else root.walk()
    rules, context = part.config.rules or {}, context_of(part)
    held = ((place, container) for place, container in places if isinstance(container, Container))
    left = ((place, still_quantized(container, rules, context)) for place, container in held)
    found_natures = (
        nature(place or None, container) or scaled_elsewhere(place, container, root, part.full, wanted)
        for place, container in left
    )
    yield from itertools.islice(filter(None, (moments_alone(root), *found_natures)), _MOST_NATURES)


def _diagnosed(problem: Problem, advised: Advised) -> list[str]:
    """Returns the diagnosis of the file as it is, if it is clear which of its nested keys is meant."""
    key = problem.key
    if key == AUTO:
        filling = [candidate.key for candidate in advised.candidates]
        possible = filling[:1] or [name or None for name, held in problem.root.walk() if held.tensors()]
        if advised.proposals or len(possible) != 1:
            return []
        key = possible[0]
    found = find(problem.root, key)
    if not isinstance(found, Container):
        return []
    try:
        plan = judge(problem, found, problem.rules or {}, problem.allow).plan
    except FitError:
        return []
    made = rewritten(problem, found, problem.rules or {}).made
    shapes = {problem.full(name): o.entry.shape for name, o in made.items() if isinstance(o.entry, TensorEntry)}
    return diagnosis(plan, problem.wanted, shapes)
