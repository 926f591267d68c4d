"""``model=embedded``: the model's config comes from the checkpoint, out of a JSON record in a converted file's header.

Guarantees: the record is read as hostile text: limited in size, every field of the type that a conversion writes, no
interpolation resolved, no path opened. Its model is data until the policy, which is narrow unless the user trusts more,
has judged every name in it; from then on it is a job like any other. A config that could not be read back unchanged is
not written.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from torch import nn

from .. import __version__
from ..errors import CheckpointError, ConfigError
from ..files.path import shown_path
from ..formats.index import parse_mapping
from ..formats.limits import LARGEST_CONFIG, MOST_LEVELS, MOST_PROPOSED
from ..formats.opened import Checkpoint
from ..module.dtype import DTYPES
from ..parts import Part
from ..schema import OF_A_FILE, EmbeddedJob, JobConfig, overlay
from ..text.lines import Fix, line
from ..text.wording import listing, phrases, safe_text
from ..trust import HOSTILE, LOOKUPS, why_dangerous
from .policy import defined_as, policy_of

KEY = "hydra_loader"
"""The record's name in the header."""
SCHEMA = 1
WITHOUT = Fix("convert.embed=false", "writes the weights alone")
"""The fix for a config that cannot be embedded."""
_SPEC: Mapping[str, tuple[type, ...]] = {"shape": (list,), "dtype": (str,), "kind": (str,), "high": (int,)}
_DECLARED = Fix("model._target_=my_pkg.Net")
_WITHOUT_IT = Fix("model._target_=my_pkg.Net", "the weights load into a declared model without it")
_TARGET = "_target_"


@dataclass(frozen=True, slots=True)
class Source:
    """A file or folder that weights came from."""

    file: str
    """Its name, without its folder."""
    sha256: str
    key: str | None = None
    rules: Mapping[str, Mapping[str, Any]] | None = field(default_factory=dict)
    """None if they are not found yet; never in a file."""


@dataclass(frozen=True, slots=True)
class Record:
    """The sources of a converted file, and the settings that rebuild its model."""

    sources: Mapping[str, Source]
    """By part; the root is ``""``."""
    model: Mapping[str, Any] | None = None
    """The model's config; None if it was not embedded."""
    input: Any = None
    """The input of the dummy forward pass, as in `verify.input`."""
    dtype: str | None = None
    """The `dtype` of the conversion."""


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


def _children(node: Any) -> Iterable[Any]:
    return node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()


def _names(node: Any) -> Iterator[tuple[str, bool]]:
    """Yields every name that building a config calls or looks up, and whether it is for a `_partial_` call."""
    if isinstance(node, Mapping):
        called, positional = node.get(_TARGET), node.get("_args_")
        paths = [node.get("path"), *(positional if isinstance(positional, list) else ())] if called in LOOKUPS else []
        yield from ((name, bool(node.get("_partial_"))) for name in (called, *paths) if isinstance(name, str))
    for item in _children(node):
        yield from _names(item)


def _refuse_reserved(model: Mapping[str, Any], label: str) -> None:
    """Refuses names that would become attributes of a module and that a file must not set."""
    reserved = list(dict.fromkeys(filter(_is_reserved, _labels(model))))
    if reserved:
        raise ConfigError(
            f"the model config in {label} sets {listing(reserved)}, reserved by Python or nn.Module: do not build a "
            "model from this file",
            _WITHOUT_IT,
        )


def _labels(node: Any) -> Iterator[str]:
    """Yields every key, and every text in a list: a list of pairs makes a mapping as well."""
    if isinstance(node, Mapping):
        yield from map(str, node)
    elif isinstance(node, list):
        yield from (item for item in node if isinstance(item, str))
    for item in _children(node):
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
            _WITHOUT_IT,
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


def to_text(record: Record) -> str:
    """Returns a record as JSON; `unwritable` must find nothing in its model.

    Raises:
        ConfigError: It is too long to be read again.
    """
    content = {"schema": SCHEMA, "version": __version__, **dataclasses.asdict(record)}
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    if len(text) > LARGEST_CONFIG:
        raise ConfigError(
            f"the model's config would take {len(text):,} characters in the converted file, more than the "
            f"{LARGEST_CONFIG:,} allowed",
            WITHOUT,
        )
    return text


