"""The whole story of a load.

    config ─► open ─► build ─► plan ─► apply ─► place ─► verify (─► evaluate ─► convert) ─► report

One runner for every way in: `run.py`, `load` and `load_model` build the model (`apply.target.Fresh`); `load_into`, and
`load_model` with a module, fill the caller's own (`apply.target.Live`).

Guarantees: nothing of a model is changed before the plan passes; a refused job leaves the report with all that was
known by then; the global random state is left as it was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import nn

from .apply.commit import commit
from .apply.misfit import refuse_misfit
from .apply.place import own_random_state
from .apply.prepare import Adviser, Prepared, prepare
from .apply.stage import Staged, stage
from .apply.target import Target
from .builder import Built
from .errors import FitError, LoaderError
from .keys.plan import Wanted
from .module.policy import resolve_dtype
from .module.slots import slots, without_data
from .parts import Part
from .parts.adapted import with_rest
from .parts.open import rest_is_open
from .report import fill
from .report.data import Report
from .runtime import collector_paused
from .schema import EMBEDDED, JobConfig
from .verify import check_inputs, check_structure, keep_record, record_of, verify
from .verify.checks import Subject

if TYPE_CHECKING:
    from .evaluate.plan import Made, Plan

Unasked = Callable[[JobConfig, Sequence[Part], FitError], LoaderError]
"""Rewrites the refusal of files that do not fit a model which nobody named."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a job is carried out."""

    prove: bool = True
    """False leaves verification at the structural checks."""
    ending: Ending | None = None
    """The step after the verification, if there is one."""
    unasked: Unasked | None = None
    """Rewrites misfits if the user did not name the model, which is then the default's."""
    folder: Path | None = None
    """The run's folder, which keeps the inputs and outputs of the forward pass; None for a run without one."""


def run(job: JobConfig, report: Report, target: Target, manner: Manner) -> nn.Module:
    """Carries out one job.

    Args:
        job: What to do.
        report: Filled on the way.
        target: The model to build, or the module to fill.
        manner: How.

    Returns:
        The model, on its device; in ``mode=plan`` the architecture without its weights.

    Raises:
        LoaderError: The job is refused.
    """
    clock, ending, prove = fill.Clock(report), manner.ending, manner.prove
    with own_random_state(target.final), ExitStack() as stack, clock("total"):
        evaluation = _Evaluation.of(job, report, clock)
        with clock("open"):
            parts = target.open(job, stack)
            fill.parts(report, parts)
            job = _with_model(job, parts, report)
            record = _record(job, parts, ending, prove=prove)
        with clock("build"):
            built = target.build(job, parts)
        if job.parts and not built.complete:
            with clock("open"):
                parts = with_rest(parts, job, slots(built.module), stack)
                fill.parts(report, parts)
                record = _record(job, parts, ending, prove=prove)
        load = Load(target, job, parts, built)
        try:
            with clock("plan"):
                with _asked(manner.unasked, job, parts):
                    load = load.planned()
                    load.refuse_misfit()
                if ending is not None:
                    ending.planned(load)
                if prove:
                    check_inputs(load.module, job, load.parts, record)
            if job.mode == "plan":
                return load.module
            evaluation.prepare()
            with clock("apply"):
                load = load.staged()
                load = load.committed()
            with clock("place"):
                target.place(load.module, job)
            with clock("verify"):
                made = load.verified(record, report, manner)
            evaluation.carry_out(load, report)
            _end(load, ending, record, report, made)
        finally:
            load.describe(report)
    return load.module


def _end(load: Load, ending: Ending | None, record: Path | None, report: Report, made: bytes | None) -> None:
    """Writes what the job is to write: nothing before this is on disk."""
    if ending is not None:
        with fill.Clock(report)("convert"):
            ending.carry_out(load, record, report, made)
    elif record is not None and made is not None:
        keep_record(record, made, report.verification)


class Ending(Protocol):
    """The step after the verification: the conversion of ``mode=convert``."""

    def check(self, job: JobConfig, parts: Sequence[Part], recorded: Path | None) -> object:
        """Raises early what `carry_out` would raise; takes the golden record of the checkpoint."""

    def planned(self, load: Load) -> None:
        """Raises what the plan decides of it, before the weights are read."""

    def carry_out(self, load: Load, recorded: Path | None, report: Report, renewed: bytes | None) -> None:
        """Runs the step; takes the content of a new golden record, which is not written yet."""


