"""Makes the JSON Schema of the config, for editors.

Guarantees: it takes what a config file may hold before Hydra has composed it (names of ready-made rules, ``???``,
interpolations, defaults lists), and refuses what the loader refuses. Keys on the top level stay open, since a user's
file may hold keys of their own program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml  # type: ignore[import-untyped]

from docs.docstrings import attribute_docs, doc
from loader.cli.help import DEVICES, DTYPES
from loader.evaluate.bounds import KEYS
from loader.files.path import conf_dir
from loader.formats.sniff import FORMATS
from loader.keys.rules import kinds
from loader.keys.rules.ready import ready_made
from loader.schema import AUTO, EMBEDDED, MODES, CheckpointConfig, EvaluateConfig, InputKind, JobConfig, Rule

Schema = dict[str, Any]

_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", NoneType: "null"}

_OPEN = r"\$\{|^\?\?\?$"
"""Text that stands for a value of any type: an interpolation, or a value that is required."""
_TEXT: Schema = {"type": ["string", "number", "null"]}
_BOUNDS = {
    "min": "The smallest value that is accepted.",
    "max": "The largest value that is accepted.",
    "value": "The expected value.",
    "within": "How far the metric may be from `value`; 1e-6 where it is not set.",
}
_GROUPS = ("model", "checkpoint", "rules", "evaluate")
_ANY_GROUP = r"^(override +|optional +)?/?[\w./@-]+$"


def config_schema() -> Schema:
    """Returns the schema of a config file: a primary config, or an experiment.

    The files of the groups are ``#/$defs/model`` and so on. A null is a value, or unset where a value cannot be null.
    """
    defaults = yaml.safe_load((conf_dir() / "config.yaml").read_text(encoding="utf-8"))
    properties = _settings(JobConfig, defaults)["properties"]
    for name in _GROUPS:
        properties[name] = {"description": properties[name]["description"], "$ref": f"#/$defs/{name}"}
    properties["mode"] |= _suggested(MODES, only=True)
    properties["device"] |= _suggested(DEVICES)
    dtype = _suggested(name for name in DTYPES if name != "null")
    properties["dtype"]["anyOf"] = [*dtype["anyOf"], _free(additionalProperties=dtype)]
    properties["parts"] |= _free(additionalProperties={"$ref": "#/$defs/part"})
    properties["trusted_targets"] |= _list(_TEXT)
    properties["compare"]["properties"]["rules"] = {
        "description": properties["compare"]["properties"]["rules"]["description"],
        "$ref": "#/$defs/rules",
    }
    properties["verify"]["properties"]["input"] |= {"$ref": "#/$defs/inputs"}
    first = {
        "defaults": {"description": "Hydra's defaults list: which options of the groups to use.", **_defaults_list()},
        "hydra": {"description": "Hydra's own settings.", "type": "object"},
    }
    return {
        "title": "config of hydra-loader",
        "description": "A config file: a primary config, or an experiment.",
        "type": "object",
        "properties": first | properties,
        "$defs": _definitions(),
    }


def _definitions() -> dict[str, Schema]:
    checkpoint = {"description": doc(CheckpointConfig), **_settings(CheckpointConfig)}
    checkpoint["properties"]["format"] |= _suggested((AUTO, *FORMATS))
    target = {"_target_": {"description": "The class or function to call.", **_TEXT}}
    named = _options("rules")
    rules = {
        "description": "Named key rules, or the names of ready-made ones.",
        "anyOf": [
            {"enum": named},
            {"type": "array", "items": {"enum": named}},
            {
                "type": ["object", "null"],
                "properties": {name: _ready_made(rule) for one in ready_made().values() for name, rule in one.items()},
                "additionalProperties": {"$ref": "#/$defs/rule"},
            },
            {"$ref": "#/$defs/open"},
        ],
    }
    part = {**checkpoint, "properties": {**checkpoint["properties"], "rules": {"$ref": "#/$defs/rules"}}}
    evaluate = {"description": doc(EvaluateConfig), **_settings(EvaluateConfig)}
    evaluate["properties"] |= {name: {**evaluate["properties"][name], **_free()} for name in ("data", "step")}
    for name in ("batch_size", "batches"):
        evaluate["properties"][name]["minimum"] = 1
    bounds = {name: {"description": _BOUNDS[name], **_setting(float)} for name in KEYS}
    evaluate["properties"]["expect"]["additionalProperties"] = _free(properties=bounds, additionalProperties=False)
    return {
        "open": {"description": "An interpolation, or `???`: a value is required.", "type": "string", "pattern": _OPEN},
        "model": {
            "description": "The architecture: a `_target_` and its arguments.",
            **_free(properties=target, pattern=rf"^{EMBEDDED}$|{_OPEN}"),
        },
        "checkpoint": checkpoint,
        "rules": rules,
        "rule": _rule(),
        "part": {**part, "description": "One part: the settings of `checkpoint`, and its own rules."},
        "evaluate": evaluate,
        "input": _input(),
        "inputs": {
            "description": "One input, a list of inputs, or a mapping of inputs by keyword or by part.",
            "anyOf": [
                {"type": "null"},
                {"$ref": "#/$defs/open"},
                {"$ref": "#/$defs/input"},
                {"type": "array", "items": {"$ref": "#/$defs/inputs"}},
                {"type": "object", "additionalProperties": {"$ref": "#/$defs/inputs"}},
            ],
        },
    }


def _settings(record: type, defaults: Any = None) -> Schema:
    """Returns the schema of a section of the config, with the shipped defaults."""
    docs, hints = attribute_docs(record), get_type_hints(record)
    properties: dict[str, Schema] = {}
    for field in (field for field in dataclasses.fields(record) if field.name in docs):
        hint, known = hints[field.name], defaults.get(field.name) if isinstance(defaults, dict) else None
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            made = _settings(hint, known)
        else:
            made = _setting(hint) | ({"default": known} if known not in (None, "???") else {})
        properties[field.name] = {"description": docs[field.name], **made} if docs[field.name] else made
    return _free(properties=properties, additionalProperties=False)


def _setting(hint: Any) -> Schema:
    """Returns the schema of one setting, which may be an interpolation, or null."""
    inner = [one for one in get_args(hint) if one is not NoneType] if get_origin(hint) in (Union, UnionType) else [hint]
    kind = inner[0]
    if len(inner) > 1:
        return {"anyOf": [_setting(one) for one in inner]}
    if kind is Any:
        return {}
    if kind is str:
        return dict(_TEXT)
    if get_origin(kind) is Literal:
        return _suggested([*get_args(kind), *(int(one) for one in get_args(kind) if one.isdigit())], only=True)
    if kind in _PLAIN:
        return {"type": [_PLAIN[kind], "null", "string"], "pattern": _OPEN}
    if get_origin(kind) is list:
        return _list(_setting(get_args(kind)[0]), alone=get_args(kind)[0] is str)
    if get_origin(kind) is dict and get_args(kind)[1] is not Any:
        return _free(additionalProperties=_setting(get_args(kind)[1]))
    return _free()


def _free(pattern: str = _OPEN, **keywords: Any) -> Schema:
    """Returns the schema of a mapping, for which null or an interpolation may stand."""
    return {"type": ["object", "null", "string"], "pattern": pattern, **keywords}


def _list(items: Schema, *, alone: bool = True) -> Schema:
    """Returns the schema of a list, for which one text may stand where it is a list of texts."""
    return {"type": ["array", "null", "string"], **({} if alone else {"pattern": _OPEN}), "items": items}


def _suggested(names: Iterable[str | int], *, only: bool = False) -> Schema:
    """Returns the schema of a text with values that an editor completes."""
    others = {"$ref": "#/$defs/open"} if only else _TEXT
    return {"anyOf": [{"enum": [*names, None] if only else list(names)}, others]}


def _rule() -> Schema:
    """Returns the schema of one rule: the settings of exactly one kind."""
    flags = _settings(Rule)["properties"]
    every = [
        {
            "description": doc(kind),
            "type": "object",
            "properties": _settings(kind)["properties"] | flags,
            "required": [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING],
            "additionalProperties": False,
        }
        for kind in kinds().values()
    ]
    return {"description": "One rule, of one kind.", "anyOf": [*every, {"$ref": "#/$defs/open"}]}


def _ready_made(rule: Rule) -> Schema:
    """Returns the schema of a ready-made rule's name: another rule, or settings laid over it."""
    settings = {
        "description": f"Settings laid over those of a ready-made rule. {doc(type(rule))}",
        "type": "object",
        "properties": _settings(type(rule))["properties"],
        "additionalProperties": False,
    }
    return {"anyOf": [{"$ref": "#/$defs/rule"}, settings]}


