"""The whole story of a load.

    config ─► open ─► build ─► plan ─► apply ─► place ─► verify (─► convert) ─► report

Guarantees: nothing of a model is changed before the plan passes; a refused job leaves the report with all that was
known by then; the global random state is left as it was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from .apply.place import own_random_state, resolve_device, settle
from .apply.prepare import Prepared, prepare
from .builder import Built, Recipe, build_model
from .builder.policy import Policy, policy_of
from .errors import ConfigError, FitError
from .module.dtype import resolve_dtype
from .module.slots import slots, without_data
from .parts.open import Part, open_parts, with_root
from .report import fill
from .report.data import Report
from .runtime import collector_paused
from .schema import EMBEDDED, JobConfig
from .verify.verify import check_inputs, check_structure, keep_record, record_of, verify

if TYPE_CHECKING:
    from .modes.convert.convert import Conversion


def run(job: JobConfig, report: Report, *, prove: bool = True, asked: bool = True) -> nn.Module:
    """Carries out one job.

    Args:
        job: What to do.
        report: Filled on the way.
        prove: False leaves verification at the structural checks.
        asked: Whether the user said what the model is; otherwise it is the default's.

    Returns:
        The model in eval mode, on its device; in ``mode=plan`` the architecture without its weights.

    Raises:
        LoaderError: The job is refused.
    """
    clock = fill.Clock(report)
    device, policy = resolve_device(job.device), resolve_dtype(job.dtype)
    conversion = _conversion(job) if job.mode == "convert" else None
    with own_random_state(device), ExitStack() as stack, clock("total"):
        with clock("open"):
            parts: Sequence[Part] = open_parts(job, stack)
            fill.parts(report, parts)
            job = _with_model(job, parts)
            report.config = {**report.config, "model": job.model}
            policy = resolve_dtype(job.dtype)
            record = _record(job, parts, conversion, prove=prove)

        with clock("build"):
            built = _built(job, parts) if job.model is not None else _pickled(job, parts)
        if job.parts and not built.complete:
            with clock("open"):
                parts = with_root(parts, job, slots(built.module), stack)
                fill.parts(report, parts)
                record = _record(job, parts, conversion, prove=prove)
        work = _Work(job, parts, device, policy, built)
        stack.callback(work.describe, report)
        with clock("plan"):
            work.plan(asked=asked)
            if prove:
                check_inputs(work.built.module, job, parts, record)
        if job.mode == "plan":
            return work.built.module

        with clock("apply"):
            work.apply()
        with clock("place"):
            work.built.module.eval()
            settle(work.built.module, device, policy, job.allow)
        with clock("verify"):
            made = work.verified(record, report, prove=prove)
        if conversion is not None:
            with clock("convert"):
                conversion.carry_out(work.built.module, job, parts, record, report, made)
        elif record is not None and made is not None:
            keep_record(record, made, report.verification)
    return work.built.module


@dataclass(slots=True)
class _Work:
    """A job's model on its way from an architecture to its weights, and what is known of it."""

    job: JobConfig
    parts: Sequence[Part]
    device: torch.device
    policy: str | None
    built: Built
    prepared: Prepared | None = None
    """None for a model that came out of the file complete."""

    def plan(self, *, asked: bool) -> None:
        """Plans the load, and refuses it where the files do not fit the model, or where there is none to fit."""
        if self.built.complete:
            return
        try:
            self._plan()
        except FitError as error:
            if asked:
                raise
            from .suggest.unnamed import unnamed  # noqa: PLC0415  # such a refusal alone

            raise unnamed(self.job, self.parts, error) from error

    def _plan(self) -> None:
        prepared = self._prepare()
        if self.built.hollow and prepared.plan.leaves_to_initialise() and self.job.mode != "plan":
            prepared = self._start_over("keys that may stay unloaded keep the model's own initialisation")
        prepared.refuse_misfit()

    def apply(self) -> None:
        """Carries the plan out."""
        if self.prepared is None or self.device.type == "meta":
            return
        self.prepared.carry_out()
        if self.built.hollow and without_data(self.built.module):
            self._start_over("the model brings values of its own for keys that the file lacks").carry_out()

    def verified(self, record: Path | None, report: Report, *, prove: bool) -> bytes | None:
        """Checks the loaded model and that no file has changed; returns the golden record to keep, if any."""
        module, verification = self.built.module, report.verification
        check_structure(module, self.device, verification)
        made = None
        if prove:
            made = verify(module, self.job, self.parts, record, self.device, verification, self.prepared)
        for part in self.parts:
            part.checkpoint.check_unchanged()
        return made

    @collector_paused()
    def describe(self, report: Report) -> None:
        """Reports what is known by now."""
        fill.model(report, self.job, self.built, self.device)
        if self.prepared is not None or self.built.complete:
            fill.keys(report, self.built.module, self.parts, self.prepared)

    def _prepare(self) -> Prepared:
        recipe = Recipe(
            self.job.model or {},
            lambda model: _build(replace(self.job, model=model), patient=not self.built.hollow).module,
            _policy(self.job),
        )
        self.prepared = prepare(self.built.module, self.parts, self.job.allow, self.device, self.policy, recipe)
        return self.prepared

    def _start_over(self, reason: str) -> Prepared:
        """The same with a model that has the values which its constructor gives it."""
        self.built = _build(self.job, plainly=reason)
        return self._prepare()


def _with_model(job: JobConfig, parts: Sequence[Part]) -> JobConfig:
    """The job with its model's own config, where that stands in the checkpoint."""
    if job.model is None or job.model.get("_target_") != EMBEDDED:
        return job
    from .builder.embedded import with_own_model  # noqa: PLC0415  # such a model alone

    return with_own_model(job, parts)


def _record(job: JobConfig, parts: Sequence[Part], conversion: Conversion | None, *, prove: bool) -> Path | None:
    """The golden record of a job, once nothing that the job writes stands in the place of what it reads."""
    record = record_of(job, parts) if prove else None
    if conversion is not None:
        conversion.check(job, parts, record)
    return record


def _conversion(job: JobConfig) -> Conversion:
    from .modes.convert.convert import Conversion  # noqa: PLC0415  # this mode alone

    return Conversion(job)


def _built(job: JobConfig, parts: Sequence[Part]) -> Built:
    try:
        return _build(job)
    except ConfigError as error:
        from .builder.pickled import with_classes  # noqa: PLC0415  # such a refusal alone

        raise with_classes(error, [part.checkpoint.root for part in parts]) from error


def _pickled(job: JobConfig, parts: Sequence[Part]) -> Built:
    from .builder.pickled import take_pickled  # noqa: PLC0415  # such a model alone

    return take_pickled(job, parts)


def _policy(job: JobConfig) -> Policy:
    return policy_of(job.trusted_targets, of_a_file=job.of_a_file)


def _build(job: JobConfig, plainly: str = "", *, patient: bool = True) -> Built:
    built = build_model(job.model or {}, trusted=_policy(job), seed=job.seed, hollow=not plainly, patient=patient)
    built.reason = plainly or built.reason
    return built
