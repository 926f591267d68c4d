"""What a conversion replaces, and what it never does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from loader import ConfigError
from tests.jobs import carry_out, save, target
from tests.models import Two, filled

Convert = Callable[..., None]


def convert(source: Path | str, out: Path, size: str = "5GB", model: Any = "Two", **settings: Any) -> None:
    carry_out(model, source, mode="convert", convert={"path": str(out), "shard_size": size}, **settings)


def refused(*arguments: Any, **settings: Any) -> ConfigError:
    with pytest.raises(ConfigError) as refusal:
        convert(*arguments, **settings)
    return refusal.value


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


SHARDS = [f"model-0000{n}-of-00004.safetensors" for n in range(1, 5)]
INDEX = "model.safetensors.index.json"


def test_the_same_conversion_replaces_its_result_whatever_its_form(source: Path, out: Path) -> None:
    convert(source, out)
    assert names(out) == ["model.safetensors"]
    convert(source, out, "20B")
    assert names(out) == [*SHARDS, INDEX]
    convert(source, out, "80B")
    assert names(out) == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX]
    convert(source, out)
    assert names(out) == ["model.safetensors"]


def test_what_no_conversion_wrote_stays(source: Path, out: Path) -> None:
    save_file({"a": torch.zeros(1)}, out / "model.safetensors")
    before = (out / "model.safetensors").read_bytes()
    refusal = refused(source, out)
    assert refusal.message == (
        f"{out}/model.safetensors is there already, and is no file that a conversion wrote; only the result of the "
        "same conversion is replaced"
    )
    assert refusal.hint == f"rm {out}/model.safetensors   # if it is not needed any more, or another convert.path"
    assert (out / "model.safetensors").read_bytes() == before
    (out / "model.safetensors").write_text("no checkpoint")
    assert "is no file that a conversion wrote" in refused(source, out).message


def test_an_index_and_shards_of_somebody_else_stay(source: Path, out: Path) -> None:
    (out / INDEX).write_text('{"weight_map": {"a": "elsewhere.safetensors"}}')
    assert f"{INDEX} is there already, and names files that a conversion did not write" in refused(source, out).message
    (out / INDEX).write_text("{}")
    assert f"{INDEX} is there already, and is no index that a conversion wrote" in refused(source, out).message
    (out / INDEX).unlink()
    save_file({"a": torch.zeros(1)}, out / SHARDS[0])
    assert f"{SHARDS[0]} is there already, and is no file that a conversion wrote" in refused(source, out).message


def test_what_came_from_elsewhere_or_otherwise_stays(source: Path, out: Path) -> None:
    convert(source, out)
    assert "was converted with dtype=null" in refused(source, out, dtype="float16").message
    told = "was converted from another state, or another part, of source.pt"
    save({"state": filled(Two(), 2).state_dict()}, source)
    assert told in refused(source, out, checkpoint={"key": "auto"}).message
    save({"state": filled(Two(), 2).state_dict(), "ema": filled(Two(), 3).state_dict()}, source)
    (out / "model.safetensors").unlink()
    convert(source, out, checkpoint={"key": "state"})
    assert told in refused(source, out, checkpoint={"key": "ema"}).message


def test_what_came_from_another_file_stays(source: Path, out: Path, tmp_path: Path) -> None:
    convert(source, out)
    other = save(filled(Two(), 2).state_dict(), tmp_path / "other.pt")
    assert (
        f"{out}/model.safetensors is there already, and was converted from source.pt; " in refused(other, out).message
    )


def test_the_result_of_found_rules_is_replaced(source: Path, out: Path) -> None:
    save({"net": {f"module.{key}": value for key, value in filled(Two()).state_dict().items()}}, source)
    for _ in range(2):
        convert(source, out, rules="auto", checkpoint={"key": "auto"})


def test_the_source_is_never_replaced(source: Path, out: Path) -> None:
    convert(source, out, "20B")
    embedded = {"_target_": "embedded"}
    before = {name: (out / name).read_bytes() for name in names(out)}
    for path in (out, out / INDEX):
        refusal = refused(path, out, model=embedded, trusted_targets=["tests.*"])
        assert refusal.message.startswith(f"convert.path would replace {out}/{INDEX}, {out}/{SHARDS[0]}, ")
        assert refusal.message.endswith(", which is what is being converted")
        assert refusal.hint == "convert.path=OTHER.safetensors"
    assert {name: (out / name).read_bytes() for name in names(out)} == before


def test_the_source_is_known_by_another_name_too(source: Path, tmp_path: Path, out: Path) -> None:
    convert(source, out / "a.safetensors")
    (out / "b.safetensors").hardlink_to(out / "a.safetensors")
    refusal = refused(out / "a.safetensors", out / "b.safetensors")
    assert refusal.message == f"convert.path would replace {out}/b.safetensors, which is what is being converted"


def test_a_part_of_the_source_is_the_source(source: Path, out: Path) -> None:
    save_file(nn.Linear(3, 2).state_dict(), out / "model.safetensors")
    save(nn.Linear(2, 1).state_dict(), out / "b.pt")
    parts = {"a": {"path": str(out / "model.safetensors")}, "b": {"path": str(out / "b.pt")}}
    refusal = refused("", out, model=target("two_models"), parts=parts)
    assert refusal.message == f"convert.path would replace {out}/model.safetensors, which is what is being converted"
