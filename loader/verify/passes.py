"""The checks of a forward pass: that it is done, and that its outputs are right.

Guarantees: an output is compared only where something is known of it: its shape, that its numbers are finite, or a
golden record. An input that nobody gave fails no load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from ..module.dtype import floating_dtype
from ..report.data import Check
from ..text.lines import Fix, line
from ..text.wording import listing, shape
from . import golden
from .checks import ANY_NUMBER, Subject, register
from .forward import Pass, run_on_record
from .inputs import uniform_instead


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
    """Reports a pass; one that no proposed input went through fails where something was expected of it."""
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
        return [Fix(typed.line, "pictures are numbers from 0 to 1"), ANY_NUMBER]
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
    # An input that nobody gave may be one that the model is not made for: it fails no load.
    on_proposed = ", on an input that was proposed" if bad and item.proposed else ""
    detail = f"inf or nan in output {listing(bad)}{on_proposed}" if bad else "all of them"
    yield Check(_named("finite outputs", item), None if on_proposed else not bad, detail)


@register(
    "golden record",
    moment="run",
    applies=_if_done(lambda subject: subject.has_values and bool(subject.records)),
    fixes=[
        Fix(note="the model computes something else than when it was recorded: compare its code and arguments"),
        Fix("verify.record=true", "replaces the record"),
        Fix("verify.rtol=… verify.atol=…", "widens the tolerance"),
        Fix("verify.golden=null", "leaves it out"),
    ],
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
