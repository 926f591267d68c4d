"""What goes into the config file beside the model: the checkpoint, its rules, and whatever else the user set.

Guarantees: what differs from a default of the loader is written, and nothing else; where the file fits in several ways
that are equally good, what they differ in is `auto`, which refuses to choose between them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ...keys.rules.ready import ready_names
from ...parts import Part
from ...schema import AUTO, AllowConfig, CheckpointConfig, JobConfig, Rule
from ...text.lines import typed, yaml_value
from ...text.wording import safe_text
from .fitting import Fitting
from .page import Line, page, section
from .place import Place

_OWN = ("mode", "model", "checkpoint", "rules", "parts", "allow", "verify", "inspect", "convert", "scaffold")
"""Sections that are written on their own, or that are no part of a load."""


def config_text(
    job: JobConfig, place: Place, part: Part, model: Sequence[Line], fitting: Fitting | None, forward: Sequence[Line]
) -> str:
    """The whole file.

    Args:
        job: What the user set.
        place: Where it goes.
        part: The opened checkpoint.
        model: The model's node.
        fitting: How the checkpoint goes into it; None where that could not be tried.
        forward: What is to be said of the forward pass.
    """
    head = [f"Written by mode=scaffold from {safe_text(job.checkpoint.path, 150)}.", f"Run it: {place.line}"]
    ready = _ready(fitting)
    defaults: dict[str, Any] = {"model": None, "checkpoint": "file"} | ({"rules": ready} if ready else {})
    sections = [
        section("model", model),
        section("checkpoint", _checkpoint(part.config.checkpoint, job.checkpoint, fitting)),
        [] if ready or fitting is None else section("rules", _rules(fitting.rules)),
        section("allow", _differing(fitting.allow if fitting else job.allow, AllowConfig())),
        section("verify", [*_verify(job), *forward]),
    ]
    return page([*head, *_told(fitting)], defaults, [*sections, _others(job)])


def _ready(fitting: Fitting | None) -> list[str]:
    if fitting is None or any(way.rules != fitting.rules for way in fitting.ways):
        return [AUTO]
    return ready_names(fitting.rules) or []


def _told(fitting: Fitting | None) -> list[str]:
    if fitting is None:
        return ["It was not tried: the model cannot be built before what it needs is given and installed."]
    if fitting.ways:
        lines = (typed(*way.overrides).line for way in fitting.ways)
        return ["The file fits in several ways that are equally good; one of these has to be given:", *lines]
    return [
        f"All {fitting.loaded:,} keys of the model fit{': ' if fitting.reasons else '.'}{'; '.join(fitting.reasons)}"
    ]


def _checkpoint(settings: CheckpointConfig, typed: CheckpointConfig, fitting: Fitting | None) -> list[Line]:
    changed = _differing(dataclasses.replace(settings, path="", key=None), CheckpointConfig())
    key = AUTO if fitting is None or any(way.key != fitting.key for way in fitting.ways) else fitting.key
    return [Line("path", typed.path), *([Line("key", key)] if key is not None else []), *changed]


def _rules(rules: Mapping[str, Rule]) -> list[Line]:
    return [Line(name, rule.settings()) for name, rule in rules.items()]


def _verify(job: JobConfig) -> list[Line]:
    plain = dataclasses.asdict(job.verify)
    default = dataclasses.asdict(type(job.verify)())
    return [Line(name, value) for name, value in plain.items() if value != default[name]]


def _differing(record: Any, default: Any) -> list[Line]:
    names = [field.name for field in dataclasses.fields(record)]
    return [Line(n, getattr(record, n)) for n in names if getattr(record, n) != getattr(default, n)]


def _others(job: JobConfig) -> list[str]:
    """Settings at the top level."""
    return [f"{line.key}: {yaml_value(line.value)}" for line in _differing(job, JobConfig()) if line.key not in _OWN]