def read_record(checkpoint: Checkpoint) -> Record | None:
    """Reads the record of an opened checkpoint; None if it has none.

    Raises:
        CheckpointError: The record is not what a conversion writes.
    """
    notes = checkpoint.root.record
    text = notes.get(KEY) if isinstance(notes, dict) else None
    if text is None:
        return None
    try:
        return _parsed(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"invalid conversion record in {shown_path(checkpoint.path)}: {safe_text(error, 200)}", _WITHOUT_IT
        ) from error


def unwritable(node: Any, where: str, depth: int = 0) -> Iterator[str]:
    """Yields the places of a config that JSON cannot hold without changing them."""
    if depth > MOST_LEVELS:
        yield f"{safe_text(where)} is nested too deep"
    elif isinstance(node, Mapping):
        for key, value in node.items():
            if isinstance(key, str):
                yield from unwritable(value, f"{where}.{key}", depth + 1)
            else:
                yield f"{safe_text(where)} has the key {safe_text(repr(key))}, which is not text"
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from unwritable(value, f"{where}.{index}", depth + 1)
    elif isinstance(node, float) and not math.isfinite(node):
        yield f"{safe_text(where)} is {node}"
    elif node is not None and type(node) not in (str, bool, int, float):
        yield f"{safe_text(where)} is a {type(node).__name__}"


def is_input(node: Any) -> bool:
    """Returns whether a record may hold an input spec: made from a shape of limited size, not read from a path."""
    specs = list(_specs(node))
    return bool(specs) and all(map(_is_spec, specs)) and sum(math.prod(s["shape"]) for s in specs) <= MOST_PROPOSED


def _specs(node: Any) -> Iterator[Any]:
    """The specs of a node: itself, or those of a list (by position) or a mapping (by keyword or part)."""
    if isinstance(node, list) or (isinstance(node, Mapping) and "shape" not in node):
        for item in _children(node):
            yield from _specs(item)
    else:
        yield node


def _is_spec(node: Any) -> bool:
    fields = isinstance(node, Mapping) and all(v is None or type(v) in _SPEC.get(k, ()) for k, v in node.items())
    return fields and _is_shape(node["shape"])


def _is_shape(shape: Any) -> TypeGuard[Sequence[int]]:
    return isinstance(shape, list) and len(shape) <= 64 and all(type(n) is int and 0 <= n < 1 << 48 for n in shape)


def _parsed(text: str) -> Record:
    if len(text) > LARGEST_CONFIG:
        raise ValueError(f"{len(text):,} characters, more than the {LARGEST_CONFIG:,} allowed")
    try:
        content = parse_mapping(text.encode())
    except ValueError as error:
        raise ValueError(f"it {error}") from error
    if type(content.get("schema")) is not int:
        raise ValueError("'schema' is not an integer")
    if content["schema"] != SCHEMA:
        raise ValueError(f"unsupported schema {content['schema']} (expected {SCHEMA})")
    known = {"schema", "version", *(f.name for f in dataclasses.fields(Record))}
    if unknown := sorted(content.keys() - known):
        raise ValueError(f"unknown field {unknown[0]!r}")
    sources, model, asked = content.get("sources"), content.get("model"), content.get("input")
    if not isinstance(sources, dict):
        raise ValueError("'sources' is not a mapping")
    if model is not None and (not isinstance(model, dict) or next(unwritable(model, "model"), "")):
        raise ValueError("'model' is not a config")
    if asked is not None and not is_input(asked):
        raise ValueError("'input' is not an input spec, or has too many elements")
    if content.get("dtype") not in (None, "checkpoint", *DTYPES):
        raise ValueError("invalid 'dtype'")
    return Record({name: _source(source) for name, source in sources.items()}, model, asked, content.get("dtype"))


def _source(raw: Any) -> Source:
    fits = isinstance(raw, dict) and raw.keys() == {f.name for f in dataclasses.fields(Source)}
    texts = fits and type(raw["file"]) is str and type(raw["sha256"]) is str and type(raw["key"]) in (str, type(None))
    if not texts or not isinstance(raw["rules"], dict) or not all(isinstance(r, dict) for r in raw["rules"].values()):
        raise ValueError("'sources' has an invalid entry")
    return Source(**raw)
