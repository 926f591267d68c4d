"""Adapters of any names, shapes and dtypes: merged, or refused with the model as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import loader
from tests.laws import examples
from tests.parts.adapters.made import Net, base

ENDS = [
    "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector",
    "lora_down.weight", "lora_up.weight", "alpha", "lora.up.weight", "lora.down.weight", "weight", "bias",
    "base_layer.weight", "modules_to_save.default.weight", "lora_A.default.weight", "hada_w1_a", "",
]  # fmt: skip
MODULES = ["base_model.model.block.to_q", "block.to_q", "lora_unet_block_to_q", "base_model.model.out", "out", "", "."]
SHAPES = [(), (1,), (3,), (2,), (0, 3), (3, 3), (3, 2), (2, 3), (1, 3), (3, 1), (3, 2, 1, 1), (2, 3, 1, 1), (2, 2, 2)]
DTYPES = [torch.float32, torch.float16, torch.float64, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]

values = st.builds(
    lambda shape, dtype: torch.zeros(shape, dtype=dtype), st.sampled_from(SHAPES), st.sampled_from(DTYPES)
)
tensors = st.dictionaries(
    st.builds(
        lambda module, end: f"{module}.{end}" if end else module, st.sampled_from(MODULES), st.sampled_from(ENDS)
    ),
    values,
    max_size=6,
)


@st.composite
def pairs(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """The two matrices of a module, whose shapes mostly have a product, and something else."""
    module, ends = draw(st.sampled_from(MODULES[:5])), draw(st.sampled_from([(0, 1), (3, 4), (6, 7), (10, 9)]))
    rank, dtype = draw(st.integers(0, 3)), draw(st.sampled_from(DTYPES[:3]))
    down = torch.ones(rank, draw(st.sampled_from([3, 3, 3, 2])), dtype=dtype)
    up = torch.ones(draw(st.sampled_from([3, 3, 2])), rank, *draw(st.sampled_from([(), (), (1, 1)])), dtype=dtype)
    more = draw(st.dictionaries(st.sampled_from([f"{module}.{end}" for end in ENDS if end]), values, max_size=2))
    return {f"{module}.{ENDS[ends[0]]}": down, f"{module}.{ENDS[ends[1]]}": up} | more


configs = st.none() | st.fixed_dictionaries(
    {"peft_type": st.sampled_from(["LORA", "IA3", None, 3])},
    optional={
        "r": st.sampled_from([1, 2, 3, 0, -1, "2", None, 1e300]),
        "lora_alpha": st.sampled_from([1, 0, -2.5, 1e308, "x", None, [1]]),
        "use_dora": st.booleans(),
        "use_rslora": st.booleans(),
        "fan_in_fan_out": st.booleans(),
        "rank_pattern": st.sampled_from([{}, {"to_q": 1}, {".*": 3}, {"(": 2}, [], None]),
        "base_model_name_or_path": st.sampled_from(["", "a/b", None, 3, "\x00"]),
    },
)


@given(tensors | pairs(), configs, st.sampled_from([0, 1.0, -0.5]))
@settings(max_examples=examples(300), suppress_health_check=[HealthCheck.too_slow])
def test_any_adapter_is_merged_or_refused(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, torch.Tensor], config: Any, scale: float
) -> None:
    folder = tmp_path_factory.mktemp("any")
    file, _ = base(folder)
    lora: Path = folder / "lora"
    lora.mkdir()
    torch.save(state, lora / "adapter_model.bin")
    if config is not None:
        (lora / "adapter_config.json").write_text(json.dumps(config))
    path = lora if config is not None else lora / "adapter_model.bin"
    net = Net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    try:
        loader.load_into(net, file, adapters={"lora": {"path": str(path), "scale": scale}})
    except loader.LoaderError:
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    with pytest.raises(loader.LoaderError) as caught:
        loader.load_into(net, lora)
    assert "\x00" not in str(caught.value)
