"""Interpolation of dims, compared with `torch.nn.functional.interpolate` and with timm's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate

from loader.formats.formulas.records import Resized
from tests.formats.formulas.test_arithmetic import computed
from tests.libraries import library

BOTH = ["bicubic", "bilinear", "nearest", "area"]


def torchs(images: torch.Tensor, sizes: list[int], by: str, *, antialias: bool = False) -> torch.Tensor:
    aligned = None if by in ("nearest", "area") else False
    return interpolate(images, size=sizes, mode=by, align_corners=aligned, antialias=antialias)


@pytest.mark.parametrize("by", BOTH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_dims_are_a_picture(by: Any, dtype: torch.dtype) -> None:
    value = torch.randn(2, 5, 6, 7, dtype=dtype)
    assert torch.equal(computed(Resized((2, 3), (9, 4), by), value), torchs(value, [9, 4], by))


@pytest.mark.parametrize("by", BOTH)
@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 5), (2, 6, 3, 7, 5)])
def test_the_other_dims_are_channels_wherever_they_are(by: Any, shape: tuple[int, ...]) -> None:
    value = torch.randn(shape)
    dims = (shape.index(6), shape.index(7))
    made = computed(Resized(dims, (4, 9), by), value)

    others = [dim for dim in range(value.dim()) if dim not in dims]
    images = value.permute(*others, *dims).reshape(1, -1, 6, 7)
    theirs = torchs(images, [4, 9], by).reshape(*(shape[dim] for dim in others), 4, 9)
    moved = made.permute(*others, *dims)
    torch.testing.assert_close(moved, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("by", ["bicubic", "bilinear"])
def test_antialias_is_torchs(by: Any) -> None:
    value = torch.randn(1, 3, 12, 12)
    made = computed(Resized((2, 3), (5, 7), by, antialias=True), value)
    assert torch.equal(made, torchs(value, [5, 7], by, antialias=True))
    assert not torch.equal(made, torchs(value, [5, 7], by))


def test_one_dim_is_a_line() -> None:
    value = torch.randn(1, 9, 4)
    made = computed(Resized((1,), (17,), "linear"), value)
    assert torch.equal(made.transpose(1, 2), torchs(value.transpose(1, 2), [17], "linear"))
    assert computed(Resized((0,), (3,), "linear"), torch.arange(5.0)).shape == (3,)


def test_half_precision_is_computed_in_float32() -> None:
    value = torch.randn(1, 3, 4, 4).to(torch.float16)
    assert torch.equal(computed(Resized((2, 3), (7, 7), "bicubic"), value), torchs(value.float(), [7, 7], "bicubic"))


@pytest.mark.parametrize("antialias", [False, True])
def test_positions_are_timms_bit_for_bit(antialias: bool) -> None:
    resample = library("timm.layers.pos_embed").resample_abs_pos_embed
    positions = torch.randn(1, 14 * 14, 32)
    made = computed(Resized((1, 2), (24, 20), "bicubic", antialias), positions.reshape(1, 14, 14, 32))
    theirs = resample(positions, [24, 20], num_prefix_tokens=0, antialias=antialias)
    assert torch.equal(made.reshape(1, -1, 32), theirs)


def test_relative_tables_are_timms_bit_for_bit() -> None:
    resize = library("timm.layers.pos_embed_rel").resize_rel_pos_bias_table_simple
    table = torch.randn(13 * 13, 4)
    made = computed(Resized((0, 1), (27, 27), "bicubic"), table.reshape(13, 13, 4))
    assert torch.equal(made.reshape(-1, 4), resize(table, (14, 14), (27 * 27, 4)))
    heads = torch.randn(4, 13, 13)
    assert torch.equal(computed(Resized((1, 2), (27, 27), "bicubic"), heads), resize(heads, (14, 14), (4, 27, 27)))
