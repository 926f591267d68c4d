"""The whole story of a load.

    config ─► open ─► build ─► plan ─► apply ─► place ─► verify (─► convert) ─► report

Guarantees: nothing of a model is changed before the plan passes; a refused job leaves the report with all that was
known by then; the global random state is left as it was found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import nn

from loader.build import Built, build_model
from loader.config.schema import EMBEDDED, JobConfig
from loader.embedded import take_embedded
from loader.parts import Part, open_parts
from loader.place import own_random_state, resolve_device, resolve_dtype, settle
from loader.prepare import Prepared, Recipe, prepare
from loader.report import fill
from loader.report.data import Report
from loader.verify.structure import without_data
from loader.verify.verify import check_structure, record_of, verify

if TYPE_CHECKING:
    from loader.conversion.convert import Conversion


def run(job: JobConfig, report: Report, *, prove: bool = True) -> nn.Module:
    """Carries out one job.

    Args:
        job: What to do.
        report: Filled on the way.
        prove: False leaves verification at the structural checks.

    Returns:
        The model in eval mode, on its device; in ``mode=plan`` the architecture without its weights.

    Raises:
        LoaderError: The job is refused.
    """
    clock = fill.Clock(report)
    device, policy = resolve_device(job.device), resolve_dtype(job.dtype)
    conversion = _conversion(job) if job.mode == "convert" else None
    with own_random_state(device), ExitStack() as files, clock("total"):
        with clock("open"):
            parts = open_parts(job, files)
            fill.parts(report, parts)
            job = _with_model(job, parts)
            report.config = {**report.config, "model": job.model}
            policy = resolve_dtype(job.dtype)
            record = record_of(job, parts) if prove else None
            if conversion is not None:
                conversion.check(job, parts)

        built, prepared = _load(job, parts, device, policy, report, clock)
        if job.mode == "plan":
            return built.module

        with clock("verify"):
            check_structure(built.module, device, report.verification)
            if prove:
                verify(built.module, job, parts, record, device, report.verification, prepared)
            for part in parts:
                part.checkpoint.check_unchanged()
        if conversion is not None:
            with clock("convert"):
                conversion.carry_out(built.module, job, parts, record, report)
    return built.module


def _load(
    job: JobConfig, parts: Sequence[Part], device: torch.device, policy: str | None, report: Report, clock: fill.Clock
) -> tuple[Built, Prepared | None]:
    """Builds the model and fills it, or in ``mode=plan`` only plans to; the plan is None where it came filled."""
    with clock("build"):
        built = _build(job) if job.model is not None else take_embedded(job, parts)
        recipe = Recipe(job.model or {}, lambda model: _build(dataclasses.replace(job, model=model)).module)

    with clock("plan"):
        prepared = None if built.complete else prepare(built.module, parts, job.allow, device, policy, recipe)
        if prepared is not None and built.hollow and prepared.plan.leaves_to_initialise() and job.mode != "plan":
            built = _build(job, plainly="keys that may stay unloaded keep the model's own initialisation")
            prepared = prepare(built.module, parts, job.allow, device, policy)
    fill.model(report, job, built, device)
    fill.keys(report, built.module, parts, prepared)
    if prepared is not None:
        prepared.refuse_misfit()
    if job.mode == "plan":
        return built, prepared

    with clock("apply"):
        if prepared is not None and device.type != "meta":
            prepared.carry_out()
            if built.hollow and without_data(built.module):
                built = _build(job, plainly="the model brings values of its own for keys that the file lacks")
                prepared = prepare(built.module, parts, job.allow, device, policy)
                prepared.carry_out()
    with clock("place"):
        settle(built.module.eval(), device, policy)
    fill.model(report, job, built, device)
    fill.keys(report, built.module, parts, prepared)
    return built, prepared


def _with_model(job: JobConfig, parts: Sequence[Part]) -> JobConfig:
    """The job with its model's own config, where that stands in the checkpoint."""
    if job.model is None or job.model.get("_target_") != EMBEDDED:
        return job
    from loader.conversion.embedded import with_own_model  # noqa: PLC0415  # such a model alone

    return with_own_model(job, parts)


def _conversion(job: JobConfig) -> Conversion:
    from loader.conversion.convert import Conversion  # noqa: PLC0415  # this mode alone

    return Conversion(job)


def _build(job: JobConfig, plainly: str = "") -> Built:
    built = build_model(job.model or {}, trusted=job.trusted_targets, seed=job.seed, hollow=not plainly)
    built.reason = plainly or built.reason
    return built
