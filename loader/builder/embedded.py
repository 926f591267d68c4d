"""``model=embedded``: the model's config comes from the checkpoint, out of a JSON record in a converted file's header.

Guarantees: no interpolation of the file's config is resolved. Its model is data until the policy, which is narrow
unless the user trusts more, has judged every name in it; from then on it is a job like any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import ConfigError
from ..files.path import shown_path
from ..parts import Part
from ..schema import OF_A_FILE, EmbeddedJob, JobConfig, overlay
from ..text.lines import Fix, line
from ..text.wording import listing, phrases, safe_text
from ..trust import HOSTILE, LOOKUPS, why_dangerous
from .policy import defined_as, policy_of
from .record import WITHOUT_IT, Record, children, read_record

_DECLARED = Fix("model._target_=my_pkg.Net")
_TARGET = "_target_"


def with_own_model(job: JobConfig, parts: Sequence[Part]) -> JobConfig:
    """Returns a job with the model config of its checkpoint.

    Args:
        job: Its model is ``{_target_: embedded, …}``; its other keys override the file's.
        parts: Its opened parts.

    Raises:
        CheckpointError: The file's conversion record is invalid.
        ConfigError: The file has no model config, or one that is not trusted.
    """
    record = _record(parts)
    label = shown_path(parts[0].checkpoint.path)
    if record.model is None:
        raise ConfigError(f"{label} holds no model config: it was converted with convert.embed=false", _DECLARED)
    _refuse_reserved(record.model, label)
    _refuse_untrusted(record.model, job.trusted_targets, label)
    typed = {key: value for key, value in (job.model or {}).items() if key != _TARGET}
    own = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
    own["model"] = overlay(record.model, typed)
    if job.verify.input is None:
        own["verify"] = dataclasses.replace(job.verify, input=record.input)
    own["dtype"] = record.dtype if job.dtype is None else job.dtype
    return EmbeddedJob(**own)


def untrusted(model: Mapping[str, Any], trusted: Sequence[str] | None) -> list[str]:
    """Returns the names in a file's model config that are not trusted; None trusts what any file may name."""
    policy = policy_of(trusted, of_a_file=True)
    barred = (name for name, partial in _names(model) if policy.objection(name) or (partial and not policy.partials))
    return list(dict.fromkeys(barred))


def _names(node: Any) -> Iterator[tuple[str, bool]]:
    """Yields every name that building a config calls or looks up, and whether it is for a `_partial_` call."""
    if isinstance(node, Mapping):
        called, positional = node.get(_TARGET), node.get("_args_")
        paths = [node.get("path"), *(positional if isinstance(positional, list) else ())] if called in LOOKUPS else []
        yield from ((name, bool(node.get("_partial_"))) for name in (called, *paths) if isinstance(name, str))
    for item in children(node):
        yield from _names(item)


def _refuse_reserved(model: Mapping[str, Any], label: str) -> None:
    """Refuses names that would become attributes of a module and that a file must not set."""
    reserved = list(dict.fromkeys(filter(_is_reserved, _labels(model))))
    if reserved:
        raise ConfigError(
            f"the model config in {label} sets {listing(reserved)}, reserved by Python or nn.Module: do not build a "
            "model from this file",
            WITHOUT_IT,
        )


def _labels(node: Any) -> Iterator[str]:
    """Yields every key, and every text in a list: a list of pairs makes a mapping as well."""
    if isinstance(node, Mapping):
        yield from map(str, node)
    elif isinstance(node, list):
        yield from (item for item in node if isinstance(item, str))
    for item in children(node):
        yield from _labels(item)


def _is_reserved(name: str) -> bool:
    is_special = name.startswith("__") and name.endswith("__")
    return is_special or (name.startswith("_") and (hasattr(nn.Module, name) or name in vars(nn.Module())))


def _refuse_untrusted(model: Mapping[str, Any], trusted: Sequence[str] | None, label: str) -> None:
    """Refuses untrusted names before the build does: the user has not written them."""
    names = untrusted(model, trusted)
    hostile = list(filter(None, map(_hostile, names)))
    if hostile:
        raise ConfigError(
            f"the model config in {label} names {phrases(hostile)}, {HOSTILE}: do not build a model from this file",
            WITHOUT_IT,
        )
    if names:
        known = OF_A_FILE if trusted is None else trusted
        own = trusted is None and all(name.startswith(("torch.nn.", "loader.examples.")) for name in names)
        only = f"{' and '.join(known) or 'nothing'} may be called"
        raise ConfigError(
            f"the model config in {label} names {listing(names, 50)}; for a config from a file only "
            f"{f'the public modules of {only}, and none by _partial_' if own else only}",
            line("trusted_targets", [*known, *names], note="if you trust them"),
        )


def _hostile(name: str) -> str:
    """Describes a name that only an attack would use; empty for others."""
    real = defined_as(name)
    if why_dangerous(name) or not all(map(str.isidentifier, name.split("."))):
        return safe_text(name)
    return f"{safe_text(name)}: it is really {safe_text(real)}" if why_dangerous(real) else ""


def _record(parts: Sequence[Part]) -> Record:
    files = {id(part.checkpoint): part.checkpoint for part in parts}
    if len(files) > 1:
        raise ConfigError(
            f"model=embedded takes the config from the job's only checkpoint, but this job has {len(files)}", _DECLARED
        )
    (checkpoint,) = files.values()
    record = read_record(checkpoint)
    if record is None:
        raise ConfigError(
            f"{shown_path(checkpoint.path)} holds no model config; only files that mode=convert wrote do",
            Fix("model._target_=my_pkg.Net mode=convert convert.path=converted.safetensors", "makes one that does"),
        )
    return record
