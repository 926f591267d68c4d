"""The registry of verification checks.

A check is a function that takes a `Subject` and yields the report's `Check`s, registered with `register`: one new file
with one decorated function is a new check, from inside or outside this package. `verify` runs all checks that apply,
in the order of their moments, and one refusal names every check that failed. A check from
outside whose own code fails, or that yields anything but `Check`s, has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from ..apply.prepare import Prepared
from ..errors import LoaderError, VerificationError, blamed
from ..parts import Part
from ..report.data import Check
from ..runtime import OWN_NAMES
from ..schema import JobConfig
from ..text.lines import Fix
from ..text.wording import safe_text
from . import golden
from .forward import Pass
from .rereading import Reread

Moment = Literal["loaded", "run", "end"]
"""When a check runs: once on the loaded model, after each forward pass, or at the end, when the model has been run."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The data that a check may use."""

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
    records: Mapping[str, golden.Record] = field(default_factory=dict)
    """The content of the record that the job compares with, by part."""
    run: Pass | None = None
    """The forward pass; None except at the moment ``run``."""
    gaps: dict[str, float | None] = field(default_factory=dict)
    """The largest difference to the golden record that was found, by part."""
    reread: Reread | None = None
    """What the files gave when they were read again; None except at the moment ``end``, and without values."""

    @property
    def has_values(self) -> bool:
        """Whether the model has values."""
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

    @property
    def module(self) -> str:
        """The module that the check comes from."""
        return str(getattr(self.check, "__module__", None))

    @property
    def is_foreign(self) -> bool:
        """Whether the check comes from outside this package."""
        return self.module.partition(".")[0] not in OWN_NAMES


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
        fixes: The fixes that a refusal offers if it failed; the check that was registered last comes first.

    Raises:
        ValueError: A check of this name exists, or a setting is invalid.
    """
    _refuse_invalid(name, moment)
    if not callable(fixes):
        _require_fixes(fixes)

    def add(check: Function) -> Function:
        if name in _registered:
            raise ValueError(f"a verification check called '{name}' is registered already")
        _registered[name] = Registered(name, check, moment, applies, fixes)
        return check

    return add


def unregister(name: str) -> None:
    """Removes a check; raises KeyError if none has this name."""
    del _registered[name]


def checks_at(moment: Moment, subject: Subject) -> Iterator[tuple[Registered, Check]]:
    """Runs the checks of a moment that apply to a subject, in the order in which they were registered."""
    for registered in list(_registered.values()):
        if registered.moment == moment:
            for check in _guarded(registered, subject) if registered.is_foreign else _run(registered, subject):
                yield registered, check


def _run(registered: Registered, subject: Subject) -> Iterator[Check]:
    if not registered.applies(subject):
        return
    checks = [_valid(check) for check in registered.check(subject)]
    if not checks:
        raise TypeError("it yielded no Check")
    yield from checks


def _guarded(registered: Registered, subject: Subject) -> Iterator[Check]:
    """Runs a check from outside; one whose code fails has failed itself."""
    owner = f"the check of {safe_text(registered.module)}"
    try:
        with blamed(owner, VerificationError):
            yield from _run(registered, subject)
    except LoaderError as error:
        detail = error.message if error.message.startswith(owner) else f"{owner}: {error.message}"
        yield Check(registered.name, False, detail)


def _valid(check: object) -> Check:
    if not isinstance(check, Check):
        raise TypeError(f"it yielded {type(check).__name__}, expected Check")
    # A comparison of arrays or tensors gives values that are equal to False, but are not False.
    return Check(str(check.name), None if check.ok is None else bool(check.ok), str(check.detail))


def _refuse_invalid(name: object, moment: object) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"invalid name of a verification check: {name!r}, expected text, as in @register('mine')")
    if moment not in get_args(Moment):
        known = ", ".join(get_args(Moment))
        raise ValueError(f"the verification check '{name}' has the moment {moment!r}, expected one of {known}")


def _require_fixes(fixes: object) -> Sequence[Fix]:
    if not isinstance(fixes, Sequence) or not all(isinstance(fix, Fix) for fix in fixes):
        raise ValueError(f"the fixes of a verification check are {safe_text(repr(fixes))}, expected a list of Fix")
    return fixes


def fixes_of(failed: Sequence[tuple[Registered, Check]], subject: Subject) -> Sequence[Fix]:
    """Returns the fixes for failed checks: those of the check that was registered last and has any."""
    order, names = list(_registered), [check.name for _, check in failed]
    for registered in sorted((registered for registered, _ in failed), key=lambda r: order.index(r.name), reverse=True):
        fixes = registered.fixes
        try:
            with blamed(f"looking for fixes, the check of {safe_text(registered.module)}", VerificationError):
                found = _require_fixes(fixes(subject, names)) if callable(fixes) else fixes
        except VerificationError as error:
            found = [Fix(note=error.message)]
        if found:
            return found
    return ()
