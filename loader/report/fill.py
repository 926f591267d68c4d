"""Fills a report with what a job knows so far.

Guarantees: never changes the objects it describes; may be called again when more is known. Entries of a file other than
its weights are described as text, and none of them is rebuilt.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.path import called, is_copy
from ..formats.pickle.globals import dangers_among
from ..formats.tree import Container
from ..parts.offer import Offers, selected
from ..schema import OF_A_FILE
from ..text.wording import listing
from . import modules, rows
from .beside import beside, step_of
from .data import KeysReport, ModelReport, PartReport, Report

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..apply.prepare import Prepared
    from ..apply.stage import Staged
    from ..builder import Built
    from ..module.slots import Slot
    from ..parts import Part
    from ..schema import CheckpointConfig, JobConfig


class Clock:
    """Adds up the seconds of each step."""

    def __init__(self, report: Report) -> None:
        self._timings = report.timings

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Times a block, even if it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._timings[step] = self._timings.get(step, 0.0) + time.perf_counter() - start


def model(report: Report, job: JobConfig, built: Built, device: torch.device) -> None:
    """Describes the model."""
    target = (job.model or {}).get("_target_") or _name(built.module)
    report.model = _model(str(target), built.module, device)
    if job.trusted_targets is not None or job.of_a_file:
        trusted = OF_A_FILE if job.trusted_targets is None else job.trusted_targets
        report.model.trust = {"trusted_targets": list(trusted)}
    report.model.build = built.how


def parts(report: Report, opened: Sequence[Part]) -> None:
    """Describes the files."""
    for part in opened:
        settings = part.config.checkpoint
        used: dict[str, Any] = {"allow_globals": settings.allow_globals} if settings.allow_globals else {}
        digest = part.checkpoint.sha256() if _digests(settings) else None
        report.parts[part.name] = PartReport(
            path=called(part.checkpoint.path),
            format=part.checkpoint.format,
            key=settings.key,
            sha256=digest,
            bytes=part.checkpoint.nbytes - sum(one.nbytes for one in part.adapters),
            mtime=_changed(part.checkpoint.place),
            tensors=0,
            dangers=dangers_among(part.checkpoint.named.values()),
            note="; ".join(filter(None, (part.checkpoint.note, part.remark))),
            trust=used | ({"trust": True} if settings.trust else {}),
        )
        _combined(report.parts[part.name], part, Container("dict", "dict"))


def _digests(settings: CheckpointConfig) -> bool:
    return bool(settings.sha256) or settings.check == "full"


def _changed(place: Path) -> float | None:
    try:
        return None if is_copy(place) else place.stat().st_mtime
    except OSError:
        return None  # a state dict in memory, or a header read from afar


def keys(
    report: Report, module: nn.Module, opened: Sequence[Part], prepared: Prepared | None, staged: Staged | None = None
) -> None:
    """Describes the outcome of every key.

    Args:
        report: The report to fill.
        module: The model.
        opened: The parts, with ``auto`` replaced.
        prepared: The plan; None for a model that was complete in the file.
        staged: The values that were read; None if none were.
    """
    for part in opened:
        offers = None if prepared is None else prepared.offers
        offered(report.parts[part.name], part, offers, digests=report.mode != "plan")
    if prepared is None:
        from ..module.slots import slots  # noqa: PLC0415  # imports torch

        complete = slots(module)
        report.keys = KeysReport(loaded=len(complete))
        report.modules = modules.all_loaded(_sizes(complete))
        return
    plan = prepared.plan
    if plan.passes() and (plan.mismatched or plan.dropped):
        _note_doubts(report, opened, prepared)
    _note_idle(report, opened, prepared)
    if report.mode == "plan":
        report.plan = rows.rows(prepared)
    report.modules = modules.of_plan(plan, prepared.wanted)
    report.keys = KeysReport(
        loaded=len(plan.loaded),
        missing=list(plan.missing),
        unexpected=list(plan.unexpected),
        mismatched=[{"key": m.key, "model": list(m.model), "checkpoint": list(m.checkpoint)} for m in plan.mismatched],
        dropped=list(plan.dropped),
        cast=rows.planned_casts(prepared) if report.mode == "plan" else _casts(staged),
        tied=[list(group) for group in plan.tied],
        derived=rows.derived(prepared),
    )


def _sizes(places: Mapping[str, Slot]) -> dict[str, int]:
    """Returns the number of parameters at each key; tied ones count once."""
    from torch.nn.parameter import is_lazy  # noqa: PLC0415  # a report without a model needs none

    seen: set[int] = set()
    sizes = {}
    for key, slot in places.items():
        tensor = slot.tensor if slot.kind == "parameter" else None
        counts = tensor is not None and id(tensor) not in seen and not is_lazy(tensor)
        sizes[key] = tensor.numel() if tensor is not None and counts else 0
        seen.add(id(tensor))
    return sizes


def offered(report: PartReport, part: Part, offers: Offers | None, *, digests: bool = False) -> None:
    """Describes what a part offers; None for offers that were not made. Reads files only for digests of adapters."""
    report.key = part.config.checkpoint.key
    report.applied = list(part.applied)
    chosen = (selected(part) if offers is None else offers.selected[part.name]) or Container("dict", "dict")
    report.tensors = len(chosen.tensors())
    report.beside = beside(part.checkpoint.root, chosen)
    report.step = step_of(part.checkpoint.root)
    _combined(report, part, chosen)
    if offers is not None:
        report.rules = [{"name": hit.name, "hits": hit.hits} for hit in offers.hits[part.name]]
        report.other = dict(offers.other[part.name])
        report.adapters = list(_adapters(part, offers, digests=digests))


def _adapters(part: Part, offers: Offers, *, digests: bool) -> Iterator[dict[str, Any]]:
    for adapter, applied in zip(part.adapters, offers.adapters[part.name], strict=True):
        rules = [{"name": hit.name, "hits": hit.hits} for hit in applied.rules]
        yield {**adapter.described(digests=digests), "hits": applied.hits, "rules": rules, "note": applied.note}


def _combined(report: PartReport, part: Part, chosen: Container) -> None:
    """Describes the files that became one."""
    combination, settings = part.checkpoint.combination, part.config.checkpoint
    if combination is None:
        return
    report.combined = combination.described(chosen, digests=_digests(settings))
    remark = combination.remark(chosen)
    if remark not in report.note:
        report.note = "; ".join(filter(None, (report.note, remark)))


def _casts(staged: Staged | None) -> list[dict[str, str]]:
    casts = () if staged is None else staged.casts
    return [{"key": c.key, "checkpoint": c.checkpoint, "model": c.model, "loss": str(c.loss)} for c in casts]


def _note_doubts(report: Report, opened: Sequence[Part], prepared: Prepared) -> None:
    """Notes square weights that may be transposed like the weights that were left out."""
    from ..suggest.nature import in_doubt  # noqa: PLC0415  # only where something was left out

    selected = prepared.offers.selected
    entries = {part.full(key): entry for part in opened for key, entry in selected[part.name].tensors().items()}
    dropped = {key: entries[key].shape for key in prepared.plan.dropped if key in entries}
    if doubt := in_doubt(prepared.plan, prepared.wanted, dropped):
        _note(report.parts[opened[0].name], doubt)


def _note_idle(report: Report, opened: Sequence[Part], prepared: Prepared) -> None:
    """Notes globs of the setting ``dtype`` that match nothing, which may be mistyped."""
    if not isinstance(prepared.policy, Mapping):
        return
    names = [*prepared.wanted, *(name for name, _ in prepared.model.named_buffers())]
    idle = [glob for glob in prepared.policy if not any(fnmatchcase(name, glob) for name in names)]
    if idle:
        _note(report.parts[opened[0].name], f"dtype: no key of the model matches {listing(idle)}")


def _note(part: PartReport, text: str) -> None:
    part.note = "; ".join(filter(None, (part.note, text)))


def _model(target: str, module: nn.Module, device: torch.device) -> ModelReport:
    from torch import nn  # noqa: PLC0415  # a report without a model needs none

    from ..module.dtype import dtype_names  # noqa: PLC0415  # imports torch

    lazy = nn.parameter.UninitializedParameter
    sized = [parameter for parameter in module.parameters() if not isinstance(parameter, lazy)]
    return ModelReport(
        target=target,
        parameters=sum(parameter.numel() for parameter in sized),
        bytes=sum(parameter.numel() * parameter.element_size() for parameter in sized),
        device=str(device),
        dtypes=dtype_names(module),
    )


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
