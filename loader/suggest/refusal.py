"""The words of a refusal: what does not fit, what would make it fit, and the lines to type.

Guarantees: pure text; every line to type was confirmed by a real plan, whose numbers stand beside it. Explanations that
are equally good are numbered alike in the message and in the lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import FitError
from ..keys.plan import Plan, Wanted
from ..text.lines import typed
from ..text.wording import counted, safe_text
from .diagnosis import diagnosis
from .explain import Candidate
from .proposal import Proposal
from .target import Shape

_NOTHING = "no nested key and no rule was found that makes them fit"
NO_WAY = f"{_NOTHING}: another file (checkpoint.path=…), or another architecture (model=…)?"
"""The hint where there is nothing to type."""

_BY_HAND = "; allow.missing, allow.unexpected and allow.mismatched excuse the keys that you name"
_MOST_CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class Advised:
    """What was found out for a refusal to say."""

    proposals: Sequence[Proposal] = ()
    """What would make the files fit."""
    candidates: Sequence[Candidate] = ()
    """Nested keys, and what they fill at best."""
    remarks: Sequence[str] = ()
    """What else there is to say of the files and the search."""
    instead: str = ""
    """What to give where nothing makes them fit and it is known why."""
    first: str = ""
    """The line that comes before all proposals."""

    def lines(self) -> list[str]:
        """What the proposals rest on, and what else there is to say."""
        return [*explained(self.proposals, self.candidates), *self.remarks]

    def refusal(self, lines: Sequence[str], otherwise: str) -> FitError:
        """A refusal with the lines to type; `otherwise` where there are none and no reason is known."""
        told = hint(self.proposals, f"{_NOTHING}: {self.instead}" if self.instead else otherwise)
        if self.first:
            told = "\n".join([self.first, *([told] if self.proposals else [])])
        error = FitError("\n".join(lines), told)
        error.proposed = bool(self.proposals)
        return error


def misfit(
    plan: Plan, wanted: Mapping[str, Wanted], file: Mapping[str, Shape], source: str, found: Advised = Advised()
) -> FitError:
    """The refusal of a plan that may not be carried out; it carries the plan.

    Args:
        plan: What would be done.
        wanted: The model's keys.
        file: The files' tensors by full model key, after the rules.
        source: The files, for the message.
        found: What would make them fit.
    """
    head = f"{source} does not fit the model: {_share(plan.filled(wanted), len(wanted))} would be loaded."
    lines = [head, *diagnosis(plan, wanted, file), *found.lines()]
    error = found.refusal(lines, NO_WAY + (_BY_HAND if plan.loaded else ""))
    error.plan = plan
    return error


def undecided(settings: Sequence[str], source: str, found: Advised, diagnosed: Sequence[str] = ()) -> FitError:
    """The refusal to choose where a config says auto.

    Args:
        settings: What is set to auto: ``rules=auto``.
        source: The file, for the message.
        found: What would make it fit, each of which auto may not take by itself.
        diagnosed: What does not fit as the file stands.
    """
    what = " ".join(settings)
    if len(found.proposals) > 1:
        told = (
            f"{what}: {source} fits the model in {len(found.proposals)} ways that are equally good, so none is taken."
        )
    elif found.proposals:
        told = f"{what}: what makes {source} fit is more than {what} may decide."
    else:
        told = f"{what}: nothing was found that makes {source} fit the model."
    return found.refusal([told, *diagnosed, *found.lines()], NO_WAY)


def with_proposals(error: FitError, found: Advised, *, otherwise: str = "") -> FitError:
    """A refusal of a nested key or a rule, with the lines that make the file fit; `otherwise` where there are none."""
    return found.refusal([error.message, *found.lines()], otherwise)


def explained(proposals: Sequence[Proposal], candidates: Sequence[Candidate] = ()) -> list[str]:
    """What the proposals rest on, and how far each of them goes."""
    lines = []
    if len(candidates) > 1:
        told = [f"{_place(c.key)} {c.loaded:,}" for c in candidates[:_MOST_CANDIDATES]]
        lines.append(f"keys of the model that each nested key could fill: {', '.join(told)}")
    if len(proposals) > 1:
        alike = len({(proposal.loaded, proposal.wanted) for proposal in proposals}) == 1
        lines.append(f"{len(proposals)} explanations{' are equally good' if alike else ''}:")
    for number, proposal in enumerate(proposals, 1):
        label = f"  {number}. " if len(proposals) > 1 else ""
        lines.append(
            f"{label}{_share(proposal.loaded, proposal.wanted)} would be loaded so: {'; '.join(proposal.reasons)}"
        )
    return lines


def hint(proposals: Sequence[Proposal], otherwise: str) -> str:
    """The lines to type, one for each proposal."""
    return "\n".join(filter(None, (typed(*proposal.overrides) for proposal in proposals))) or otherwise


def _share(loaded: int, wanted: int) -> str:
    return f"{loaded:,} of {counted(wanted, 'key')}"


def _place(key: str | None) -> str:
    return "(top level)" if key is None else safe_text(key)
