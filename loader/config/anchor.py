"""Relative paths of a config, where a run has a folder of its own (`hydra.job.chdir=true`).

Guarantees: a path means the file that it names in the folder where it was typed; what is no relative path, and every
argument of the model, is as it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_PATHS = re.compile(
    r"checkpoint\.path|parts\.(.+\.)?path|verify\.golden|verify\.input\.(.+\.)?path|(convert|scaffold)\.path"
)
_NO_PATHS = ("", "auto", "???")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How a URL begins, one that lost a slash as well."""


def anchored(config: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Returns a config whose relative paths lead from a folder.

    Args:
        config: A resolved config.
        folder: Where its paths were typed.
    """
    return {key: value if key == "model" else _anchored(value, str(key), folder) for key, value in config.items()}


def _anchored(node: Any, name: str, folder: str) -> Any:
    if isinstance(node, Mapping):
        return {key: _anchored(value, f"{name}.{key}", folder) for key, value in node.items()}
    if isinstance(node, list):
        return [_anchored(value, name, folder) for value in node]
    if isinstance(node, str) and _PATHS.fullmatch(name) and not _is_fixed(node):
        return os.path.join(folder, node)  # noqa: PTH118  # a slash at the end counts
    return node


def _is_fixed(text: str) -> bool:
    return text in _NO_PATHS or text.startswith("~") or _SCHEME.match(text) is not None
