"""Verification: proof that a model was loaded, not only that loading raised nothing.

Guarantees: every check can fail, all of them are run and reported, and one refusal names all that failed. The checks
are registered (`loader.verify.checks`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from ..apply.misfit import refuse_without_data
from ..errors import ConfigError, VerificationError
from ..files.path import is_copy, shown_path
from ..formats.find import Sources
from ..formats.tensor import dtype_name
from ..module.slots import without_data
from ..parts import Part
from ..report.data import Check, Report, VerificationReport
from ..schema import JobConfig
from ..text.lines import Fix, typed
from ..text.wording import listing, safe_text
from . import builtin, golden, readback  # noqa: F401  # which register their checks
from .checks import Moment, Registered, Subject, checks_at, fixes_of
from .forward import Pass, check_passes, plan_passes, run
from .kept import keep
from .outputs import statistics
from .rereading import Reread, read_plan, read_whole


def record_of(job: JobConfig, parts: Sequence[Part]) -> Path | None:
    """Returns the golden record that a job compares with, or writes.

    Raises:
        ConfigError: A named record does not exist, or this job can neither compare nor write one; or the one
            to be written would replace what the job reads.
    """
    verify = job.verify
    if not verify.forward and (verify.record or verify.golden not in (None, "auto")):
        what = "verify.record=true" if verify.record else f"verify.golden={verify.golden}"
        raise ConfigError(f"{what} needs the forward pass, and verify.forward is false", Fix("verify.forward=true"))
    paths = {place for part in parts if not part.checkpoint.in_memory for place in part.checkpoint.places}
    only = paths.pop() if len(paths) == 1 else None
    if not verify.record:
        return golden.find(verify.golden, only)
    if only is not None and is_copy(only):
        raise ConfigError(
            f"verify.record=true writes next to the checkpoint, and {shown_path(only)} is not on this machine",
            Fix("checkpoint.path=FILE verify.record=true", "once it is downloaded"),
        )
    if only is None:
        raise ConfigError(
            f"verify.record=true writes next to a job's one checkpoint file, and this job has {len(paths) or 'none'}",
            Fix("verify.record=false"),
        )
    if job.device == "meta":
        raise ConfigError("verify.record=true needs outputs, and device=meta produces none", Fix("device=cpu"))
    record = golden.record_of(only)
    if verify.golden not in (None, "auto") and Path(verify.golden).absolute() != record.absolute():
        raise ConfigError(
            f"verify.golden names {safe_text(verify.golden)}, and verify.record=true writes {shown_path(record)}, "
            "next to the checkpoint",
            typed("verify.golden=auto", note="writes it there"),
        )
    if Sources((part.checkpoint for part in parts), verify.input).among([record]):
        raise ConfigError(
            f"verify.record=true would replace {shown_path(record)}, which is read in this job",
            Fix("verify.record=false"),
        )
    return record


def check_inputs(model: nn.Module, job: JobConfig, parts: Sequence[Part], record: Path | None) -> None:
    """Refuses, before anything is loaded, a forward pass that no weights could make succeed.

    Args:
        model: The architecture; it may have no data.
        job: How to verify.
        parts: The job's parts.
        record: The golden record, as `record_of` returns it.

    Raises:
        ConfigError: An input's spec is invalid, or the file is not a golden record.
        CheckpointError: A file with an input or with the record cannot be read.
        VerificationError: No input is given, and none can be proposed.
    """
    if not job.verify.forward:
        return
    recorded = golden.parts(record) if record is not None and not job.verify.record else set()
    check_passes(model, [part.name for part in parts], job.verify, recorded)


def check_structure(model: nn.Module, device: torch.device, report: VerificationReport) -> None:
    """Checks that every tensor of a model has data.

    Raises:
        VerificationError: A tensor has none; the message names it.
    """
    empty = [] if device.type == "meta" else without_data(model)
    detail = f"without data: {listing(empty)}" if empty else "every parameter, buffer and tensor attribute has its data"
    report.checks.append(Check("complete", not empty, detail))
    refuse_without_data(empty)


def verify(subject: Subject, whole: Report, folder: Path | None = None) -> bytes | None:
    """Runs every check that applies.

    Args:
        subject: The loaded model, and the job.
        whole: The job's report; receives the results, and how long the forward pass took.
        folder: The run's folder, which keeps the inputs and outputs, and what is compared of the weights; None keeps
            none.

    Returns:
        With ``verify.record``, the content of the golden record, for `keep_record` or to be written with other files.

    Raises:
        VerificationError: A check fails.
        ConfigError: The record cannot hold an input or output.
    """
    settings, record, report = subject.job.verify, subject.record, whole.verification
    if settings.forward and record is not None and not settings.record:
        subject = replace(subject, records=golden.read(record))
    failed = [*_run_checks("loaded", subject, report)]
    done = _run_model(subject, report, failed) if settings.forward else []
    if settings.forward:
        whole.timings["forward"] = sum(item.seconds for item in done)
    if folder is not None:
        keep(done, folder, settings.keep, report)
        if subject.has_values and subject.job.sweep.compare.weights:
            from .sketch import keep_weights  # noqa: PLC0415  # few sweeps compare weights

            keep_weights(subject.module, folder, report)
    report.golden_diff = max((gap for gap in subject.gaps.values() if gap is not None), default=None)
    if subject.has_values:
        subject = replace(subject, reread=_reread(subject))
        report.fingerprint = subject.reread.fingerprint if subject.reread else None
    failed += _run_checks("end", subject, report)
    if failed:
        message = "; ".join(f"{check.name}: {check.detail}" for _, check in failed)
        raise VerificationError(message, *fixes_of(failed, subject))
    if not done or not settings.record:
        return None
    return golden.packed({item.name: golden.Record(item.inputs, item.outputs) for item in done})


def keep_record(record: Path, content: bytes, report: VerificationReport) -> None:
    """Writes a golden record.

    Raises:
        ConfigError: It cannot be written.
    """
    golden.write(record, content)
    say_kept(record, report)


def say_kept(record: Path, report: VerificationReport) -> None:
    """Reports that a golden record was written."""
    report.checks.append(Check("golden record", True, f"written to {record}"))


def _reread(subject: Subject) -> Reread:
    if subject.prepared is None:
        return read_whole(subject.module, subject.parts)
    return read_plan(subject.prepared)


def _run_checks(moment: Moment, subject: Subject, report: VerificationReport) -> Iterator[tuple[Registered, Check]]:
    """Reports the checks of a moment; yields those that failed."""
    for registered, check in checks_at(moment, subject):
        report.checks.append(check)
        if check.ok is False:
            yield registered, check


def _run_model(subject: Subject, report: VerificationReport, failed: list[tuple[Registered, Check]]) -> Sequence[Pass]:
    """Runs the model on its inputs, each pass followed by its checks; adds those that failed."""
    job, names = subject.job, [part.name for part in subject.parts]
    planned = plan_passes(subject.module, names, job.verify, subject.records, subject.device, job.seed)
    done = []
    for item in planned:
        done.append(run(item, job.seed, job.model))
        _describe(done[-1], report)
        failed += _run_checks("run", replace(subject, run=done[-1]), report)
    return done


def _describe(item: Pass, report: VerificationReport) -> None:
    if item.undone:
        return
    prefix = f"{item.name}." if item.name else ""
    for name, value in item.inputs.named().items():
        described = {"shape": list(value.shape), "dtype": dtype_name(value.dtype), "origin": item.inputs.origin}
        report.inputs.append({"name": prefix + name, **described})
    report.outputs += [asdict(statistics(prefix + name, output)) for name, output in item.outputs.items()]
