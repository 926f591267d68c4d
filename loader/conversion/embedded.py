"""``model=embedded``: the model's config comes out of the checkpoint.

Guarantees: what the file says is data until the policy of targets has judged every name in it, and that policy is
narrow unless the user says otherwise; nothing in it is interpolated. From there on it is a job like any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from loader.config.overlay import overlay
from loader.config.schema import EMBEDDED, JobConfig
from loader.conversion.record import Record, read_record
from loader.errors import ConfigError
from loader.parts import Part

TRUSTED = ("torch.nn.*", "loader.*")
"""What the config of a file may call unless `trusted_targets` is given."""

_TARGET = "_target_"


def with_own_model(job: JobConfig, parts: Sequence[Part]) -> JobConfig:
    """Returns the job with the config that its checkpoint holds, where it asks for that.

    Args:
        job: Its model may be ``{_target_: embedded, …}``; the other keys there are laid over the file's.
        parts: Its opened parts.

    Raises:
        CheckpointError: The file's record of its conversion is refused.
        ConfigError: There is no such config.
    """
    if job.model is None or job.model.get(_TARGET) != EMBEDDED:
        return job
    record = _record(parts)
    if record.model is None:
        raise ConfigError(
            f"{parts[0].checkpoint.path} holds no model config: it was converted with convert.embed=false",
            "model._target_=my_pkg.Net",
        )
    typed = {key: value for key, value in job.model.items() if key != _TARGET}
    given = job.verify.input
    return dataclasses.replace(
        job,
        model=overlay(record.model, typed),
        verify=dataclasses.replace(job.verify, input=record.input if given is None else given),
        dtype=record.dtype if job.dtype is None else job.dtype,
        trusted_targets=list(TRUSTED) if job.trusted_targets is None else job.trusted_targets,
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
            f"{checkpoint.path} holds no model config; only files that mode=convert wrote do",
            "model._target_=my_pkg.Net mode=convert convert.path=converted.safetensors   # makes one that does",
        )
    return record
