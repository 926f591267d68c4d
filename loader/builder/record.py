"""The record of a conversion in the header of the file that it wrote.

Guarantees: a record is read as hostile text: limited in size, every field of the type that a conversion writes, no
path opened. A config that could not be read back unchanged is not written.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard, get_args

from .. import __version__
from ..errors import CheckpointError, ConfigError
from ..files.path import shown_path
from ..formats.index import parse_mapping
from ..formats.limits import LARGEST_CONFIG, LONGEST_NAME, MOST_DTYPES, MOST_LEVELS, MOST_PROPOSED
from ..formats.opened import Checkpoint
from ..module.policy import DTYPES, DtypePolicy
from ..schema.sections import ConvertNames
from ..text.lines import Fix
from ..text.wording import safe_text

KEY = "hydra_loader"
"""The record's name in the header."""
SCHEMA = 1
WITHOUT = Fix("convert.embed=false", "writes the weights alone")
"""The fix for a config that cannot be embedded."""
WITHOUT_IT = Fix("model._target_=my_pkg.Net", "the weights load into a declared model without it")
"""The fix for a record that is refused."""
_SPEC: Mapping[str, tuple[type, ...]] = {"shape": (list,), "dtype": (str,), "kind": (str,), "high": (int,)}


@dataclass(frozen=True, slots=True)
class Source:
    """A file or folder that weights came from."""

    file: str
    """Its name, without its folder."""
    sha256: str
    key: str | None = None
    rules: Mapping[str, Mapping[str, Any]] | None = field(default_factory=dict)
    """None if they are not found yet; never in a file."""
    adapters: Sequence[Mapping[str, Any]] = ()
    """``{name, file, sha256, files, kind, key, scale, minus, rules}`` of each adapter that was added, in order; left
    out of a file if there are none."""


@dataclass(frozen=True, slots=True)
class Record:
    """The sources of a converted file, and the settings that rebuild its model."""

    sources: Mapping[str, Source]
    """By part; the root is ``""``."""
    model: Mapping[str, Any] | None = None
    """The model's config; None if it was not embedded."""
    input: Any = None
    """The input of the dummy forward pass, as in `verify.input`."""
    dtype: DtypePolicy = None
    """The `dtype` of the conversion."""
    names: ConvertNames = "model"
    """Whose names the file has."""


def children(node: Any) -> Iterable[Any]:
    """Returns the nodes directly below a node of a config."""
    return node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()


def to_text(record: Record) -> str:
    """Returns a record as JSON; `unwritable` must find nothing in its model.

    Raises:
        ConfigError: It is too long to be read again.
    """
    content = {"schema": SCHEMA, "version": __version__, **dataclasses.asdict(record)}
    for source in content["sources"].values():
        if not source["adapters"]:
            del source["adapters"]
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
            f"invalid conversion record in {shown_path(checkpoint.path)}: {safe_text(error, 200)}", WITHOUT_IT
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
        for item in children(node):
            yield from _specs(item)
    else:
        yield node


def _is_spec(node: Any) -> bool:
    fields = isinstance(node, Mapping) and all(v is None or type(v) in _SPEC.get(k, ()) for k, v in node.items())
    return fields and _is_shape(node["shape"])


def _is_shape(shape: Any) -> TypeGuard[Sequence[int]]:
    return isinstance(shape, list) and len(shape) <= 64 and all(type(n) is int and 0 <= n < 1 << 48 for n in shape)


def _content(text: str) -> dict[str, Any]:
    """Returns a record's fields, whose values may be anything."""
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
    return content


def _parsed(text: str) -> Record:
    content = _content(text)
    sources, model, asked = content.get("sources"), content.get("model"), content.get("input")
    if not isinstance(sources, dict):
        raise ValueError("'sources' is not a mapping")
    if model is not None and (not isinstance(model, dict) or next(unwritable(model, "model"), "")):
        raise ValueError("'model' is not a config")
    if asked is not None and not is_input(asked):
        raise ValueError("'input' is not an input spec, or has too many elements")
    if not _is_policy(content.get("dtype")):
        raise ValueError("invalid 'dtype'")
    names = content.get("names", "model")
    if names not in get_args(ConvertNames):
        raise ValueError("invalid 'names'")
    own = {name: _source(source) for name, source in sources.items()}
    return Record(own, model, asked, content.get("dtype"), names)


def _is_policy(value: Any) -> TypeGuard[DtypePolicy]:
    """Whether a value is what `resolve_dtype` returns, with few and short globs."""
    if not isinstance(value, dict):
        return value is None or (isinstance(value, str) and value in ("checkpoint", *DTYPES))
    few = len(value) <= MOST_DTYPES and all(len(glob) <= LONGEST_NAME for glob in value)
    return few and not any(isinstance(one, dict) or not _is_policy(one) for one in value.values())


def _source(raw: Any) -> Source:
    fields = {f.name for f in dataclasses.fields(Source)}
    fits = isinstance(raw, dict) and fields - {"adapters"} <= raw.keys() <= fields
    texts = fits and type(raw["file"]) is str and type(raw["sha256"]) is str and type(raw["key"]) in (str, type(None))
    if not texts or not isinstance(raw["rules"], dict) or not all(isinstance(r, dict) for r in raw["rules"].values()):
        raise ValueError("'sources' has an invalid entry")
    added = raw.get("adapters", [])
    if not isinstance(added, list) or not all(isinstance(one, dict) for one in added):
        raise ValueError("'sources' has invalid adapters")
    return Source(**raw)
