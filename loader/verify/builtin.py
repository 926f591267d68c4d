"""The checks of weights and of forward passes, which every verification runs where they apply.

Guarantees: each of them can fail, and a proposed input never fails a load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from ..module.dtype import floating_dtype
from ..module.slots import nonfinite
from ..report.data import Check
from ..text.lines import NO_FIX, Fix, line
from ..text.wording import listing, shape
from . import golden
from .checks import Subject, register
from .forward import Pass, run_on_record
from .inputs import uniform_instead

_PACKAGE = Path(__file__).parents[1]
"""This package; the golden record of the shipped example is in it."""
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
    gap = max((gap for gap in subject.gaps.values() if gap is not None), default=None)
    shipped = subject.record is not None and subject.record.is_relative_to(_PACKAGE)
    return [
        Fix(note="the model no longer computes what was recorded: compare its code and arguments"),
        NO_FIX if shipped else Fix("verify.record=true", "replaces the record"),
        golden.accepting(gap),
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
    differing, closeness, subject.gaps[item.name] = golden.differences(
        item.golden.outputs, got, computed_in, verify.rtol, verify.atol
    )
    yield Check(name, not differing, f"{listing(differing)}; {closeness}" if differing else f"as recorded: {closeness}")
