"""The registry of verification checks, and the checks of a model's weights.

A check is a function that takes a `Subject` and yields the report's `Check`s, registered with `register`: one new file
with one decorated function is a new check, from inside or outside this package. `verify` runs all checks that apply,
in the order of their moments, and one refusal names every check that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from ..apply.prepare import Prepared
from ..module.slots import nonfinite
from ..parts import Part
from ..report.data import Check
from ..schema import JobConfig
from ..text.lines import Fix
from ..text.wording import listing
from .forward import Pass
from .golden import Record

Moment = Literal["loaded", "run", "end"]
"""When a check runs: once on the loaded model, after each forward pass, or at the end, when the model has been run."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a check may look at."""

    module: nn.Module
    """The loaded model, in eval mode."""
    job: JobConfig
    parts: Sequence[Part]
    device: torch.device
    """Where the model is; on meta there are no values."""
    prepared: Prepared | None = None
    """The plan that was carried out; None for a model that came out of the file complete."""
    record: Path | None = None
    """The golden record that the job compares with, or is going to write."""
    records: Mapping[str, Record] = field(default_factory=dict)
    """The content of the record that the job compares with, by part."""
    run: Pass | None = None
    """The forward pass; None but at the moment ``run``."""

    @property
    def has_values(self) -> bool:
        """Whether there are values to look at."""
        return self.device.type != "meta"


Function = Callable[[Subject], Iterable[Check]]
Fixes = Sequence[Fix] | Callable[[Subject, Sequence[str]], Sequence[Fix]]
"""What a refusal offers where the check failed: fixed, or found from the subject and the names of all failed checks."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A check as it was registered."""

    name: str
    check: Function
    moment: Moment
    applies: Callable[[Subject], bool]
    fixes: Fixes


_registered: dict[str, Registered] = {}


def register(
    name: str,
    *,
    moment: Moment = "loaded",
    applies: Callable[[Subject], bool] = lambda _: True,
    fixes: Fixes = (),
) -> Callable[[Function], Function]:
    """Registers the decorated function as a verification check.

    Args:
        name: The name of its `Check`s in the report; a part's is added.
        moment: When it runs.
        applies: Whether it runs for a subject.
        fixes: What a refusal offers where it failed; the check that was registered last comes first.

    Raises:
        ValueError: There is a check of this name.
    """

    def add(check: Function) -> Function:
        if name in _registered:
            raise ValueError(f"a verification check called '{name}' is registered already")
        _registered[name] = Registered(name, check, moment, applies, fixes)
        return check

    return add


def unregister(name: str) -> None:
    """Removes a check; raises KeyError where there is none of this name."""
    del _registered[name]


def checks_at(moment: Moment, subject: Subject) -> Iterator[tuple[Registered, Check]]:
    """Runs the checks of a moment that apply to a subject, in the order in which they were registered."""
    for registered in list(_registered.values()):
        if registered.moment == moment and registered.applies(subject):
            for check in registered.check(subject):
                yield registered, check


def fixes_of(failed: Sequence[tuple[Registered, Check]], subject: Subject) -> Sequence[Fix]:
    """What to offer for failed checks: the fixes of the one that was registered last and has any."""
    order, names = list(_registered), [check.name for _, check in failed]
    for registered in sorted((registered for registered, _ in failed), key=lambda r: order.index(r.name), reverse=True):
        fixes = registered.fixes
        if found := fixes(subject, names) if callable(fixes) else fixes:
            return found
    return ()


ANY_NUMBER = Fix("verify.expect.finite=false", "accepts inf and nan")


@register("eval mode")
def _eval_mode(subject: Subject) -> Iterator[Check]:
    training = [name for name, module in subject.module.named_modules() if module.training]
    detail = f"in training mode: {listing(name or 'the model itself' for name in training)}"
    yield Check("eval mode", not training, detail if training else "every module")


@register(
    "finite weights",
    applies=lambda subject: subject.has_values and subject.job.verify.expect.finite,
    fixes=[ANY_NUMBER],
)
def _finite_weights(subject: Subject) -> Iterator[Check]:
    bad = nonfinite(subject.module)
    yield Check("finite weights", not bad, f"inf or nan in {listing(bad)}" if bad else "all of them")
