"""What adapters do not compute with: other layouts and dtypes, and products of which rules keep little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import loader
from loader.formats.limits import MOST_OUTSIZED
from tests.parts.adapters.made import Net, base, change, normal, pair, peft
from tests.parts.adapters.test_refusals import refused

KEY = "block.to_q.weight"
VALUES = torch.arange(9.0).reshape(3, 3)
ODD: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "sparse_coo": (VALUES.to_sparse, "a sparse_coo tensor"),
    "sparse_csr": (VALUES.to_sparse_csr, "a sparse_csr tensor"),
    "quantized": (lambda: torch.quantize_per_tensor(VALUES, 0.1, 0, torch.qint8), "a quantized tensor"),
    "meta": (lambda: VALUES.to("meta"), "a tensor without data"),
    "complex": (lambda: VALUES.to(torch.complex64), "complex64"),
    "float8": (lambda: VALUES.to(torch.float8_e4m3fn), "float8_e4m3fn"),
}
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:torch.quantize_per_tensor")


@pytest.mark.parametrize("name", ODD)
def test_a_difference_of_another_form_is_refused(tmp_path: Path, name: str) -> None:
    file, _ = base(tmp_path)
    make, said = ODD[name]
    value = make()
    torch.save({KEY: value}, tmp_path / "delta.pt")
    refusal = refused(file, loader.FitError, lora={"path": str(tmp_path / "delta.pt")})
    assert refusal.exit_code == 4
    assert f"does not fit {file}: {KEY} adds {said} for {KEY} [3, 3] float32" in refusal.message


@pytest.mark.parametrize("name", ["complex", "float8"])
def test_a_difference_is_not_left_out_where_the_base_has_its_dtype(tmp_path: Path, name: str) -> None:
    make, said = ODD[name]
    value = make()
    file, _ = base(tmp_path, **{KEY: value})
    torch.save({KEY: value}, tmp_path / "delta.pt")
    refusal = refused(file, loader.FitError, lora={"path": str(tmp_path / "delta.pt")})
    assert f"{KEY} adds {said} for {KEY} [3, 3] {said}" in refusal.message


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("side", ["path", "minus", "both"])
def test_a_subtraction_of_another_form_is_refused(tmp_path: Path, name: str, side: str) -> None:
    file, _ = base(tmp_path)
    make, said = ODD[name]
    value = make()
    torch.save({KEY: VALUES if side == "minus" else value}, tmp_path / "b.pt")
    torch.save({KEY: VALUES if side == "path" else value}, tmp_path / "c.pt")
    refusal = refused(file, loader.FitError, task={"path": str(tmp_path / "b.pt"), "minus": str(tmp_path / "c.pt")})
    assert refusal.exit_code == 4
    assert f"b.pt minus {tmp_path}/c.pt needs the same tensors in both: {KEY} is {said}, which cannot be" in (
        refusal.message
    )


def test_a_base_of_another_layout_is_named(tmp_path: Path) -> None:
    file, _ = base(tmp_path, **{KEY: VALUES.to_sparse()})
    torch.save({KEY: VALUES}, tmp_path / "delta.pt")
    refusal = refused(file, loader.FitError, lora={"path": str(tmp_path / "delta.pt")})
    assert f"{KEY} adds values for {KEY} [3, 3] sparse_coo float32" in refusal.message


LARGE = 3 * (MOST_OUTSIZED + 1)
FIRST = {f"t{dim}": {"take": "block.to_q", "index": [0, 1, 2], "dim": dim} for dim in (0, 1)}
OUTSIZED: dict[str, dict[str, Any]] = {
    "take": FIRST,
    "split": {
        "s": {"split": "^block.to_q$", "into": ["block.to_q", None], "sizes": [3, LARGE - 3]},
        "t": FIRST["t1"],
    },
    "scale": {"s": {"scale": "block.to_q", "by": 2.0}, **FIRST},
    "turned": {"r": {"rearrange": "block.to_q", "pattern": "i o -> o i"}, **FIRST},
}


@pytest.mark.parametrize("name", OUTSIZED)
def test_a_product_is_bounded_by_the_base_whatever_rules_keep_of_it(tmp_path: Path, name: str) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("block.to_q", LARGE, LARGE, rank=1), r=1)
    refusal = refused(file, loader.FitError, lora={"path": str(folder), "rules": OUTSIZED[name]})
    assert refusal.exit_code == 4
    assert refusal.message == (
        f"the rules of the adapter 'lora' ({folder}/adapter_model.safetensors) leave too little of what would be "
        f"computed: base_model.model.block.to_q.lora_A.weight makes [{LARGE}, {LARGE}], more than 4 times the 9 "
        "elements that it changes"
    )
    assert "select in the adapter's own matrices" in refusal.hint


def test_a_replacement_is_bounded_too(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    (tmp_path / "lora").mkdir()
    folder = peft(tmp_path / "lora", {})
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"base_model.model.out.weight": torch.ones(1).expand(1 << 20, 1 << 20)}, folder / "adapter_model.bin")
    rules = {
        "s": {"scale": "out.weight", "by": 2.0},
        "a": {"take": "out.weight", "index": [0, 1]},
        "b": {"take": "out.weight", "index": [0, 1, 2], "dim": 1},
    }
    refusal = refused(file, loader.FitError, lora={"path": str(folder), "rules": rules})
    assert "makes [1048576, 1048576], more than 4 times the 6 elements that it changes" in refusal.message


def test_what_the_bases_own_file_holds_explains_a_product(tmp_path: Path) -> None:
    rows = 40 * MOST_OUTSIZED
    save_file({"weight": normal(rows, 3)}, tmp_path / "base.safetensors")
    tensors = pair("weight", rows)
    folder = peft(tmp_path / "lora", tensors)
    layer = nn.Linear(3, 2, bias=False)
    loader.load_into(
        layer,
        tmp_path / "base.safetensors",
        rules={"some": {"take": "weight", "index": [7, 1]}},
        adapters={"lora": {"path": str(folder), "rules": {"some": {"take": "weight", "index": [7, 1]}}}},
    )
    expected = normal(rows, 3) + 2 * change(tensors, "weight")
    torch.testing.assert_close(layer.weight, nn.Parameter(expected[[7, 1]]))


def test_a_piece_of_a_fused_product_is_explained_by_its_siblings(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    tensors = pair("block.qkv", 9)
    rules = {"s": {"split": r"\.qkv$", "into": [".to_q", None, None], "sizes": [1, 1, 1]}}
    net = Net()
    folder = peft(tmp_path / "lora", tensors)
    loader.load_into(net, file, adapters={"lora": {"path": str(folder), "rules": rules}})
    torch.testing.assert_close(net.block["to_q"].weight, state[KEY] + 2 * change(tensors, "block.qkv")[:3])


def test_a_wrong_format_names_the_adapters_setting(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("block.to_q"))
    refusal = refused(file, loader.CheckpointError, lora={"path": str(folder), "format": "gguf"})
    assert refusal.message == (
        f"adapter 'lora': {folder}/adapter_model.safetensors is a safetensors file; adapters.lora.format says gguf"
    )
    assert refusal.hint == "adapters.lora.format=safetensors"
