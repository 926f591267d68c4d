"""Turns the ``config.json`` of a Hugging Face folder into a model node.

Guarantees: the file is read as data of limited size; the class it names must be a model class of `transformers` and is
otherwise refused; none of its values becomes a target, an interpolation or code. Entries that select code or weights
(``auto_map``, kernels, attention implementations, backbones, locations to fetch from) are left out at every depth.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import CheckpointError, ConfigError
from ..files.path import shown_path
from ..formats.folder_config import CONFIG, config_in
from ..text.lines import Fix
from ..text.wording import safe_text
from .locate import locate
from .policy import identity

LIBRARY = "transformers"

_CLASS = re.compile(r"[A-Z][A-Za-z0-9]{1,80}")
_TYPE = re.compile(r"[a-z][a-z0-9_-]{0,40}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")
_DEPTH = re.compile(r"layer|depth|block|stage", re.IGNORECASE)
_NO_ARGUMENTS = frozenset(("architectures", "dtype", "model_type", "torch_dtype", "transformers_version"))
_CHOOSES = re.compile(
    r"implementation$|^auto_map$|^custom_(pipelines|generate)$|^quantization_config$|backbone|pretrained|remote_code|kernel",
    re.IGNORECASE,
)
"""Names of entries that select code or weights."""
_PLACE = re.compile(r"(^|_)(path|paths|file|filename|url|repo|repo_id|hub_id|revision|name_or_path)$|^(hf_)?token$")
"""Names of entries that hold a location."""
_SCHEME = re.compile(r"(hf[-_]hub|local[-_]dir|https?|s3|gs|hf|file):", re.IGNORECASE)
_UNSET = "???"
_DEEPEST = 4


def published(folder: Path, tensors: int) -> dict[str, Any] | None:
    """Returns the node of the model that a folder's config describes; None if there is no such config.

    Args:
        folder: The folder of the checkpoint.
        tensors: How many tensors it has: a config with more layers than that is refused.

    Raises:
        CheckpointError: The config is damaged, or names an invalid architecture.
    """
    content = config_in(folder)
    return None if content is None else _node(folder / CONFIG, content, tensors)


def left_out(folder: Path) -> list[str]:
    """Returns the entries of a folder's config that are left out because they select code or weights.

    Raises:
        CheckpointError: The config is damaged.
    """
    return list(_chosen(config_in(folder) or {}, ""))


def _node(path: Path, content: Mapping[str, Any], tensors: int) -> dict[str, Any] | None:
    classes, kind = content.get("architectures"), content.get("model_type")
    if not isinstance(classes, list) or not classes or kind is None:
        return None
    if not (isinstance(classes[0], str) and _CLASS.fullmatch(classes[0]) and _TYPE.fullmatch(str(kind))):
        raise CheckpointError(
            f"{shown_path(path)} names the architecture '{safe_text(classes[0])}' of type '{safe_text(kind)}', which "
            f"cannot be a model of {LIBRARY}",
            Fix("model._target_=my_pkg.Net"),
        )
    deep = [name for name, value in content.items() if _DEPTH.search(name) and _is_above(value, tensors)]
    if deep:
        raise CheckpointError(
            f"{shown_path(path)} says {safe_text(deep[0])}={safe_text(content[deep[0]])}, more than the checkpoint has "
            f"tensors ({tensors:,})",
            Fix("model._target_=my_pkg.Net"),
        )
    arguments = {name: value for name, value in _plain(content, 0).items() if name not in _NO_ARGUMENTS}
    config = {"_target_": f"{LIBRARY}.AutoConfig.for_model", "model_type": kind, **arguments}
    return {"_target_": f"{LIBRARY}.{classes[0]}", "config": config}


def installed() -> bool:
    """Returns whether the library is installed."""
    return importlib.util.find_spec(LIBRARY) is not None


def check_class(target: str) -> None:
    """Refuses a target that is not a model class of the library, before it is called.

    Raises:
        ConfigError: It is something else, or does not exist.
    """
    found = locate(target, "model._target_")
    home = identity(found, target)[0].partition(".")[0]
    if not (isinstance(found, type) and issubclass(found, nn.Module) and home == LIBRARY):
        raise ConfigError(
            f"{CONFIG} names {safe_text(target)}, which is not a model class", Fix("model._target_=my_pkg.Net")
        )


def _is_above(value: object, most: int) -> bool:
    return isinstance(value, int) and value > max(most, 1)


def _plain(content: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """The entries that are only data for a config, and do not select code."""
    kept = {name: _value(value, depth) for name, value in content.items() if _NAME.fullmatch(name)}
    # Where the library fetches by default, only an explicit `false` prevents it.
    off = {name for name, value in content.items() if value is True and "pretrained" in name}
    return {
        name: False if name in off else value
        for name, value in kept.items()
        if value is not _LEFT_OUT and (name in off or not _chooses(name, content[name]))
    }


def _chooses(name: str, value: Any) -> bool:
    """Whether an entry selects code, weights or a location; numbers and disabled entries select nothing."""
    if value is None or value is False or _is_numeric(value):
        return False
    if _CHOOSES.search(name):
        return not (isinstance(value, dict) and name.endswith("backbone_config"))
    return (_PLACE.search(name) is not None and value is not True) or _is_remote(value)


def _is_remote(value: Any) -> bool:
    """Whether a text, or one in a list, is a location; leading blanks are not part of a URL."""
    if isinstance(value, list):
        return any(map(_is_remote, value))
    return isinstance(value, str) and _SCHEME.match(value.strip()) is not None


def _is_numeric(value: Any) -> bool:
    return type(value) in {int, float} or (isinstance(value, list) and all(map(_is_numeric, value)))


def _chosen(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if _chooses(name, item):
                yield f"{where}{name}"
            else:
                yield from _chosen(item, f"{where}{name}.")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _chosen(item, f"{where}{index}.")


_LEFT_OUT = object()


def _value(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _LEFT_OUT if value == _UNSET or not value.isprintable() else value
    if depth >= _DEEPEST and isinstance(value, dict | list):
        return _LEFT_OUT
    if isinstance(value, dict):
        return _plain(value, depth + 1)
    if isinstance(value, list):
        items = [_value(item, depth + 1) for item in value]
        return _LEFT_OUT if any(item is _LEFT_OUT for item in items) else items
    return value
