"""Makes the JSON Schemas of the report and the summary from their docstrings.

Guarantees: the fields of a report and a summary are exactly those of their records, each required and no other allowed:
a schema describes what its own version writes, and the tests check every report that they write.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from docs.docstrings import attribute_docs, doc
from loader.report.data import SCHEMA, Report
from loader.sweep import summary

Schema = dict[str, Any]

FOLDER = Path(__file__).resolve().parent.parent / "loader" / "schemas"

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", NoneType: "null"}


def text(schema: Mapping[str, Any]) -> str:
    """Returns a schema as its file has it."""
    return json.dumps({"$schema": _DRAFT, **schema}, indent=2, ensure_ascii=False) + "\n"


def report_schema() -> Schema:
    """Returns the schema of ``report.json``; what only some modes write is not required."""
    definitions: dict[str, Schema] = {}
    made = _record(Report, definitions)
    made["properties"] = {"schema": {"description": "Version of the report's format.", "const": SCHEMA}} | made[
        "properties"
    ]
    always = Report().to_dict()
    made["required"] = [name for name in made["properties"] if name in always]
    return {"title": "report.json of hydra-loader", **made, "$defs": definitions}


def summary_schema(meanings: Mapping[str, str]) -> Schema:
    """Returns the schema of ``summary.json``, whose totals are whole numbers.

    Args:
        meanings: The meaning of each field of the top level.
    """
    definitions: dict[str, Schema] = {}
    others: dict[str, Schema] = {
        "schema": {"const": summary.SCHEMA},
        "best": {"type": "object", "additionalProperties": {"type": "integer"}},
        "jobs": _value(get_type_hints(summary.Summary)["jobs"], definitions),
    }
    return {
        "title": "summary.json of hydra-loader",
        "description": "All jobs of a sweep.",
        "type": "object",
        "properties": {
            name: {"description": meaning, **others.get(name, {"type": "integer"})}
            for name, meaning in meanings.items()
        },
        "required": list(meanings),
        "additionalProperties": False,
        "$defs": definitions,
    }


def _record(record: type, definitions: dict[str, Schema]) -> Schema:
    """Returns the schema of a record; those of the records in it are added to the definitions."""
    docs, hints = attribute_docs(record), get_type_hints(record)
    names = [field.name for field in dataclasses.fields(record)]
    properties = {name: {"description": docs[name], **_value(hints[name], definitions)} for name in names}
    return {
        "description": doc(record),
        "type": "object",
        "properties": properties,
        "required": names,
        "additionalProperties": False,
    }


def _value(hint: Any, definitions: dict[str, Schema]) -> Schema:
    """Returns the schema of a value of a type, as JSON has it."""
    if hint is Any:
        return {}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        definitions.setdefault(hint.__name__, _record(hint, definitions))
        return {"$ref": f"#/$defs/{hint.__name__}"}
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(inner)}
    if isinstance(hint, UnionType):
        members = [_value(member, definitions) for member in inner]
        simple = all(member.keys() == {"type"} for member in members)
        return {"type": [member["type"] for member in members]} if simple else {"anyOf": members}
    if origin is list:
        return {"type": "array", **_of("items", _value(inner[0], definitions))}
    if origin is dict:
        return {"type": "object", **_of("additionalProperties", _value(inner[1], definitions))}
    raise TypeError(f"{hint} has no schema")


def _of(keyword: str, schema: Schema) -> Schema:
    return {keyword: schema} if schema else {}
