"""Fills a report with what a job knows so far.

Guarantees: reads, never changes what it describes; may be called again when more is known; imports no torch for a job
that did without.
"""

from __future__ import annotations

import functools
import importlib.util
import platform
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.path import called
from ..formats.pickle.needed import dangers_among
from ..formats.tree import Container
from ..parts.offer import Offers, selected
from ..runtime import peak_memory
from ..schema import OF_A_FILE
from . import planned
from .beside import beside
from .data import KeysReport, ModelReport, PartReport, Report

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..apply.prepare import Prepared
    from ..apply.stage import Staged
    from ..builder import Built
    from ..parts import Part
    from ..schema import JobConfig


class Clock:
    """Adds up the seconds that each step takes."""

    def __init__(self, report: Report) -> None:
        self._timings = report.timings

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Times a block, refused or not."""
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
        digest = part.checkpoint.sha256() if settings.sha256 or settings.check == "full" else None
        report.parts[part.name] = PartReport(
            path=called(part.checkpoint.path),
            format=part.checkpoint.format,
            key=settings.key,
            sha256=digest,
            bytes=part.checkpoint.nbytes,
            tensors=0,
            dangers=dangers_among(part.checkpoint.named.values()),
            note="; ".join(filter(None, (part.checkpoint.note, part.remark))),
            trust=used | ({"trust": True} if settings.trust else {}),
        )


def keys(
    report: Report, module: nn.Module, opened: Sequence[Part], prepared: Prepared | None, staged: Staged | None = None
) -> None:
    """Describes what became of every key.

    Args:
        report: What is filled.
        module: The model.
        opened: The parts, with ``auto`` replaced.
        prepared: The plan; None for a model that came out of the file complete.
        staged: What was read for it; None where nothing was.
    """
    for part in opened:
        _offered(report.parts[part.name], part, None if prepared is None else prepared.offers)
    if prepared is None:
        from ..module.slots import slots  # noqa: PLC0415  # imports torch

        report.keys = KeysReport(loaded=len(slots(module)))
        return
    plan = prepared.plan
    if plan.passes() and (plan.mismatched or plan.dropped):
        _note_doubts(report, opened, prepared)
    if report.mode == "plan":
        report.plan = planned.rows(prepared)
    report.keys = KeysReport(
        loaded=len(plan.loaded),
        missing=list(plan.missing),
        unexpected=list(plan.unexpected),
        mismatched=[{"key": m.key, "model": list(m.model), "checkpoint": list(m.checkpoint)} for m in plan.mismatched],
        dropped=list(plan.dropped),
        cast=planned.casts(prepared)
        if report.mode == "plan"
        else [
            {"key": c.key, "checkpoint": c.checkpoint, "model": c.model, "loss": str(c.loss)}
            for c in (() if staged is None else staged.casts)
        ],
        tied=[list(group) for group in plan.tied],
    )


def _offered(report: PartReport, part: Part, offers: Offers | None) -> None:
    report.key = part.config.checkpoint.key
    report.applied = list(part.applied)
    chosen = selected(part) if offers is None else offers.selected[part.name]
    chosen = Container("dict", "dict") if chosen is None else chosen
    report.tensors = len(chosen.tensors())
    report.beside = beside(part.checkpoint.root, chosen)
    if offers is not None:
        report.rules = [{"name": hit.name, "hits": hit.hits} for hit in offers.hits[part.name]]
        report.other = dict(offers.other[part.name])


def _note_doubts(report: Report, opened: Sequence[Part], prepared: Prepared) -> None:
    """Notes square weights that may be transposed as what was left out is."""
    from ..suggest.nature import in_doubt  # noqa: PLC0415  # only where something was left out

    selected = prepared.offers.selected
    entries = {part.full(key): entry for part in opened for key, entry in selected[part.name].tensors().items()}
    dropped = {key: entries[key].shape for key in prepared.plan.dropped if key in entries}
    doubt = in_doubt(prepared.plan, prepared.wanted, dropped)
    if doubt:
        described = report.parts[opened[0].name]
        described.note = "; ".join(filter(None, (described.note, doubt)))


def environment(report: Report) -> None:
    """Describes the machine and the versions, and the process's peak memory."""
    report.environment = {
        "python": platform.python_version(),
        **_versions(),
        # Not `platform.platform()`, which starts a process to ask for the processor's name and leaves it out.
        "platform": "-".join((platform.system(), platform.release(), platform.machine(), *platform.libc_ver())),
        **_of_torch(),
    }
    report.memory = {"peak_rss_bytes": peak_memory()}


_VERSION = re.compile(r"^__version__ *(?:: *str *)?= *['\"]([^'\"]+)['\"]", re.MULTILINE)


@functools.cache
def _versions() -> dict[str, str]:
    """By package, read once; from the module where that is imported, since a package's whole description is parsed."""
    modules = {"hydra-core": "hydra", "omegaconf": "omegaconf", "safetensors": "safetensors"}
    found = {
        package: getattr(sys.modules.get(module), "__version__", None) or metadata.version(package)
        for package, module in modules.items()
    }
    return {"torch": _torch_version(), **found}


def _torch_version() -> str:
    """As torch itself says it, with what it was built for (``2.6.0+cu124``), which its package may leave out."""
    spec = importlib.util.find_spec("torch")  # without importing it
    said = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin else None
    found = _VERSION.search(said.read_text(encoding="utf-8")) if said is not None and said.is_file() else None
    return found[1] if found else metadata.version("torch")


def _of_torch() -> dict[str, Any]:
    """What only torch itself knows; nothing in a job that did not import it."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return {}
    return {"torch": str(torch.__version__), "cuda": torch.version.cuda, "threads": torch.get_num_threads()}


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