def _input() -> Schema:
    number = {"type": ["number", "boolean", "null", "string"], "pattern": _OPEN}
    properties = {
        "shape": {"description": "The sizes of its dimensions.", **_list(_setting(int), alone=False)},
        "dtype": {"description": "A dtype of torch; the model's for floating inputs that name none.", **_TEXT},
        "kind": {"description": "How its values are made.", **_suggested(get_args(InputKind), only=True)},
        "high": {"description": "The exclusive bound of `randint`.", **_setting(int)},
        "value": {"description": "Its values, or the one that fills its shape.", "anyOf": [number, {"type": "array"}]},
        "path": {"description": "A file with one tensor.", **_TEXT},
    }
    kinds_of = [{"required": [name]} for name in ("shape", "value", "path")]
    made = {"type": "object", "properties": properties, "additionalProperties": False, "anyOf": kinds_of}
    return {"description": "One input of the forward pass.", **made}


def _defaults_list() -> Schema:
    """Returns the schema of a defaults list, with the shipped options of each group."""
    value = {"type": ["string", "null", "array"], "items": {"type": "string"}}
    shipped = {group: {"anyOf": [{"enum": _options(group)}, value]} for group in (*_GROUPS, "experiment")}
    shipped["rules"] = {
        "anyOf": [{"type": "array", "items": {"anyOf": [{"enum": _options("rules")}, {"type": "string"}]}}, value]
    }
    named = {f"{sign}{group}": made for group, made in shipped.items() for sign in ("", "override /")}
    entry = {"type": "object", "properties": named, "patternProperties": {_ANY_GROUP: value}, "maxProperties": 1}
    return {"type": "array", "items": {"anyOf": [{"type": "string"}, entry]}}


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
