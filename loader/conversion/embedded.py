"""``model=embedded``: the model's config comes out of the checkpoint.

Guarantees: what the file says is data until the policy of targets has judged every name in it, and that policy is
narrow unless the user says otherwise; nothing in it is interpolated. From there on it is a job like any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loader.build.dangerous import LOOKUPS, why_dangerous
from loader.build.policy import Policy
from loader.config.overlay import overlay
from loader.config.schema import JobConfig
from loader.conversion.record import Record, read_record
from loader.errors import ConfigError
from loader.formats.path import shown_path
from loader.parts import Part
from loader.wording import listing

TRUSTED = ("torch.nn.*", "loader.*")
"""What the config of a file may call unless `trusted_targets` is given."""

_TARGET = "_target_"


def with_own_model(job: JobConfig, parts: Sequence[Part]) -> JobConfig:
    """Returns a job with the config that its checkpoint holds.

    Args:
        job: Its model is ``{_target_: embedded, …}``; the other keys there are laid over the file's.
        parts: Its opened parts.

    Raises:
        CheckpointError: The file's record of its conversion is refused.
        ConfigError: There is no such config.
    """
    record = _record(parts)
    shown = shown_path(parts[0].checkpoint.path)
    if record.model is None:
        raise ConfigError(
            f"{shown} holds no model config: it was converted with convert.embed=false", "model._target_=my_pkg.Net"
        )
    trusted = list(TRUSTED) if job.trusted_targets is None else job.trusted_targets
    _refuse_untrusted(record.model, trusted, shown)
    typed = {key: value for key, value in (job.model or {}).items() if key != _TARGET}
    given = job.verify.input
    return dataclasses.replace(
        job,
        model=overlay(record.model, typed),
        verify=dataclasses.replace(job.verify, input=record.input if given is None else given),
        dtype=record.dtype if job.dtype is None else job.dtype,
        trusted_targets=trusted,
    )


def untrusted(model: Mapping[str, Any], trusted: Sequence[str]) -> list[str]:
    """The names in a model's config that a list of trusted patterns does not admit."""
    policy = Policy(trusted)
    return [name for name in dict.fromkeys(_names(model)) if policy.objection(name)]


def _names(node: Any) -> Iterator[str]:
    """Every name that building a config calls or looks up."""
    if isinstance(node, Mapping):
        called = node.get(_TARGET)
        yield from (name for name in (called, node.get("path") if called in LOOKUPS else None) if isinstance(name, str))
    for item in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        yield from _names(item)


def _refuse_untrusted(model: Mapping[str, Any], trusted: Sequence[str], shown: str) -> None:
    """Says what a file wants to call before the build refuses it: it is not the user who wrote these names."""
    names = untrusted(model, trusted)
    hostile = [name for name in names if why_dangerous(name) or not all(map(str.isidentifier, name.split(".")))]
    if hostile:
        raise ConfigError(
            f"the model config in {shown} names {listing(hostile)}, which no model needs and an attack would use: do "
            "not build a model from this file",
            "model._target_=my_pkg.Net   # the weights load into a declared model without it",
        )
    if names:
        raise ConfigError(
            f"the model config in {shown} names {listing(names, 50)}; for a config out of a file only "
            f"{' and '.join(trusted) or 'nothing'} may be called",
            f"if you trust them: 'trusted_targets=[{','.join([*trusted, *names])}]'",
        )


def _record(parts: Sequence[Part]) -> Record:
    files = {id(part.checkpoint): part.checkpoint for part in parts}
    if len(files) > 1:
        raise ConfigError(
            f"model=embedded takes the config out of a job's one checkpoint, and this job has {len(files)}",
            "model._target_=my_pkg.Net",
        )
    (checkpoint,) = files.values()
    record = read_record(checkpoint)
    if record is None:
        raise ConfigError(
            f"{shown_path(checkpoint.path)} holds no model config; only files that mode=convert wrote do",
            "model._target_=my_pkg.Net mode=convert convert.path=converted.safetensors   # makes one that does",
        )
    return record
