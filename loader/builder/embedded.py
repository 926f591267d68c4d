"""``model=embedded``: the model's config comes out of the checkpoint.

Guarantees: what the file says is data until the policy of targets has judged every name in it, and that policy is
narrow unless the user says otherwise; nothing in it is interpolated. From there on it is a job like any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import ConfigError
from ..files.path import shown_path
from ..parts.open import Part
from ..schema import OF_A_FILE, EmbeddedJob, JobConfig, overlay
from ..text.lines import Fix, line
from ..text.wording import listing, phrases, safe_text
from ..trust.dangerous import LOOKUPS, why_dangerous
from .policy import defined_as, policy_of
from .record import Record, read_record

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
            f"{shown} holds no model config: it was converted with convert.embed=false",
            Fix("model._target_=my_pkg.Net"),
        )
    _refuse_reserved(record.model, shown)
    _refuse_untrusted(record.model, job.trusted_targets, shown)
    typed = {key: value for key, value in (job.model or {}).items() if key != _TARGET}
    given = job.verify.input
    own = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
    own["model"] = overlay(record.model, typed)
    own["verify"] = dataclasses.replace(job.verify, input=record.input if given is None else given)
    own["dtype"] = record.dtype if job.dtype is None else job.dtype
    return EmbeddedJob(**own)


def untrusted(model: Mapping[str, Any], trusted: Sequence[str] | None) -> list[str]:
    """The names in a model's config that a list of trusted patterns does not admit; None is what a file may name."""
    policy = policy_of(trusted, of_a_file=True)
    return list(
        dict.fromkeys(
            name for name, partial in _names(model) if policy.objection(name) or (partial and not policy.partials)
        )
    )


def _names(node: Any) -> Iterator[tuple[str, bool]]:
    """Every name that building a config calls or looks up, and whether the rest of the call is left for later."""
    if isinstance(node, Mapping):
        called, positional = node.get(_TARGET), node.get("_args_")
        paths = [node.get("path"), *(positional if isinstance(positional, list) else ())] if called in LOOKUPS else []
        yield from ((name, bool(node.get("_partial_"))) for name in (called, *paths) if isinstance(name, str))
    for item in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        yield from _names(item)


def _refuse_reserved(model: Mapping[str, Any], shown: str) -> None:
    """Refuses names that would end up as attributes of a module, and that are not for a file to set."""
    reserved = list(dict.fromkeys(filter(_is_reserved, _labels(model))))
    if reserved:
        raise ConfigError(
            f"the model config in {shown} sets {listing(reserved)}, which Python or nn.Module keep for themselves: do "
            "not build a model from this file",
            Fix("model._target_=my_pkg.Net", "the weights load into a declared model without it"),
        )


def _labels(node: Any) -> Iterator[str]:
    """Every key, and every text of a list: a list of pairs makes a mapping as well."""
    if isinstance(node, Mapping):
        yield from map(str, node)
    elif isinstance(node, list):
        yield from (item for item in node if isinstance(item, str))
    for item in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        yield from _labels(item)


def _is_reserved(name: str) -> bool:
    is_special = name.startswith("__") and name.endswith("__")
    return is_special or (name.startswith("_") and (hasattr(nn.Module, name) or name in vars(nn.Module())))


def _refuse_untrusted(model: Mapping[str, Any], trusted: Sequence[str] | None, shown: str) -> None:
    """Says what a file wants to call before the build refuses it: it is not the user who wrote these names."""
    names = untrusted(model, trusted)
    hostile = list(filter(None, map(_hostile, names)))
    if hostile:
        raise ConfigError(
            f"the model config in {shown} names {phrases(hostile)}, which no model needs and an attack would use: do "
            "not build a model from this file",
            Fix("model._target_=my_pkg.Net", "the weights load into a declared model without it"),
        )
    if names:
        known = OF_A_FILE if trusted is None else trusted
        own = trusted is None and all(name.startswith(("torch.nn.", "loader.")) for name in names)
        only = f"{' and '.join(known) or 'nothing'} may be called"
        raise ConfigError(
            f"the model config in {shown} names {listing(names, 50)}; for a config out of a file only "
            f"{f'the public modules of {only}, and none by _partial_' if own else only}",
            line("trusted_targets", [*known, *names], note="if you trust them"),
        )


def _hostile(name: str) -> str:
    """How to call a name that only an attack needs; empty for the others."""
    real = defined_as(name)
    if why_dangerous(name) or not all(map(str.isidentifier, name.split("."))):
        return safe_text(name)
    return f"{safe_text(name)}: it is really {safe_text(real)}" if why_dangerous(real) else ""


def _record(parts: Sequence[Part]) -> Record:
    files = {id(part.checkpoint): part.checkpoint for part in parts}
    if len(files) > 1:
        raise ConfigError(
            f"model=embedded takes the config out of a job's one checkpoint, and this job has {len(files)}",
            Fix("model._target_=my_pkg.Net"),
        )
    (checkpoint,) = files.values()
    record = read_record(checkpoint)
    if record is None:
        raise ConfigError(
            f"{shown_path(checkpoint.path)} holds no model config; only files that mode=convert wrote do",
            Fix("model._target_=my_pkg.Net mode=convert convert.path=converted.safetensors", "makes one that does"),
        )
    return record
