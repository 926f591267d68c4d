"""The public surface: names and signatures, config keys, report fields, exit codes and what readers need.

A failure here means that a user's code, configs or scripts may break: CONTRIBUTING.md says how a name is retired. After
an intended change, `python -m tests.test_public_surface` writes the snapshot anew.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import hydra_loader
import loader
from loader import errors
from loader.config.compose import compose
from loader.files.file import CheckpointFile
from loader.formats import tree
from loader.formats.extensions import Reader
from loader.report import data
from tests.command import REPOSITORY

SNAPSHOT = REPOSITORY / "tests" / "public_surface.json"


def records(module: Any) -> dict[str, dict[str, str]]:
    """The fields of a module's own dataclasses, with their types."""
    return {
        name: {field.name: str(field.type) for field in dataclasses.fields(kind)}
        for name, kind in sorted(vars(module).items())
        if dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
    }


def flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The config's keys, dotted, with their defaults; a model's arguments and a rule's are the user's own."""
    if not isinstance(node, dict) or not node or path in {"model", "rules", "parts"}:
        yield path, node
        return
    for key, value in node.items():
        yield from flat(value, f"{path}.{key}" if path else key)


def signature(name: str) -> str:
    return str(inspect.signature(getattr(loader, name)))


def for_readers() -> dict[str, Any]:
    """What a reader of another distribution needs, and what it has to fulfil."""
    made = {name: fields for name, fields in records(tree).items() if name in {"Container", "Leaf"}}
    functions: list[Callable[..., Any]] = [tree.stored, Reader.recognises, Reader.read]
    functions += [CheckpointFile.pread, CheckpointFile.damaged, CheckpointFile.ends_early]
    return {**made, **{each.__qualname__: str(inspect.signature(each)) for each in functions}}


def surface() -> dict[str, Any]:
    """Everything that a user may rely on, as text."""
    refusals = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LoaderError)
    ]
    return {
        "names": {name: signature(name) for name in sorted(loader.__all__)},
        "config": dict(flat(compose([]))),
        "report": records(data),
        "report schema": data.SCHEMA,
        "readers": for_readers(),
        "exit codes": {kind.__name__: kind.exit_code for kind in refusals},
    }


def test_the_public_surface_is_as_it_was() -> None:
    assert surface() == json.loads(SNAPSHOT.read_text())


def test_both_names_have_the_same_version_and_names() -> None:
    assert hydra_loader.__version__ == loader.__version__ == "0.2.0"
    assert sorted(loader.__all__) == sorted(hydra_loader.__all__)


def test_every_public_name_leads_somewhere() -> None:
    assert all(getattr(loader, name) is not None for name in loader.__all__)
    assert sorted(dir(loader)) == sorted(loader.__all__)


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(surface(), indent=2, sort_keys=True) + "\n")
