"""Where a conversion writes, and what is wrong with a place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from loader import ConfigError
from loader.modes.convert.destination import Destination, destination
from loader.schema import ConvertConfig
from tests.jobs import carry_out, save


def at(path: Path | str, size: str = "5GB") -> Destination:
    return destination(ConvertConfig(path=str(path), shard_size=size))


def refusal(**settings: Any) -> ConfigError:
    with pytest.raises(ConfigError) as refused:
        destination(ConvertConfig(**settings))
    return refused.value


def test_a_file_gives_its_name_to_the_shards_and_the_index(tmp_path: Path) -> None:
    place = at(tmp_path / "net.v2.safetensors")
    assert place.single == tmp_path / "net.v2.safetensors"
    assert place.index == tmp_path / "net.v2.safetensors.index.json"
    assert place.shard(2, 31) == tmp_path / "net.v2-00002-of-00031.safetensors"


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_folder_takes_the_names_that_other_libraries_look_for(ending: str, tmp_path: Path) -> None:
    place = at(f"{tmp_path}{ending}")
    assert (place.single, place.index) == (tmp_path / "model.safetensors", tmp_path / "model.safetensors.index.json")
    assert place.shard(1, 2).name == "model-00001-of-00002.safetensors"


def test_the_line_to_type_names_the_file_as_the_folder_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    assert at("net.safetensors").typed(Path("/x/net.safetensors")) == "net.safetensors"
    assert at("out/").typed(Path("/x/model.safetensors")) == "out/model.safetensors"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("500MB", 5 * 10**8),
        ("2.5 kb", 2500),
        ("1tb", 10**12),
        ("7", 7),
        ("12B", 12),
        ("3m", 3 * 10**6),
        ("1.5GiB", 3 * 2**29),
    ],
)
def test_sizes_are_decimal(text: str, size: int, tmp_path: Path) -> None:
    assert at(tmp_path, text).shard_size == size


@given(st.integers(1, 999), st.sampled_from(["B", "KB", "MB", "GB", "TB"]))
def test_a_size_is_its_number_in_its_unit(number: int, unit: str) -> None:
    factor = 1000 ** ["B", "KB", "MB", "GB", "TB"].index(unit)
    assert at("/", f"{number}{unit}").shard_size == number * factor


@pytest.mark.parametrize("text", ["", "many", "-1", "0", "5Gi", "1e9", "GB", "9" * 400])
def test_a_size_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    refused = refusal(path=str(tmp_path), shard_size=text)
    assert refused.message.startswith("'convert.shard_size' is '")
    assert refused.message.endswith("', expected a size such as 5GB, 500MB or a number of bytes")
    assert refused.hint == "convert.shard_size=5GB"


def test_all_that_is_wrong_is_told_at_once() -> None:
    refused = refusal(path=None, shard_size="many")
    assert refused.message == (
        "'convert.shard_size' is 'many', expected a size such as 5GB, 500MB or a number of bytes; "
        "'convert.path' is required in mode=convert"
    )
    assert refused.hint == "convert.shard_size=5GB\nconvert.path=model.safetensors"
    assert refused.exit_code == 2


def test_a_url_is_no_place(tmp_path: Path) -> None:
    refused = refusal(path="s3://bucket/net.safetensors")
    assert refused.message == "'convert.path' is s3://bucket/net.safetensors, expected a file on this machine"


@pytest.mark.parametrize(("name", "fixed"), [("net.pt", "net"), ("net", "net"), (".safetensors", "model")])
def test_another_ending_is_refused_with_the_right_one(name: str, fixed: str, tmp_path: Path) -> None:
    refused = refusal(path=f"{tmp_path}/{name}")
    assert refused.message == f"'convert.path' is {tmp_path}/{name}, expected a file called *.safetensors, or a folder"
    assert refused.hint == f"convert.path={tmp_path}/{fixed}.safetensors"


def test_a_folder_that_is_not_there_is_refused_with_the_line_that_makes_it(tmp_path: Path) -> None:
    for path in (tmp_path / "a b" / "net.safetensors", f"{tmp_path}/a b/"):
        refused = refusal(path=str(path))
        assert refused.message == f"the folder to write to, {tmp_path}/a b, does not exist"
        assert refused.hint == f"mkdir -p '{tmp_path}/a b'"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = f"convert.path leads through {tmp_path}/file, which is not a folder"
    assert refusal(path=f"{tmp_path}/file/net.safetensors").message == told


def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused = refusal(path=f"{tmp_path}/net.safetensors")
    assert refused.message == f"this user may not write to the folder {tmp_path}"
    assert refused.hint == f"chmod u+wx {tmp_path}   # or another one"


@pytest.mark.parametrize(
    "path", ["x" * 300 + "/net.safetensors", "a\0b.safetensors", "~nobody-of-this-name/net.safetensors"]
)
def test_a_path_that_is_none_is_refused(path: str) -> None:
    assert refusal(path=path).exit_code == 2


def test_the_place_is_looked_at_before_the_checkpoint(tmp_path: Path) -> None:
    for convert in ({}, {"path": f"{tmp_path}/none/net.safetensors"}):
        with pytest.raises(ConfigError, match=r"convert\.path|the folder to write to"):
            carry_out("Two", tmp_path / "missing.pt", mode="convert", convert=convert)


def test_nothing_is_converted_on_the_meta_device(tmp_path: Path) -> None:
    path = save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="mode=convert writes weights, and device=meta has none") as refused:
        carry_out("Two", path, mode="convert", convert={"path": str(tmp_path)}, device="meta")
    assert refused.value.hint == "device=cpu"


def test_a_pickled_model_has_no_config_to_embed(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(ConfigError) as refused:
        carry_out(None, tmp_path / "whole.pt", mode="convert", convert={"path": str(tmp_path)})
    assert refused.value.message == (
        "a pickled model has no config that could go into the converted file, and convert.embed is true"
    )
    assert refused.value.hint == "convert.embed=false   # writes the weights alone"


def test_a_config_that_json_cannot_hold_is_refused_by_place(tmp_path: Path) -> None:
    node = {
        "_target_": "tests.models.Arguments",
        "sizes": (3, 2),
        "options": {1: "a", "b": [float("nan")]},
        "dtype": torch.float16,
    }
    with pytest.raises(ConfigError) as refused:
        carry_out(node, tmp_path / "missing.pt", mode="convert", convert={"path": str(tmp_path)})
    assert refused.value.message == (
        "the model's config cannot go into the converted file: model.sizes is a tuple, model.options has the key 1, "
        "which is not text, model.options.b.0 is nan, model.dtype is a dtype; text, numbers, true, false, null, lists "
        "and mappings of these were expected"
    )


def test_a_config_that_is_too_long_is_refused(tmp_path: Path) -> None:
    node = {"_target_": "tests.models.Arguments", "sizes": [3, 2], "options": {"a": "x" * 1_000_001}}
    with pytest.raises(ConfigError, match=r"would take 1,000,\d+ characters in the converted file, more than the "):
        carry_out(node, tmp_path / "missing.pt", mode="convert", convert={"path": str(tmp_path)})
