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
        f"{out}/model.safetensors already exists, and was not written by a conversion; only the result of the "
        "same conversion is replaced"
    )
    assert refusal.hint == f"rm {out}/model.safetensors   # if it is not needed any more, or another convert.path"
    assert (out / "model.safetensors").read_bytes() == before
    (out / "model.safetensors").write_text("no checkpoint")
    assert "was not written by a conversion" in refused(source, out).message


def test_an_index_and_shards_of_somebody_else_stay(source: Path, out: Path) -> None:
    (out / INDEX).write_text('{"weight_map": {"a": "elsewhere.safetensors"}}')
    assert f"{INDEX} already exists, and names files that a conversion did not write" in refused(source, out).message
    (out / INDEX).write_text("{}")
    assert f"{INDEX} already exists, and is not an index that a conversion wrote" in refused(source, out).message
    (out / INDEX).unlink()
    save_file({"a": torch.zeros(1)}, out / SHARDS[0])
    assert f"{SHARDS[0]} already exists, and was not written by a conversion" in refused(source, out).message


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
    assert f"{out}/model.safetensors already exists, and was converted from source.pt; " in refused(other, out).message


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
        assert refusal.message.endswith(", which is the source of the conversion")
        assert refusal.hint == "convert.path=OTHER.safetensors"
    assert {name: (out / name).read_bytes() for name in names(out)} == before


def test_the_source_is_known_by_another_name_too(source: Path, tmp_path: Path, out: Path) -> None:
    convert(source, out / "a.safetensors")
    (out / "b.safetensors").hardlink_to(out / "a.safetensors")
    refusal = refused(out / "a.safetensors", out / "b.safetensors")
    assert refusal.message == f"convert.path would replace {out}/b.safetensors, which is the source of the conversion"


def test_a_part_of_the_source_is_the_source(source: Path, out: Path) -> None:
    save_file(nn.Linear(3, 2).state_dict(), out / "model.safetensors")
    save(nn.Linear(2, 1).state_dict(), out / "b.pt")
    parts = {"a": {"path": str(out / "model.safetensors")}, "b": {"path": str(out / "b.pt")}}
    refusal = refused("", out, model=target("two_models"), parts=parts)
    assert (
        refusal.message == f"convert.path would replace {out}/model.safetensors, which is the source of the conversion"
    )


GOLDEN = ".golden.safetensors"
ASKED = {"verify": {"input": {"shape": [2, 4]}}}
"""A job that runs the model."""


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_place_of_the_golden_record_is_looked_at_too(out: Path) -> None:
    weights = out / f"x.safetensors{GOLDEN}"
    save_file(filled(Two()).state_dict(), weights)
    save_file({"input.0": torch.zeros(2, 4), "output.0": Two()(torch.zeros(2, 4)).detach()}, f"{weights}{GOLDEN}")
    before = kept(out)
    for settings in ({}, ASKED):
        refusal = refused(weights, out / "x.safetensors", **settings)
        assert refusal.message == f"convert.path would replace {weights}, which is the source of the conversion"
        assert refusal.hint == "convert.path=OTHER.safetensors"
    assert kept(out) == before


@pytest.mark.parametrize("name", ["x.safetensors", f"x.safetensors{GOLDEN}", "x.safetensors.index.json",
                                  f"x.safetensors.index.json{GOLDEN}", "x-00001-of-00009.safetensors"])  # fmt: skip
@pytest.mark.parametrize("link", [Path.hardlink_to, Path.symlink_to])
def test_a_link_to_the_source_is_the_source_wherever_a_file_would_stand(
    name: str, link: Callable[[Path, Path], None], source: Path, out: Path
) -> None:
    link(out / name, source)
    before = source.read_bytes()
    refusal = refused(source, out / "x.safetensors")
    assert refusal.message == f"convert.path would replace {out}/{name}, which is the source of the conversion"
    assert source.read_bytes() == before