@dataclass(slots=True)
class _Evaluation:
    """The measurement of the verified model; does nothing for a job that measures nothing."""

    clock: fill.Clock
    plan: Plan | None
    made: Made | None = None

    @classmethod
    def of(cls, job: JobConfig, report: Report, clock: fill.Clock) -> _Evaluation:
        """Checks the settings of a job's evaluation, and judges the names of its code."""
        if job.evaluate is None:
            return cls(clock, None)
        from .evaluate.plan import planned  # noqa: PLC0415  # few jobs measure

        plan = planned(job)
        if plan is not None and plan.given:
            report.config = {**report.config, "evaluate": plan.described()}
        return cls(clock, plan)

    def prepare(self) -> None:
        """Builds the data and the metrics, so that a mistake in them is found before the weights are read."""
        if self.plan is not None:
            with self.clock("evaluate"):
                self.made = self.plan.made()

    def carry_out(self, load: Load, report: Report) -> None:
        """Measures the model; checks that no file changed meanwhile."""
        if self.made is None:
            return
        from .evaluate.run import evaluate  # noqa: PLC0415  # few jobs measure

        with self.clock("evaluate"):
            evaluate(self.made, load.module, load.target.final, report)
            load.check_unchanged()


@dataclass(frozen=True, slots=True)
class Load:
    """State of one job; each step returns the next one."""

    target: Target
    job: JobConfig
    parts: tuple[Part, ...]
    built: Built
    prepared: Prepared | None = None
    """None for a model that came out of the file complete."""
    values: Staged | None = None

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self.built.module

    def planned(self) -> Load:
        """Plans the load; builds the model with its initial values if the plan needs them."""
        if self.built.complete:
            return self
        prepared = self._prepare(self.built)
        if self.built.hollow and self.job.mode != "plan" and (reason := prepared.needs_values()):
            return self._plainly(reason)
        return self._with(self.built, prepared)

    def refuse_misfit(self) -> None:
        """Refuses files that do not fit the model."""
        if self.prepared is not None:
            refuse_misfit(self.prepared, self._advise)

    def staged(self) -> Load:
        """Reads the values; nothing of the model is touched."""
        if self.prepared is None or self.target.device.type == "meta":
            return self
        return replace(self, values=stage(self.prepared, live=self.target.transaction is not None))

    def committed(self) -> Load:
        """Puts the values in place."""
        if self.prepared is None or self.values is None:
            return self
        self.values.refuse_losses(self.job.allow)
        commit(self.prepared, self.values, self.target.transaction)
        if self.built.hollow and without_data(self.module):
            again = self._plainly("the model has its own values for keys that the file lacks")
            return again.staged().committed()
        return self

    def verified(self, record: Path | None, report: Report, manner: Manner) -> bytes | None:
        """Checks the loaded model and that no file has changed; returns the golden record to keep, if any."""
        device = self.target.final
        check_structure(self.module, device, report.verification)
        made = None
        if manner.prove:
            subject = Subject(self.module, self.job, self.parts, device, self.prepared, record)
            with self.target.proving(self.module):
                made = verify(subject, report, manner.folder)
        self.check_unchanged()
        return made

    def check_unchanged(self) -> None:
        """Raises CheckpointError if a file has changed since it was opened."""
        for part in self.parts:
            part.checkpoint.check_unchanged()

    @collector_paused()
    def describe(self, report: Report) -> None:
        """Fills the report with everything known so far."""
        fill.model(report, self.job, self.built, self.target.final)
        if self.prepared is not None or self.built.complete:
            fill.keys(report, self.module, self.parts, self.prepared, self.values)

    def _plainly(self, reason: str) -> Load:
        built = self.target.build_plainly(self.job, reason)
        return self._with(built, self._prepare(built))

    def _with(self, built: Built, prepared: Prepared) -> Load:
        return replace(self, built=built, prepared=prepared, parts=tuple(prepared.parts.values()), values=None)

    def _prepare(self, built: Built) -> Prepared:
        policy = resolve_dtype(self.job.dtype)
        return prepare(built.module, self.parts, self.job.allow, self.target.device, policy, self._advise)

    def _advise(self, model: nn.Module, parts: Sequence[Part], wanted: Mapping[str, Wanted]) -> Adviser:
        from .suggest.advice import Advice  # noqa: PLC0415  # a load that fits does not need the search

        recipe = self.target.recipe(self.job, self.built)
        return Advice(model, parts, wanted, self.job.allow, recipe, open_rest=rest_is_open(self.job, parts))


@contextmanager
def _asked(unasked: Unasked | None, job: JobConfig, parts: Sequence[Part]) -> Iterator[None]:
    """Rewrites refusals if the user did not name the model."""
    try:
        yield
    except FitError as error:
        if unasked is None:
            raise
        raise unasked(job, parts, error) from error


def _with_model(job: JobConfig, parts: Sequence[Part], report: Report) -> JobConfig:
    """The job with the model config that its checkpoint holds, for ``model=embedded``."""
    if job.model is not None and job.model.get("_target_") == EMBEDDED:
        from .builder.embedded import with_own_model  # noqa: PLC0415  # only such a model needs it

        job = with_own_model(job, parts)
    if job.model is not None:
        report.config = {**report.config, "model": job.model}
    return job


def _record(job: JobConfig, parts: Sequence[Part], ending: Ending | None, *, prove: bool) -> Path | None:
    """The golden record of a job; refuses to write over files that the job reads."""
    record = record_of(job, parts) if prove else None
    if ending is not None:
        ending.check(job, parts, record)
    return record
