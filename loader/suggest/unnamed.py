"""The refusal of a checkpoint without a model, with the architecture that the file or its folder names.

Guarantees: an architecture that a file names is offered as a line to type and never built; a name that only an attack
needs is not offered; files are read as data, up to a bounded size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..builder.published import published
from ..builder.targets import TARGET
from ..errors import ConfigError, FitError, LoaderError
from ..files.path import is_url
from ..formats.folder_config import CONFIG, config_in
from ..formats.pickle.globals import needed_globals
from ..formats.pickle.records import PickledDict, Reduced
from ..formats.tree import Container, Leaf
from ..keys.candidates import candidates
from ..keys.written import located, source
from ..parts import Part
from ..schema import JobConfig
from ..text.lines import Fix, override, typed
from ..text.wording import counted, safe_text
from ..trust import is_hostile
from .nature import embedded_line, pickled_line

EXAMPLE = {TARGET: "loader.examples.SimpleNet"}
"""The model that is built if none is given."""
_SHIPPED = "pkg://loader.examples/"
_PLAIN = (int, float, bool, str, type(None))
_CLASS = re.compile(r"[A-Za-z_]\w{0,60}(\.[A-Za-z_]\w{0,60}){1,10}", re.ASCII)
_BUILDER = re.compile(r"[a-z][a-z0-9_]{1,60}", re.ASCII)
_CLASS_KEYS = ("_target_", "class_path", "_class_path")
_MOST_LINES = 3


def unnamed(job: JobConfig, parts: Sequence[Part], error: FitError) -> LoaderError:
    """Returns the refusal if no model was given and the file does not fit the example's.

    Args:
        job: The job.
        parts: Its opened parts.
        error: Why the file does not fit the example.

    Returns:
        The same refusal if it is about the example's own files, or says how the file fits it.
    """
    if job.model != EXAMPLE or job.checkpoint.paths[0].startswith(_SHIPPED):
        return error
    if error.proposed:
        refusal = FitError(f"{error.message}\nno model was given; the default is {EXAMPLE[TARGET]}", *error.fixes)
        refusal.plan, refusal.proposed = error.plan, True
        return refusal
    loaded = len(error.plan.loaded) if error.plan is not None else 0
    place = source(job.checkpoint)
    lines = [
        *_named(parts[0]),
        typed("mode=scaffold", "model._target_=my_pkg.Net", *place, note="writes the config for your class"),
        typed("model._target_=my_pkg.Net", *place),
    ]
    return ConfigError(
        f"no model was given, and {parts[0].checkpoint.label} does not fit the default example, "
        f"{EXAMPLE[TARGET]} ({counted(loaded, 'key')} would be loaded); expected the class of its model",
        *lines,
    )


def _named(part: Part) -> list[Fix]:
    """Returns the lines for an architecture that the file or its folder names."""
    settings, root = part.config.checkpoint, part.checkpoint.root
    lines = []
    best = next((found for found in candidates(root) if found.holds_model), None)
    if best is not None:
        words = located(settings, best.key)
        lines = [
            embedded_line(words, root.record),
            pickled_line(words, needed_globals(best.container.record) if best.is_pickled else []),
        ]
    place = source(settings)
    for node in _nodes(dict(_entries(root))):
        lines.append(typed(*(override(f"model.{name}", value) for name, value in node.items()), *place))
    if isinstance(settings.path, str) and not is_url(settings.path):
        lines += _by_folder(part, place)
    return [line for line in lines if line][:_MOST_LINES]


def _entries(root: Container) -> Iterator[tuple[str, object]]:
    """Yields the plain values next to the weights by dotted key, also those in pickled objects such as a Namespace."""
    for key, container in root.walk():
        prefix = f"{key}." if key else ""
        for name, child in container.children.items():
            if not isinstance(child, Leaf):
                continue
            yield f"{prefix}{name}", child.record
            state = child.record.state if isinstance(child.record, Reduced) else None
            for inner, value in state.pairs() if isinstance(state, PickledDict) else ():
                yield f"{prefix}{name}.{inner}", value


def _nodes(entries: Mapping[str, object]) -> Iterator[Mapping[str, Any]]:
    """Yields the classes and builders that entries next to the weights name, with their plain arguments."""
    for key, name in entries.items():
        prefix, _, last = key.rpartition(".")
        if not isinstance(name, str):
            continue
        if last in _CLASS_KEYS and _CLASS.fullmatch(name) and not is_hostile(name):
            inside = prefix if last == "_target_" else f"{prefix}.init_args".strip(".")
            yield {TARGET: name, **_arguments(entries, inside)}
        elif key == "arch" and _BUILDER.fullmatch(name):
            yield {TARGET: f"torchvision.models.{name}"}


def _arguments(entries: Mapping[str, object], inside: str) -> dict[str, Any]:
    prefix = f"{inside}." if inside else ""
    own = {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}
    return {
        name: value
        for name, value in own.items()
        if name.isidentifier() and name not in _CLASS_KEYS and isinstance(value, _PLAIN)
    }


def _by_folder(part: Part, place: Sequence[str]) -> list[Fix]:
    """Returns the line for the architecture in a folder's ``config.json``, of transformers or timm."""
    path = Path(part.checkpoint.path)
    folder = path if path.is_dir() else path.parent
    tensors = sum(len(container.tensors()) for _, container in part.checkpoint.root.walk())
    try:
        node = published(folder, tensors)
        content = (config_in(folder) or {}) if node is None else {}
    except LoaderError:  # a damaged or forbidden config offers nothing
        return []
    if node is not None:
        whole = override("checkpoint.path", str(folder))
        return [typed("mode=scaffold", whole, note=f"{CONFIG} names {safe_text(node[TARGET])}")]
    name = content.get("architecture")
    if not isinstance(name, str) or not _BUILDER.fullmatch(name):
        return []
    classes = content.get("num_classes")
    sized = [override("model.num_classes", classes)] if type(classes) is int else []
    return [typed("model._target_=timm.create_model", override("model.model_name", name), *sized, *place)]
