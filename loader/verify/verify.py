"""Verifies a loaded model.

Guarantees: every check can fail, all of them are run and told, and one refusal names all that failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..apply.prepare import Prepared, refuse_without_data
from ..errors import ConfigError, VerificationError
from ..files.path import is_copy, shown_path
from ..formats.find import Sources
from ..formats.memory import MemoryCheckpoint
from ..formats.tensor import dtype_name
from ..module.dtype import floating_dtype
from ..module.slots import nonfinite, without_data
from ..parts import Part
from ..report.data import Check, VerificationReport
from ..schema import JobConfig
from ..text.lines import Fix, line, typed
from ..text.wording import listing, safe_text, shape
from . import golden
from .forward import Pass, check_passes, plan_passes, run, run_on_record
from .inputs import uniform_instead
from .outputs import fingerprint, statistics
from .readback import read_back


def record_of(job: JobConfig, parts: Sequence[Part]) -> Path | None:
    """The golden record that a job compares with, or writes.

    Raises:
        ConfigError: A record is named and is not there, or none can be compared with or written in this job; or the one
            to be written would replace what the job reads.
    """
    verify = job.verify
    if not verify.forward and (verify.record or verify.golden not in (None, "auto")):
        what = "verify.record=true" if verify.record else f"verify.golden={verify.golden}"
        raise ConfigError(f"{what} needs the forward pass, and verify.forward is false", Fix("verify.forward=true"))
    paths = {part.checkpoint.place for part in parts if not isinstance(part.checkpoint, MemoryCheckpoint)}
    only = paths.pop() if len(paths) == 1 else None
    if not verify.record:
        return golden.find(verify.golden, only)
    if only is not None and is_copy(only):
        raise ConfigError(
            f"verify.record=true writes beside the checkpoint, and {shown_path(only)} is not on this machine",
            Fix("checkpoint.path=FILE verify.record=true", "once it is downloaded"),
        )
    if only is None:
        raise ConfigError(
            f"verify.record=true writes beside a job's one checkpoint file, and this job has {len(paths) or 'none'}",
            Fix("verify.record=false"),
        )
    if job.device == "meta":
        raise ConfigError("verify.record=true needs outputs, and on device=meta there are none", Fix("device=cpu"))
    record = golden.beside(only)
    if verify.golden not in (None, "auto") and Path(verify.golden).absolute() != record.absolute():
        raise ConfigError(
            f"verify.golden names {safe_text(verify.golden)}, and verify.record=true writes {shown_path(record)}, "
            "beside the checkpoint",
            typed("verify.golden=auto", note="writes it there"),
        )
    if Sources((part.checkpoint for part in parts), verify.input).among([record]):
        raise ConfigError(
            f"verify.record=true would replace {shown_path(record)}, which is read in this job",
            Fix("verify.record=false"),
        )
    return record


def check_inputs(model: nn.Module, job: JobConfig, parts: Sequence[Part], record: Path | None) -> None:
    """Refuses what the forward pass would be refused for whatever the weights are.

    Args:
        model: The architecture; it may have no data.
        job: How to verify.
        parts: The job's parts.
        record: The golden record, as `record_of` returns it.

    Raises:
        ConfigError: An input's spec is wrong, or the golden record is none.
        CheckpointError: A file with an input or with the record cannot be read.
        VerificationError: No input is given, and none can be proposed.
    """
    if not job.verify.forward:
        return
    recorded = golden.parts(record) if record is not None and not job.verify.record else set()
    check_passes(model, [part.name for part in parts], job.verify, recorded)


def check_structure(model: nn.Module, device: torch.device, report: VerificationReport) -> None:
    """Checks that nothing of a model is left without data.

    Raises:
        VerificationError: Something is; the message names it.
    """
    empty = [] if device.type == "meta" else without_data(model)
    detail = f"without data: {listing(empty)}" if empty else "every parameter, buffer and tensor attribute has its data"
    report.checks.append(Check("complete", not empty, detail))
    refuse_without_data(empty)


def verify(
    model: nn.Module,
    job: JobConfig,
    parts: Sequence[Part],
    record: Path | None,
    device: torch.device,
    report: VerificationReport,
    prepared: Prepared | None = None,
) -> bytes | None:
    """Runs every check that a job asks for.

    Args:
        model: The loaded model, in eval mode.
        job: How to verify.
        parts: The job's parts.
        record: The golden record to compare with, or with ``verify.record`` the one to write.
        device: Where the model is.
        report: Filled with what was found.
        prepared: What was loaded, to compare the model with; None where the model came out of the file as it is.

    Returns:
        With ``verify.record``, the content of the golden record, for `keep_record` or for who writes more with it.

    Raises:
        VerificationError: A check fails.
        ConfigError: The record cannot hold an input or output.
    """
    checks = report.checks
    training = [name for name, module in model.named_modules() if module.training]
    still = f"in training mode: {listing(name or 'the model itself' for name in training)}"
    checks.append(Check("eval mode", not training, still if training else "every module"))
    if device.type != "meta" and job.verify.expect.finite:
        bad = nonfinite(model)
        checks.append(Check("finite weights", not bad, f"inf or nan in {listing(bad)}" if bad else "all of them"))
    passes: list[Pass] = []
    if job.verify.forward:
        passes = _verify_forward(model, job, [part.name for part in parts], record, device, report)
    if device.type != "meta" and prepared is not None:
        # Last, so that it sees whatever running the model has done to it.
        outcome = read_back(prepared)
        wrong = f"; not what the file holds: {listing(outcome.differing)}" if outcome.differing else ""
        checks.append(Check("read back", not outcome.differing, outcome.detail + wrong))
    failed = [check for check in checks if check.ok is False]
    if failed:
        raise VerificationError(
            "; ".join(f"{check.name}: {check.detail}" for check in failed),
            *_advice([check.name for check in failed], job.verify.input),
        )
    if not passes or not job.verify.record:
        return None
    return golden.packed({item.name: golden.Record(item.inputs, item.outputs) for item in passes})


def keep_record(record: Path, content: bytes, report: VerificationReport) -> None:
    """Writes a golden record.

    Raises:
        ConfigError: The disk or the folder does not take it.
    """
    golden.write(record, content)
    say_kept(record, report)


def say_kept(record: Path, report: VerificationReport) -> None:
    """Reports that a golden record was written."""
    report.checks.append(Check("golden record", True, f"written to {record}"))


def _verify_forward(
    model: nn.Module,
    job: JobConfig,
    parts: list[str],
    record: Path | None,
    device: torch.device,
    report: VerificationReport,
) -> list[Pass]:
    records = golden.read(record) if record is not None and not job.verify.record else {}
    passes = plan_passes(model, parts, job.verify, records, device, job.seed)
    for item in passes:
        run(item, job.seed, job.model)
        if item.undone:
            report.checks.append(_undone(item, job))
            continue
        _describe(item, report)
        _check_outputs(item, job, device, report)
        if records and item.golden is None and device.type != "meta":
            whose = ", ".join(name or "the whole model" for name in records)
            lacking = f"{record} has nothing for {item.name or 'the whole model'}, only for {whose}"
            report.checks.append(Check(_named("golden record", item), False, lacking))
        if item.golden is not None and device.type != "meta":
            got = run_on_record(item, device, job.seed)
            told, closeness = golden.differences(
                item.golden.outputs, got, floating_dtype(item.module), job.verify.rtol, job.verify.atol
            )
            detail = f"{listing(told)}; {closeness}" if told else f"as recorded: {closeness}"
            report.checks.append(Check(_named("golden record", item), not told, detail))
    report.fingerprint = fingerprint(
        {f"{item.name}/{name}": output for item in passes for name, output in item.outputs.items()}
    )
    return passes


def _describe(item: Pass, report: VerificationReport) -> None:
    prefix = f"{item.name}." if item.name else ""
    for name, value in item.inputs.named().items():
        report.inputs.append(
            {
                "name": prefix + name,
                "shape": list(value.shape),
                "dtype": dtype_name(value.dtype),
                "origin": item.inputs.origin,
            }
        )
    report.outputs += [asdict(statistics(prefix + name, output)) for name, output in item.outputs.items()]


def _undone(item: Pass, job: JobConfig) -> Check:
    """What is said of a forward pass that no proposed input went through; fails where something was expected of it."""
    asked = "verify.record" if job.verify.record else "verify.expect.shape" if job.verify.expect.shape else ""
    needs = f", and {asked} needs it" if asked else ""
    detail = f"not done{needs}: {item.undone}"
    return Check(_named("forward pass", item), False if asked else None, detail)


def _check_outputs(item: Pass, job: JobConfig, device: torch.device, report: VerificationReport) -> None:
    shapes = [list(output.shape) for output in item.outputs.values()]
    told = ", ".join(shape(dimensions) for dimensions in shapes[:3])
    report.checks.append(Check(_named("forward pass", item), True, f"gives {told} ({item.inputs.origin})"))
    expected = job.verify.expect.shape
    if expected is not None:
        ok = shapes[0] == list(expected)
        detail = f"{shape(shapes[0])}, expected {shape(expected)}"
        report.checks.append(Check(_named("output shape", item), ok, detail))
    if job.verify.expect.finite and device.type != "meta":
        bad = [name for name, output in item.outputs.items() if not bool(torch.isfinite(output).all())]
        # An input that nobody gave may be one that the model is not made for: it fails no load.
        whose = ", on an input that was proposed" if bad and item.proposed else ""
        passed = None if whose else not bad
        detail = f"inf or nan in output {listing(bad)}{whose}" if bad else "all of them"
        report.checks.append(Check(_named("finite outputs", item), passed, detail))


def _named(name: str, item: Pass) -> str:
    return f"{name} of {item.name}" if item.name else name


def _advice(failed: list[str], asked: Any) -> Sequence[Fix]:
    uniform = uniform_instead(asked)
    if failed == ["finite outputs"] and uniform != asked and (typed := line("verify.input", uniform)):
        return [Fix(typed.line, "pictures are numbers from 0 to 1"), _ANY_NUMBER]
    for start, advice in _ADVICE.items():
        if any(name.startswith(start) for name in failed):
            return advice
    return []


_ANY_NUMBER = Fix("verify.expect.finite=false", "accepts inf and nan")
_ADVICE: Mapping[str, Sequence[Fix]] = {
    "read back": [
        Fix(note="the file was rewritten, or a hook of the model changes the values"),
    ],
    "golden record": [
        Fix(note="the model computes something else than when it was recorded: compare its code and arguments"),
        Fix("verify.record=true", "replaces the record"),
        Fix("verify.rtol=… verify.atol=…", "widens the tolerance"),
        Fix("verify.golden=null", "leaves it out"),
    ],
    "forward pass": [line("verify.input", {"shape": [1, 3, 224, 224]}, note="the shape your model takes")],
    "finite": [_ANY_NUMBER],
    "output shape": [Fix("'verify.expect.shape=[…]'", "says what is right")],
}
