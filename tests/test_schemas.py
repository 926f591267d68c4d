"""The JSON Schemas: up to date, valid themselves, and in agreement with what the loader takes and writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator

from docs import generate, schemas
from loader.api import load
from loader.config.compose import compose
from loader.config.parse import parse_job
from loader.errors import ConfigError
from loader.schema import overlay
from tests.command import REPOSITORY
from tests.schemas import FOLDER, faults, faults_of_file, read

CONF = REPOSITORY / "conf"
GLOBAL = "# @package _global_"
FILES = sorted(
    path for path in CONF.rglob("*.yaml") if path.parent.parent.name != "hydra" or path.parent.name == "clear"
)


@pytest.mark.parametrize("name", generate.SCHEMAS)
def test_a_schema_is_up_to_date_and_valid(name: str) -> None:
    written = (FOLDER / f"{name}.json").read_text(encoding="utf-8")

    assert written == schemas.text(generate.SCHEMAS[name]()), "run: python docs/generate.py"
    Draft202012Validator.check_schema(json.loads(written))


@pytest.mark.parametrize("name", generate.SCHEMAS)
def test_every_field_has_a_description(name: str) -> None:
    def without(node: Any, place: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        named = node.get("properties", {}) if isinstance(node.get("properties", {}), dict) else {}
        own = [f"{place}.{key}" for key, value in named.items() if not {"description", "$ref"} & value.keys()]
        return own + [found for key, value in node.items() for found in without(value, f"{place}.{key}")]

    # Settings of a kind of rule are described by the kind; a defaults list by the groups.
    found = [place for place in without(read(name), "") if ".rule." not in place and ".defaults." not in place]
    assert found == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_every_shipped_config_fulfills_the_schema(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    whole = path.parent == CONF or text.startswith(GLOBAL)

    assert faults(yaml.safe_load(text), "config", None if whole else path.parent.name) == []


@pytest.mark.parametrize(
    "options", [[], ["experiment=two_models", "checkpoint.path=x"], ["rules=[ddp,ema]"], ["rules=auto"]]
)
def test_a_composed_config_fulfills_the_schema(options: list[str]) -> None:
    assert faults(compose(options), "config") == []


ACCEPTED = {
    "rules: [ddp, compile]": None,
    "rules: auto": None,
    "rules: {mine: {strip: module., optional: true}}": None,
    "rules: {mine: {regex: '^a', to: b, enabled: false}}": None,
    r"rules: {a: {split: '\.qkv\.', into: [.q., null, .v.], sizes: [4, 1, 1], groups: 8}}": None,
    "rules: {a: {split: w1, into: 'experts.{}.w1', dim: -1}}": None,
    "rules: {a: {merge: [q, z, s], to: w, by: {gptq: {bits: 4}}}, b: {merge: 'q(.)', to: q, by: sum}}": None,
    "rules: {a: {rearrange: '*', pattern: 'i d -> d', axes: {d: 2}, reduce: mean}}": None,
    "rules: {a: {take: '*', index: [1, 2]}, b: {take: '*', index: '1:'}}": None,
    "rules: {a: {copy: m, into: 'e.{}.', times: 8}, b: {copy: m, into: [a, b]}}": None,
    "rules: {a: {scale: '*.norm.weight', by: 2, plus: 1.0}}": None,
    "rules: {a: {resize: pos, by: bicubic, prefix: 1, grid: [3, 8], file_grid: [4, 6], antialias: true}}": None,
    "rules: {a: {resize: w, by: rows, fill: 0}, b: {resize: w, by: rows, fill: mean}}": None,
    "model: embedded": None,
    "model: null": None,
    "model: ${other.model}": None,
    "seed: ${oc.env:SEED}": None,
    "verify: {input: [{shape: [1, 3]}, {value: 1.5}]}": None,
    "verify: {input: {x: {shape: [1, 3], kind: zeros}}}": None,
    "verify: {input: {a: {x: {shape: [1]}}}}": None,
    "verify: {keep: 0, expect: {shape: [1, 10]}}": None,
    "checkpoint: {path: a.pt, key: auto, allow_globals: argparse.Namespace}": None,
    "parts: {'': {path: a.pt}, head: {key: head, rules: [ddp]}}": None,
    "evaluate: {metrics: {loss: {_target_: my_pkg.loss}}, batch_size: 8}": None,
    "dtype: bfloat16": None,
    "dtype: {'*': bfloat16, '*.norm.*': float32, x: null}": None,
    "device: cuda:3": None,
    "sweep: {skip: [cuda*], compare: {reference: 2}}": None,
    "trusted_targets: [my_pkg.*]": None,
}
"""Configs, laid over the defaults, that both the schema and the loader take."""

REFUSED = (
    "mode: lode",
    "seed: some",
    "seed: 1.5",
    "verify: {forwards: true}",
    "verify: {forward: maybe}",
    "verify: {expect: {shape: wide}}",
    "checkpoint: {path: a.pt, chekc: full}",
    "checkpoint: {path: a.pt, check: most}",
    "checkpoint: {path: a.pt, mmap: maybe}",
    "model: simple_net",
    "model: 3",
    "rules: [dpp]",
    "rules: {mine: {strip: module., to: x}}",
    "rules: {mine: {strip: module., add: x}}",
    "rules: {mine: {stripp: module.}}",
    "rules: {mine: {rename: module.}}",
    "rules: {a: {split: q}}",
    "rules: {a: {split: q, into: [a], dim: first}}",
    "rules: {a: {split: q, into: {b: c}}}",
    "rules: {a: {split: q, into: [a], merge: b, to: c}}",
    "rules: {a: {merge: [q], to: a, groups: [1]}}",
    "rules: {a: {rearrange: q, pattern: 'a -> a', reduce: max}}",
    "rules: {a: {rearrange: q, pattern: 'a -> a', axes: {a: many}}}",
    "rules: {a: {take: q, index: {a: 1}}}",
    "rules: {a: {copy: q, into: [a], times: 1.5}}",
    "rules: {a: {scale: q, by: much}}",
    "rules: {a: {resize: q}}",
    "rules: {a: {resize: q, by: cubic}}",
    "rules: {a: {resize: q, by: rows, fill: 1}}",
    "rules: {a: {resize: q, by: area, grid: 3}}",
    "dtype: [bfloat16]",
    "dtype: {a: [float32]}",
    "parts: [a, b]",
    "parts: {head: {keys: a}}",
    "allow: {missing: {a: b}}",
    "evaluate: {batch_sise: 3}",
    "evaluate: {batch_size: many}",
    "sweep: {compare: {reference: first}}",
    "inspect: {depth: deep}",
    "trusted_targets: {a: b}",
)
"""Configs that both refuse."""


@pytest.mark.parametrize("text", ACCEPTED)
def test_what_the_schema_accepts_the_loader_takes(text: str) -> None:
    given = yaml.safe_load(text)

    assert faults(given, "config") == []
    if "${" not in text:
        parse_job(overlay(compose(), given))


@pytest.mark.parametrize(
    ("settings", "overrides"),
    [
        ({"batch_size": -1}, ["evaluate.batch_size=-1"]),
        ({"batches": 0}, ["evaluate.batches=0"]),
        ({"expect": {"accuracy": {"mn": 1}}}, ["evaluate.expect.accuracy.mn=1"]),
        ({"expect": {"accuracy": {"min": True}}}, ["evaluate.expect.accuracy.min=true"]),
        ({"expect": {"accuracy": 0.9}}, ["evaluate.expect.accuracy=0.9"]),
    ],
)
def test_what_the_schema_refuses_of_a_measurement_the_run_refuses(settings: object, overrides: list[str]) -> None:
    assert faults({"evaluate": settings}, "config") != []
    with pytest.raises(ConfigError, match=r"expected|unknown"):
        load(["evaluate=digits", "device=cpu", *overrides])


@pytest.mark.parametrize("text", REFUSED)
def test_what_the_schema_refuses_the_loader_refuses(text: str) -> None:
    given = yaml.safe_load(text)

    assert faults(given, "config") != []
    with pytest.raises(ConfigError, match=r"expected|unknown|required|which only|no '"):
        parse_job(overlay(compose(), given))


@pytest.mark.parametrize(
    "text",
    [
        "defaults: [_self_, {model: simple_net}, {override /rules: [ddp]}, {optional experiment: x}, {/model: null}]",
        "hydra: {run: {dir: outputs}, sweeper: {params: {seed: '1,2'}}}",
        "my_own_key: {anything: [1, 2]}",
        "checkpoint: ???",
        "mode: ???",
        "allow: null",
    ],
)
def test_the_schema_accepts_what_only_a_file_may_hold(text: str) -> None:
    assert faults(yaml.safe_load(text), "config") == []


def test_an_editor_completes_the_options_of_the_groups() -> None:
    entry = read("config")["properties"]["defaults"]["items"]["anyOf"][1]["properties"]

    assert "simple_net" in entry["override /model"]["anyOf"][0]["enum"]
    assert "ddp" in entry["rules"]["anyOf"][0]["items"]["anyOf"][0]["enum"]
    assert {"ddp", "auto"} <= set(read("config")["$defs"]["rules"]["anyOf"][0]["enum"])


def test_the_reports_of_tests_are_checked(tmp_path: Path) -> None:
    wrong = tmp_path / "elsewhere" / "report.json"
    wrong.parent.mkdir()
    wrong.write_text('{"schema": 1, "status": "fine"}')

    found = faults_of_file(wrong)
    wrong.unlink()

    assert any("'fine' is not one of ['ok', 'failed', 'error']" in fault for fault in found)
    assert any("'exit_code' is a required property" in fault for fault in found)


def test_the_generator_writes_every_schema() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == generate.SCHEMAS.keys()
