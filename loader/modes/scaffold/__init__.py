"""``mode=scaffold``: writes the config that loads a checkpoint into an architecture.

Guarantees: the architecture is named by the user, or by the ``config.json`` of a Hugging Face folder as a model of
`transformers`, and never by a checkpoint; what is written was tried, or says that it was not; nothing is overwritten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...apply.place import own_random_state
from ...builder import Built, build_model
from ...builder.published import LIBRARY, check_class, installed, left_out, published
from ...builder.targets import TARGET
from ...errors import CheckpointError, ConfigError, LoaderError
from ...files.path import is_url
from ...formats.folder_config import CONFIG, config_in
from ...formats.tree import Container
from ...keys.select import find
from ...parts import Part
from ...parts.adapters.alone import refuse_alone
from ...parts.open import open_parts
from ...report import fill, terminal
from ...report.data import Report
from ...schema import AUTO, EMBEDDED, JobConfig
from ...suggest.alternatives import goals_of
from ...suggest.sizes.confined import Confined, apart
from ...suggest.sizes.probe import Probe
from ...text.lines import MISSING, Fix, blank, line, together, typed, under
from ...text.redaction import redacted
from ...text.wording import listing, safe_text, size
from .arguments import Inference, given_lines, infer
from .config_file import Line, Place, choose_place, config_text
from .fitting import DEFAULT, Fitting, fitting_of, forward_note, no_fit
from .hints import hints_of

_TYPED = "as typed"


def write_scaffold(job: JobConfig, report: Report) -> None:
    """Writes a config file that loads the job's checkpoint.

    Args:
        job: The job; its model as far as it is known.
        report: Filled on the way.

    Raises:
        LoaderError: The file exists, or nothing was found with which the checkpoint fits.
    """
    _refuse_parts(job)
    clock = fill.Clock(report)
    with own_random_state(torch.device("cpu")), ExitStack() as files, clock("total"):
        place = choose_place(job.scaffold.path, job.checkpoint.paths[-1])
        with clock("open"):
            part = open_parts(job, files)[0]
            refuse_alone(part.checkpoint, "checkpoint.path")
        fill.parts(report, [part])
        with clock("search"):
            job, origin = _with_model(job, part)
            found = _inferred(job, part, origin)
            fitting, forward = _tried(job, part, found, report)
        _write(place, redacted(config_text(job, place, part, found.lines, fitting, forward)), report)
    lacking = [f"pip install {LIBRARY}"] if origin != _TYPED and not installed() else []
    opened = [*lacking, *_open(found.lines, fitting)]
    dropped = left_out(part.checkpoint.path) if origin != _TYPED else []
    report.written = {**(report.written or {}), "line": place.line, "open": opened, "left_out": dropped}


def lines(report: Report) -> list[terminal.Line]:
    """Returns the report of a scaffold as labeled lines."""
    written = report.written or {}
    shown = [("written", f"{safe_text(written['path'], 300)}: {size(written['bytes'])}", "")]
    if written["left_out"]:
        dropped = listing(written["left_out"])
        shown.append(("", f"left out of config.json, as it would choose code or weights: {dropped}", "yellow"))
    shown += [("required" if index == 0 else "", line, "yellow") for index, line in enumerate(written["open"])]
    shown.append(("load it", written["line"], "green"))
    return [*terminal.sources(report), *terminal.checks(report), *shown, *terminal.ending(report)]


def _refuse_parts(job: JobConfig) -> None:
    if job.parts:
        raise ConfigError(
            "mode=scaffold writes the config of one checkpoint, and parts names several", Fix("'parts={}'")
        )
    if (job.model or {}).get(TARGET) == EMBEDDED:
        raise ConfigError("model=embedded needs no config: the file says how its model is built", Fix("mode=load"))


def _with_model(job: JobConfig, part: Part) -> tuple[JobConfig, str]:
    """The job with the model that was named, by the user or by a Hugging Face folder, and where its name is from."""
    if job.model not in (None, {TARGET: DEFAULT}):
        return job, _TYPED
    node = published(part.checkpoint.path, _tensors(part))
    if node is not None:
        return dataclasses.replace(job, model=node), f"from {CONFIG}{_without(part.checkpoint.path)}"
    if job.model is None:
        raise ConfigError(
            "mode=scaffold needs the class of the model, which a checkpoint is never asked for",
            Fix("model._target_=my_pkg.Net"),
        )
    return job, _TYPED


def _without(folder: Path) -> str:
    dropped = left_out(folder)
    return f" without {listing(dropped)}, which would choose code or weights" if dropped else ""


def _inferred(job: JobConfig, part: Part, origin: str) -> Inference:
    settings, root, node = part.config.checkpoint, part.checkpoint.root, job.model or {}
    if origin != _TYPED:
        if not installed():
            return Inference(given_lines(node, origin), None, Probe(lambda _: _build(job, node).module, 0, 0))
        check_class(str(node[TARGET]))
    key = None if settings.key == AUTO else settings.key
    rules = part.config.rules or {}
    return infer(
        job,
        node,
        hints_of(root, _config_beside(job, part)),
        _trials(job),
        lambda seen: goals_of(root, key, rules, seen),
        origin,
    )


def _config_beside(job: JobConfig, part: Part) -> Mapping[str, Any] | None:
    """The config next to a local checkpoint, where it is one; it was not asked for, so that a damaged one is none."""
    path = part.checkpoint.path
    try:
        return None if is_url(job.checkpoint.paths[-1]) else config_in(path if path.is_dir() else path.parent)
    except CheckpointError:
        return None


def _tried(job: JobConfig, part: Part, found: Inference, report: Report) -> tuple[Fitting | None, list[Line]]:
    """How the file goes into the model that was found; None where none could be built to try it."""
    if found.values is None:
        if found.probe.refusal is not None and (found.probe.outside or not found.open):
            raise _untried(found)
        report.parts[""].tensors = _tensors(part)
        return None, []
    node = {**(job.model or {}), **found.values}
    built = apart(lambda: _build(job, node), Confined())
    fitting = fitting_of(job, part, built.module)
    if fitting is None:
        raise no_fit(job, part, built.module, found.values, found.probe)
    _describe(report, part, fitting)
    fill.model(report, dataclasses.replace(job, model=node), built, torch.device("cpu"))
    note = forward_note(built.module) if job.verify.input is None and job.verify.forward else ""
    return fitting, [Line("forward", False, note)] if note else []


def _untried(found: Inference) -> LoaderError:
    """The refusal where no build succeeds; an argument that fetches something can be switched off."""
    refusal = found.probe.refusal
    if refusal is None:
        raise LookupError
    switches = [line(under("model", name), value=False) for name in found.fetching]
    if refusal.fixes or not found.probe.outside:
        return refusal
    return ConfigError(refusal.message, together(switches))


def _describe(report: Report, part: Part, fitting: Fitting) -> None:
    selected = find(part.checkpoint.root, fitting.key)
    if isinstance(selected, Container):
        report.parts[""].key, report.parts[""].tensors = fitting.key, len(selected.tensors())


def _tensors(part: Part) -> int:
    return sum(len(container.tensors()) for _, container in part.checkpoint.root.walk())


def _trials(job: JobConfig) -> Callable[[Mapping[str, Any]], nn.Module]:
    """Builds for the search; what is known to be built hollow is not built plainly where that fails."""
    hollow = False

    def trial(config: Mapping[str, Any]) -> nn.Module:
        nonlocal hollow
        built = build_model(config, trusted=job.trusted_targets, seed=job.seed, patient=not hollow)
        hollow = hollow or built.hollow
        return built.module

    return trial


def _build(job: JobConfig, config: Mapping[str, Any]) -> Built:
    return build_model(config, trusted=job.trusted_targets, seed=job.seed)


def _open(lines: list[Line], fitting: Fitting | None) -> list[str]:
    """Whatever must be set before the config runs."""
    gaps = ((under("model", line.key), line.note) for line in lines if line.value == MISSING)
    ways = (typed(*way.overrides) for way in (fitting.ways if fitting else ()))
    return [str(fix) for fix in (*(blank(path, gap=MISSING, note=note) for path, note in gaps), *ways) if fix]


def _write(place: Place, text: str, report: Report) -> None:
    try:
        place.path.parent.mkdir(parents=True, exist_ok=True)
        with place.path.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(
            f"{safe_text(place.path, 200)} cannot be written: {error.strerror}",
            Fix("scaffold.path=OTHER/FOLDER/experiment/"),
        ) from error
    report.written = {"path": str(place.path), "files": [str(place.path)], "bytes": len(text.encode())}
