"""The JSON Schemas of the package, and whether something fulfills them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

FOLDER = Path(__file__).resolve().parent.parent / "loader" / "schemas"
OF_FILES = {"report.json": "report", "summary.json": "summary"}
"""The schema of each file that a run or a sweep writes."""


def read(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return schema


@functools.cache
def validator(name: str, definition: str | None = None) -> Draft202012Validator:
    """The validator of a schema, or of one of its definitions."""
    schema = read(name)
    return Draft202012Validator(
        schema if definition is None else {**schema["$defs"][definition], "$defs": schema["$defs"]}
    )


def faults(content: Any, name: str, definition: str | None = None) -> list[str]:
    """What a schema refuses in something, each with its place."""
    found = validator(name, definition).iter_errors(content)
    return [f"{fault.json_path}: {fault.message[:300]}" for fault in found]


def faults_of_file(path: Path) -> list[str]:
    """What the schemas refuse in a report, with its config if the run ended well, or in a summary."""
    content = json.loads(path.read_text(encoding="utf-8"))
    found = faults(content, OF_FILES[path.name])
    if not found and content.get("status") == "ok":
        found += [f"config: {fault}" for fault in faults(content["config"], "config")]
    return found