def test_a_shard_of_the_source_is_known_where_capitals_do_not_count(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that takes both names for one file and lists it under the name that it was made with."""
    convert(save(filled(Two()).state_dict(), tmp_path / "a.pt"), out / "Model.safetensors", "20B")
    for path in [*out.iterdir()]:
        path.with_name(path.name.lower()).hardlink_to(path)
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: (path for path in real(folder) if path.name[0] != "m"))
    refusal = refused(out / "Model.safetensors.index.json", out)
    assert refusal.message.startswith(f"convert.path would replace {out}/{INDEX}, {out}/{SHARDS[0]}, ")


def test_another_name_where_capitals_count_is_no_obstacle(source: Path, out: Path) -> None:
    (out / "Model-00001-of-00002.safetensors").write_bytes(b"of somebody else")
    convert(source, out)
    assert names(out) == ["Model-00001-of-00002.safetensors", "model.safetensors"]


@pytest.mark.parametrize("settings", [{"record": True}, {"golden": "auto"}, {"golden": None}, {"forward": False}])
@pytest.mark.parametrize("name", ["source.pt", "other.pt", "", "OTHER.pt.Golden.safetensors"])
def test_the_name_of_a_golden_record_is_not_taken_by_weights(
    name: str, settings: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    target = tmp_path / (name if name.endswith("s") else f"{name}{GOLDEN}")
    before = kept(tmp_path)
    refusal = refused(source, target, verify={"input": {"shape": [2, 4]}, **settings})
    assert refusal.message == f"'convert.path' is {target}, the name of another file's golden record"
    stem = name.removesuffix(".Golden.safetensors") or "model"
    assert refusal.hint == f"convert.path={tmp_path}/{stem}-converted.safetensors"
    assert kept(tmp_path) == before


def test_a_named_golden_record_is_not_replaced_by_weights(source: Path, out: Path) -> None:
    carry_out("Two", source, verify={"input": {"shape": [2, 4]}, "record": True})
    record = Path(f"{source}{GOLDEN}").rename(out / "model.safetensors")
    refusal = refused(source, out, verify={"golden": str(record)})
    assert refusal.message == (f"convert.path would replace {record}, which is the golden record of the source")


def test_an_input_of_the_verification_is_not_replaced(source: Path, out: Path) -> None:
    convert(source, out, "20B")
    before = kept(out)
    save_file({"x": torch.ones(2, 4)}, out / SHARDS[0])
    refusal = refused(source, out, verify={"input": {"path": str(out / SHARDS[0])}})
    assert refusal.message == f"convert.path would replace {out}/{SHARDS[0]}, which is an input of its verification"
    assert kept(out).keys() == before.keys()


def test_a_golden_record_of_other_weights_stays(source: Path, out: Path) -> None:
    record = out / f"model.safetensors{GOLDEN}"
    record.write_bytes(b"of somebody else")
    refusal = refused(source, out)
    assert refusal.message == (
        f"{record} already exists, and is the golden record of other weights; only the result of the same conversion "
        "is replaced"
    )
    assert refusal.hint == f"rm {record}   # if it is not needed any more, or another convert.path"
    carry_out("Two", source, verify={"input": {"shape": [2, 4]}, "record": True})
    refusal = refused(source, out, **ASKED)
    assert f"{record} already exists, and differs from {source}{GOLDEN}; only" in refusal.message
    assert kept(out) == {record.name: b"of somebody else"}


def test_the_golden_record_of_an_earlier_result_is_replaced_with_it_in_every_form(source: Path, out: Path) -> None:
    carry_out("Two", source, verify={"input": {"shape": [2, 4]}, "record": True})
    for size, expected in (
        ("5GB", ["model.safetensors", f"model.safetensors{GOLDEN}"]),
        ("20B", [*SHARDS, INDEX, f"{INDEX}{GOLDEN}"]),
        ("5GB", ["model.safetensors", f"model.safetensors{GOLDEN}"]),
    ):
        convert(source, out, size, **ASKED)
        assert names(out) == expected
    convert(source, out, verify={"input": {"shape": [5, 4]}, "record": True})
    assert (out / f"model.safetensors{GOLDEN}").read_bytes() == Path(f"{source}{GOLDEN}").read_bytes()
    convert(source, out)
    assert names(out) == ["model.safetensors", f"model.safetensors{GOLDEN}"]


def test_a_golden_record_that_somebody_made_of_the_result_stays(source: Path, out: Path) -> None:
    recorded: dict[str, Any] = {"verify": {"input": {"shape": [2, 4]}, "record": True}}
    convert(source, out, **recorded)
    result, record = out / "model.safetensors", out / f"model.safetensors{GOLDEN}"
    carry_out("Two", result, verify={"input": {"shape": [3, 4]}, "record": True})
    before = kept(out)
    told = f"{record} already exists, and differs from {source}{GOLDEN}"
    assert refused(source, out, **recorded).message.startswith(f"{told}; only ")
    Path(f"{source}{GOLDEN}").unlink()
    assert refused(source, out, **recorded).message.startswith(f"{told}, which does not exist; only ")
    assert kept(out) == before
    assert not Path(f"{source}{GOLDEN}").exists()
