"""The registry of verification checks, and the checks of weights and of forward passes.

A check is a function that takes a `Subject` and yields the report's `Check`s, registered with `register`: one new file
with one decorated function is a new check, from inside or outside this package. `verify` runs all checks that apply,
in the order of their moments, and one refusal names every check that failed. A proposed input never fails a load. A
check from outside whose own code fails, or that yields anything but `Check`s, has failed.
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
from ..module.dtype import floating_dtype
from ..module.slots import nonfinite
from ..parts import Part
from ..report.data import Check
from ..runtime import OWN_NAMES
from ..schema import JobConfig
from ..text.lines import NO_FIX, Fix, line
from ..text.wording import listing, safe_text, shape
from . import golden
from .forward import Pass, run_on_record
from .inputs import uniform_instead

_PACKAGE = Path(__file__).parents[1]
"""This package; the golden record of the shipped example is in it."""

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
    try:
        with blamed(f"the check of {safe_text(registered.module)}", VerificationError):
            yield from _run(registered, subject)
    except LoaderError as error:
        yield Check(registered.name, False, error.message)


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


def _done(subject: Subject) -> Pass:
    """The forward pass of a subject."""
    if subject.run is None:
        raise LookupError("no forward pass")
    return subject.run


def _if_done(also: Callable[[Subject], bool]) -> Callable[[Subject], bool]:
    return lambda subject: not _done(subject).undone and also(subject)


def _named(name: str, item: Pass) -> str:
    return f"{name} of {item.name}" if item.name else name


@register(
    "forward pass",
    moment="run",
    fixes=[line("verify.input", {"shape": [1, 3, 224, 224]}, note="the shape your model takes")],
)
def _forward_pass(subject: Subject) -> Iterator[Check]:
    """Reports a pass; one for which no proposed input worked fails if the config expects something of its output."""
    item, verify = _done(subject), subject.job.verify
    if item.undone:
        asked = "verify.record" if verify.record else "verify.expect.shape" if verify.expect.shape else ""
        needs = f", and {asked} needs it" if asked else ""
        yield Check(_named("forward pass", item), False if asked else None, f"not done{needs}: {item.undone}")
        return
    shapes = ", ".join(shape(output.shape) for output in list(item.outputs.values())[:3])
    yield Check(_named("forward pass", item), True, f"gives {shapes} ({item.inputs.origin})")


@register(
    "output shape",
    moment="run",
    applies=_if_done(lambda subject: subject.job.verify.expect.shape is not None),
    fixes=[Fix("'verify.expect.shape=[…]'", "says what is right")],
)
def _output_shape(subject: Subject) -> Iterator[Check]:
    item, expected = _done(subject), list(subject.job.verify.expect.shape or ())
    found = list(next(iter(item.outputs.values())).shape)
    yield Check(_named("output shape", item), found == expected, f"{shape(found)}, expected {shape(expected)}")


def _finite_fixes(subject: Subject, failed: Sequence[str]) -> Sequence[Fix]:
    asked = subject.job.verify.input
    uniform = uniform_instead(asked)
    if failed == ["finite outputs"] and uniform != asked and (typed := line("verify.input", uniform)):
        return [Fix(typed.line, "values from 0 to 1, as in images"), ANY_NUMBER]
    return [ANY_NUMBER]


@register(
    "finite outputs",
    moment="run",
    applies=_if_done(lambda subject: subject.has_values and subject.job.verify.expect.finite),
    fixes=_finite_fixes,
)
def _finite_outputs(subject: Subject) -> Iterator[Check]:
    item = _done(subject)
    bad = [name for name, output in item.outputs.items() if not bool(torch.isfinite(output).all())]
    # The model may not be made for a proposed input, so that such an input fails no load.
    on_proposed = ", on an input that was proposed" if bad and item.proposed else ""
    detail = f"inf or nan in output {listing(bad)}{on_proposed}" if bad else "all of them"
    yield Check(_named("finite outputs", item), None if on_proposed else not bad, detail)


def _golden_fixes(subject: Subject, _failed: Sequence[str]) -> Sequence[Fix]:
    shipped = subject.record is not None and subject.record.is_relative_to(_PACKAGE)
    return [
        Fix(note="the model no longer computes what was recorded: compare its code and arguments"),
        NO_FIX if shipped else Fix("verify.record=true", "replaces the record"),
        Fix("verify.rtol=… verify.atol=…", "widens the tolerance"),
        Fix("verify.golden=null", "leaves it out"),
    ]


@register(
    "golden record",
    moment="run",
    applies=_if_done(lambda subject: subject.has_values and bool(subject.records)),
    fixes=_golden_fixes,
)
def _golden_record(subject: Subject) -> Iterator[Check]:
    item, verify = _done(subject), subject.job.verify
    name = _named("golden record", item)
    if item.golden is None:
        whose = ", ".join(name or "the whole model" for name in subject.records)
        lacking = f"{subject.record} has nothing for {item.name or 'the whole model'}, only for {whose}"
        yield Check(name, False, lacking)
        return
    got = run_on_record(item, subject.device, subject.job.seed)
    computed_in = floating_dtype(item.module)
    differing, closeness = golden.differences(item.golden.outputs, got, computed_in, verify.rtol, verify.atol)
    yield Check(name, not differing, f"{listing(differing)}; {closeness}" if differing else f"as recorded: {closeness}")
