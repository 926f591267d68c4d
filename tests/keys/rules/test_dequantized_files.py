"""Dequantizing from every kind of file, out of damaged ones, and out of those that bitsandbytes itself writes."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_saver import save as save_dcp

import loader
from loader.errors import CheckpointError, LoaderError, VerificationError
from tests.keys.rules import test_packed as packed
from tests.keys.rules.dequantizing import join, values_of
from tests.keys.rules.test_quantized import float8, four_bits, random
from tests.keys.rules.test_ready_dequantizers import file, loaded

FOUR = four_bits()
NAMED = {"weight": "weight", "absmax": "weight.absmax", "quant_map": "weight.quant_map"}
LAYER = {NAMED.get(role, "weight.quant_state.bitsandbytes__nf4"): value for role, value in FOUR.items()}


def state(folder: Path) -> dict[str, Tensor]:
    return load_file(file(folder, LAYER, 2))


def deflated(content: object, path: Path) -> None:
    torch.save(content, path.with_suffix(".stored"))
    with (
        zipfile.ZipFile(path.with_suffix(".stored")) as stored,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for record in stored.infolist():
            new.writestr(record.filename, stored.read(record))


WRITERS = {
    "safetensors": save_file,
    "zip": torch.save,
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "deflated": deflated,
    "folder": lambda content, path: save_dcp(content, checkpoint_id=str(path), no_dist=True),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file(name: str, tmp_path: Path) -> None:
    writer: Any = WRITERS[name]
    writer(state(tmp_path), tmp_path / "file")
    expected = values_of(join("bnb4"), FOUR)

    for settings in ({}, {"checkpoint": {"mmap": False}}, {"dtype": "checkpoint"}, {"dtype": "bfloat16"}):
        found = loaded(tmp_path / "file", 2, 5, ["bnb4"], **settings)["fc.weight"]

        assert found.dtype == {"checkpoint": torch.float16, "bfloat16": torch.bfloat16}.get(
            str(settings.get("dtype")), torch.float32
        )
        assert torch.equal(found, expected.to(found.dtype))


def test_a_damaged_record_is_a_damaged_file(tmp_path: Path) -> None:
    torch.save(state(tmp_path), tmp_path / "file.pt")
    content = bytearray((tmp_path / "file.pt").read_bytes())
    content[content.find(b'"blocksize"') + 14] ^= 1
    (tmp_path / "file.pt").write_bytes(content)

    with pytest.raises(CheckpointError, match=r"is damaged: checksum mismatch .* with them: fc\.weight\.quant_state"):
        loaded(tmp_path / "file.pt", 2, 5, ["bnb4"])


def test_a_scale_that_is_not_a_number_fails_verification(tmp_path: Path) -> None:
    content = {**state(tmp_path), "fc.weight.absmax": torch.tensor([torch.nan, 1.0, 1.0])}
    torch.save(content, tmp_path / "file.pt")

    with pytest.raises(VerificationError, match=r"inf or nan in fc\.weight"):
        loaded(tmp_path / "file.pt", 2, 5, ["bnb4"])


def test_what_contradicts_when_it_is_read_names_file_and_key_and_leaves_a_live_model_as_it_was(tmp_path: Path) -> None:
    layer, _ = packed.gptq(4, 32, 8, 2)
    layer["g_idx"][0] = 9
    save_file({f"fc.{key}": value for key, value in layer.items()}, tmp_path / "file.safetensors")
    model = nn.ModuleDict({"fc": nn.Linear(32, 8, bias=False)})
    before = model["fc"].get_parameter("weight").clone()

    with pytest.raises(CheckpointError, match=r"file\.safetensors, 'fc\.qweight': g_idx of 32 rows has groups"):
        loader.load_into(model, tmp_path / "file.safetensors", rules=["gptq"])

    assert torch.equal(model["fc"].get_parameter("weight"), before)


def test_a_dequantized_file_is_written_and_read_again(tmp_path: Path) -> None:
    layer = {"weight": float8(4, 6), "weight_scale": random(4, 1)}

    loaded(
        file(tmp_path, layer, 4), 4, 6, ["fp8"], mode="convert", convert={"path": str(tmp_path / "plain.safetensors")}
    )

    found = load_file(tmp_path / "plain.safetensors")
    assert torch.equal(found["fc.weight"], layer["weight"].float() * layer["weight_scale"])
    assert found.keys() == {"fc.weight", "fc.bias", "proj.weight", "norm.weight", "norm.bias"}


def test_names_of_the_file_cannot_be_written_back(tmp_path: Path) -> None:
    layer = {"weight": float8(4, 6), "weight_scale": random(4, 1)}
    convert = {"path": str(tmp_path / "plain.safetensors"), "names": "checkpoint"}

    with pytest.raises(LoaderError, match="fp8"):
        loaded(file(tmp_path, layer, 4), 4, 6, ["fp8"], mode="convert", convert=convert)

    assert not (tmp_path / "plain.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
def test_modules_of_bitsandbytes_become_plain_ones(kind: str, double: bool, tmp_path: Path) -> None:
    import bitsandbytes

    layers: Any = bitsandbytes.nn
    theirs = layers.Linear4bit(128, 96, compress_statistics=double, quant_type=kind)
    theirs.load_state_dict(nn.Linear(128, 96).state_dict())
    theirs = theirs.to("cpu")
    if theirs.weight.quant_state is None:
        theirs.weight = theirs.weight._quantize("cpu")
    model = nn.ModuleDict({"fc": nn.Linear(128, 96), "norm": nn.LayerNorm(96)})
    saved = nn.ModuleDict({"fc": theirs, "norm": nn.LayerNorm(96)}).state_dict()
    save_file({key: value.contiguous() for key, value in saved.items()}, tmp_path / "file.safetensors")

    loader.load_into(model, tmp_path / "file.safetensors", rules=["bnb4"])

    expected = bitsandbytes.functional.dequantize_4bit(theirs.weight, theirs.weight.quant_state)
    assert torch.equal(model["fc"].get_parameter("weight"), expected)


@pytest.mark.slow
def test_int8_modules_of_bitsandbytes_become_plain_ones(tmp_path: Path) -> None:
    import bitsandbytes

    plain = nn.Linear(128, 96)
    layers: Any = bitsandbytes.nn
    theirs = layers.Linear8bitLt(128, 96, has_fp16_weights=False)
    theirs.load_state_dict(plain.state_dict())
    saved = theirs.to("cpu").state_dict()
    assert {"weight", "SCB", "weight_format"} <= saved.keys()
    model = nn.Linear(128, 96)

    loader.load_into(model, saved, rules=["bnb8"])

    expected = bitsandbytes.functional.int8_vectorwise_dequant(saved["weight"], saved["SCB"])
    assert torch.equal(model.weight, expected)
    assert torch.allclose(model.weight, plain.weight, atol=1e-3)
