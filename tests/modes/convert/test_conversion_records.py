"""What a converted file says is read as the data of a stranger."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from loader import CheckpointError, ConfigError, LoaderError
from loader.builder.record import Record, Source, is_input, read_record, to_text, unwritable
from loader.parts.open import open_checkpoint
from tests.formats.sharding import write_index
from tests.jobs import carry_out, save
from tests.models import filled

LINEAR = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}
GOOD: dict[str, Any] = {"schema": 1, "version": "0", "sources": {}, "model": LINEAR, "input": None, "dtype": None}


def holding(record: object, path: Path) -> Path:
    text = record if isinstance(record, str) else json.dumps(record)
    save_file(filled(nn.Linear(3, 2)).state_dict(), path, {"format": "pt", "hydra_loader": text})
    return path


def embedded(path: Path, **settings: Any) -> Any:
    settings.setdefault("verify", {"forward": False})
    return carry_out({"_target_": "embedded", **settings.pop("model", {})}, path, **settings)


def refusal(path: Path, kind: type[LoaderError] = ConfigError, **settings: Any) -> LoaderError:
    with pytest.raises(kind) as refused:
        embedded(path, **settings)
    return refused.value


def test_a_record_rebuilds_the_model(tmp_path: Path) -> None:
    assert isinstance(embedded(holding(GOOD, tmp_path / "a.safetensors")).model, nn.Linear)


def parameters(content: Any) -> dict[str, Any]:
    return {**GOOD, "model": {"_target_": "torch.nn.ParameterDict", "parameters": content}}


@pytest.mark.parametrize("name", ["_parameters", "_modules", "_buffers", "__dict__", "__class__", "_forward_hooks"])
def test_a_record_sets_nothing_that_a_module_keeps_for_itself(name: str, tmp_path: Path) -> None:
    for content in ({name: 3}, [[name, 3]]):
        path = holding(parameters(content), tmp_path / "a.safetensors")
        refused = refusal(path)
        assert refused.message == (
            f"the model config in {path} sets {name}, reserved by Python or nn.Module: do not build a "
            "model from this file"
        )
        assert refused.hint.startswith("model._target_=my_pkg.Net   # ")


@pytest.mark.parametrize("name", ["named_modules", "eval", "state_dict"])
def test_a_record_puts_no_value_in_the_place_of_a_method(name: str, tmp_path: Path) -> None:
    refused = refusal(holding(parameters({name: 3}), tmp_path / "a.safetensors"))
    assert refused.message.endswith(f"made an invalid module: an attribute hides {name}")


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ("no JSON", "it is not JSON (Expecting value"),
        ("[" * 100_000, "it is not JSON (maximum recursion depth exceeded"),
        ("x" * 1_000_001, "1,000,001 characters, more than the 1,000,000 allowed"),
        ('{"schema": 1, "schema": 1}', "it names 'schema' twice"),
        ('{"schema": NaN}', "it is not JSON (NaN is not JSON"),
        ([], "it is not a mapping"),
        ({}, "'schema' is not an integer"),
        ({**GOOD, "schema": True}, "'schema' is not an integer"),
        ({**GOOD, "schema": 2}, "unsupported schema 2 (expected 1)"),
        ({**GOOD, "code": "import os"}, "unknown field 'code'"),
        ({**GOOD, "sources": []}, "'sources' is not a mapping"),
        (
            {**GOOD, "sources": {"": {"file": 1, "sha256": "", "key": None, "rules": {}}}},
            "'sources' has an invalid entry",
        ),
        (
            {**GOOD, "sources": {"": {"file": "", "sha256": "", "key": None, "rules": 1}}},
            "'sources' has an invalid entry",
        ),
        ({**GOOD, "sources": {"": {"file": "", "sha256": ""}}}, "'sources' has an invalid entry"),
        ({**GOOD, "model": "torch.nn.Linear"}, "'model' is not a config"),
        ({**GOOD, "input": {"path": "/etc/passwd"}}, "'input' is not an input spec, or has too many elements"),
        ({**GOOD, "input": {"shape": [(1 << 24) + 1]}}, "'input' is not an input spec, or has too many elements"),
        ({**GOOD, "dtype": "float128"}, "invalid 'dtype'"),
        ({**GOOD, "dtype": ["float16"]}, "invalid 'dtype'"),
    ],
)
def test_a_record_that_no_conversion_wrote_is_refused(record: object, told: str, tmp_path: Path) -> None:
    path = holding(record, tmp_path / "a.safetensors")
    refused = refusal(path, CheckpointError)
    assert refused.message.startswith(f"invalid conversion record in {path}: {told}")
    assert refused.hint == "model._target_=my_pkg.Net   # the weights load into a declared model without it"
    assert carry_out(LINEAR, path).report.keys.loaded == 2


@pytest.mark.parametrize(
    "name", ["os.system", "torch.load", "loader.load_model", "loader.examples.files.write_examples", "x'; rm -rf ~ #.y"]
)
def test_what_an_attack_would_call_is_refused_by_name(name: str, tmp_path: Path) -> None:
    nested = {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": name, "command": "touch x"}]}
    path = holding({**GOOD, "model": nested}, tmp_path / "a.safetensors")
    refused = refusal(path)
    assert refused.message == (
        f"the model config in {path} names {name}, which no model needs and an attack would use: do not build a model "
        "from this file"
    )
    assert refused.hint == "model._target_=my_pkg.Net   # the weights load into a declared model without it"
    assert refused.exit_code == 2


def test_a_lookup_is_judged_by_what_it_looks_up(tmp_path: Path) -> None:
    nested = {**LINEAR, "dtype": {"_target_": "hydra.utils.get_object", "path": "os.system"}}
    assert (
        "names os.system, which no model needs" in refusal(holding({**GOOD, "model": nested}, tmp_path / "a")).message
    )
    nested = {**LINEAR, "dtype": {"_target_": "hydra.utils.get_object", "path": "torch.float32"}}
    embedded(holding({**GOOD, "model": nested}, tmp_path / "b"))


def test_a_name_that_leads_elsewhere_is_refused_for_what_it_is(tmp_path: Path) -> None:
    nested = {**LINEAR, "bias": {"_target_": "torch.nn.modules.linear.math.sqrt", "_args_": [1]}}
    embedded(holding({**GOOD, "model": {**nested, "bias": True}}, tmp_path / "a"))
    nested["bias"] = {"_target_": "torch.nn.modules.module.torch.load", "f": "x"}
    assert (
        "it is really torch.serialization.load, which"
        in refusal(holding({**GOOD, "model": nested}, tmp_path / "b")).message
    )


def test_only_torchs_and_the_loaders_own_may_be_called_unless_the_user_says_so(tmp_path: Path) -> None:
    path = holding({**GOOD, "model": {"_target_": "tests.models.Two"}}, tmp_path / "a.safetensors")
    refused = refusal(path)
    assert refused.message == (
        f"the model config in {path} names tests.models.Two; for a config from a file only torch.nn.* and "
        "loader.examples.* may be called"
    )
    line = "'trusted_targets=[torch.nn.*,loader.examples.*,tests.models.Two]'"
    assert refused.hint == f"{line}   # if you trust them"
    with pytest.raises(LoaderError, match="does not fit the model"):
        embedded(path, trusted_targets=line.strip("'").partition("=")[2].strip("[]").split(","))


def test_a_narrower_list_is_narrower(tmp_path: Path) -> None:
    path = holding(GOOD, tmp_path / "a.safetensors")
    assert refusal(path, trusted_targets=["my_pkg.*"]).message.endswith("only my_pkg.* may be called")
    assert refusal(path, trusted_targets=[]).message.endswith("only nothing may be called")


def test_nothing_in_a_record_is_interpolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "told")
    options = {"a": "${oc.env:SECRET}", "b": "\\${oc.env:SECRET}"}
    node = {"_target_": "tests.models.Arguments", "sizes": [3, 2], "options": options}
    state = {f"linear.{key}": value for key, value in filled(nn.Linear(3, 2)).state_dict().items()}
    save_file(state, tmp_path / "a", {"hydra_loader": json.dumps({**GOOD, "model": node})})
    loaded = embedded(tmp_path / "a", trusted_targets=["tests.*"])
    assert loaded.model.given[1] == options
    assert "told" not in json.dumps(loaded.report.to_dict())


def test_a_file_without_a_config_is_told_how_one_is_made(tmp_path: Path) -> None:
    for path in (tmp_path / "a.safetensors", save(nn.Linear(3, 2).state_dict(), tmp_path / "b.pt")):
        if path.suffix == ".safetensors":
            save_file(nn.Linear(3, 2).state_dict(), path)
        refused = refusal(path)
        assert refused.message == f"{path} holds no model config; only files that mode=convert wrote do"
        assert refused.hint.startswith("model._target_=my_pkg.Net mode=convert convert.path=converted.safetensors")


def test_a_file_converted_without_its_config_says_so(tmp_path: Path) -> None:
    path = holding({**GOOD, "model": None}, tmp_path / "a.safetensors")
    refused = refusal(path)
    assert refused.message == f"{path} holds no model config: it was converted with convert.embed=false"
    assert refused.hint == "model._target_=my_pkg.Net"


def test_several_files_have_no_one_config(tmp_path: Path) -> None:
    parts = {name: {"path": str(holding(GOOD, tmp_path / name))} for name in "ab"}
    refused = refusal(tmp_path / "a", parts=parts)
    assert refused.message == "model=embedded takes the config from the job's only checkpoint, but this job has 2"


def test_shards_that_disagree_have_no_config(tmp_path: Path) -> None:
    state = filled(nn.Linear(3, 2)).state_dict()
    for name, width in (("weight", 3), ("bias", 4)):
        record = json.dumps({**GOOD, "model": {**LINEAR, "in_features": width}})
        save_file({name: state[name]}, tmp_path / f"{name}.safetensors", {"hydra_loader": record})
    index = write_index(tmp_path, {name: f"{name}.safetensors" for name in state})
    assert refusal(index).message == f"{index} holds no model config; only files that mode=convert wrote do"


def test_an_input_of_the_users_own_comes_first(tmp_path: Path) -> None:
    path = holding({**GOOD, "input": {"shape": [5, 3]}}, tmp_path / "a.safetensors")
    shapes = [
        embedded(path, verify=verify).report.verification.inputs[0]["shape"]
        for verify in ({}, {"input": {"shape": [7, 3]}})
    ]
    assert shapes == [[5, 3], [7, 3]]


@pytest.mark.parametrize(
    "spec",
    [
        {"shape": [1, 3], "dtype": "int64", "kind": "randint", "high": 5},
        [{"shape": [1]}, {"shape": []}],
        {"x": {"shape": [1]}, "mask": {"shape": [2], "dtype": None}},
        {"a": [{"shape": [1]}], "b": {"x": {"shape": [0]}}},
    ],
)
def test_inputs_that_are_made_may_travel(spec: Any) -> None:
    assert is_input(spec)


@pytest.mark.parametrize(
    "spec",
    [
        *(None, [], {}, "x", 3, {"path": "x.pt"}, {"value": [1]}, {"shape": [1], "path": "x.pt"}, {"shape": "1"}),
        *(
            {"shape": [1.5]},
            {"shape": [True]},
            {"shape": [-1]},
            {"shape": [1], "high": True},
            [[[]]],
            {"shape": [0] * 65},
        ),
        [{"shape": [60_000_000]}, {"shape": [60_000_000]}],
    ],
)
def test_other_inputs_do_not(spec: Any) -> None:
    assert not is_input(spec)


PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Opened:
    """As much of a checkpoint as a record is read from."""

    def __init__(self, text: str) -> None:
        self.path = Path("x.safetensors")
        self.root = type("Root", (), {"record": {"hydra_loader": text}})()


@given(st.dictionaries(st.text(), PLAIN, max_size=3), st.sampled_from([None, "float16", "checkpoint"]))
def test_a_record_comes_back_as_it_was_written(model: Mapping[str, Any], dtype: str | None) -> None:
    assert list(unwritable(model, "model")) == []
    record = Record({"": Source("a.pt", "0" * 64, "ema", {"ddp": {"strip": "module."}})}, model, {"shape": [1]}, dtype)
    opened: Any = Opened(to_text(record))
    assert read_record(opened) == record


@given(st.text() | PLAIN.map(json.dumps) | PLAIN.map(lambda value: json.dumps({**GOOD, "model": value})))
def test_whatever_a_record_is_it_is_read_or_refused(text: str) -> None:
    opened: Any = Opened(text)
    with contextlib.suppress(CheckpointError):
        found = read_record(opened)
        assert found is not None
        assert found.model is None or isinstance(found.model, dict)


def test_a_file_of_another_kind_has_no_record(tmp_path: Path) -> None:
    with open_checkpoint(save({"hydra_loader": json.dumps(GOOD)}, tmp_path / "a.pt")) as opened:
        assert read_record(opened) is None
