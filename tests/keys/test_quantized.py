"""What is recognized as quantized, by names, shapes and dtypes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from loader.formats.tree import TensorEntry
from loader.keys.quantized import quantized
from tests.keys.test_guard import SCHEMES, State, codes, floats, layers

NOT_QUANTIZED: dict[str, State] = {
    "float8 that stands for itself": {"weight": codes(torch.float8_e4m3fn, 16, 16), "bias": floats(16)},
    "a mask next to a scale": {"mask": codes(torch.uint8, 4, 4), "scale": floats(1)},
    "quantization-aware training": {
        "weight": floats(4, 4),
        "weight_fake_quant.scale": floats(1),
        "weight_fake_quant.zero_point": codes(torch.int32, 1),
        "weight_fake_quant.fake_quant_enabled": codes(torch.uint8, 1),
    },
    "a query of a name that HQQ uses": {"W_q": floats(4, 4), "scale": floats(1)},
    "codes of a codec": {"codes": codes(torch.int64, 4), "codebooks": floats(4, 4)},
    "a scale of activations": {"weight": codes(torch.int8, 4, 4), "input_scale": floats(1), "logit_scale": floats(1)},
    "a float8 embedding next to a table of shifts": {
        "pos_embed": codes(torch.float8_e4m3fn, 4, 4),
        "scale_shift_table": floats(2, 4),
    },
    "an integer counter": {"weight": floats(4, 4), "weight_scale": floats(1), "steps": codes(torch.uint8, 1)},
    "everything cast to float8": {
        "weight": codes(torch.float8_e4m3fn, 4, 4),
        "scale": codes(torch.float8_e4m3fn, 4),
    },
}


@pytest.mark.parametrize("name", NOT_QUANTIZED)
def test_what_is_not_quantized_is_not_called_so(name: str) -> None:
    entries = {key: entry(value) for key, value in NOT_QUANTIZED[name].items()}

    assert quantized(entries) == []


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_is_called_by_its_name(name: str) -> None:
    scheme, make = SCHEMES[name]

    found = quantized({key: entry(value) for key, value in layers(make).items()})

    assert [(one.scheme, one.layer) for one in found] == [(scheme, str(number)) for number in range(3)]


def entry(value: Tensor) -> TensorEntry:
    return TensorEntry(str(value.dtype).removeprefix("torch."), tuple(value.shape))
