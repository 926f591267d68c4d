"""Tensors brought to the model's size, through whole loads, compared with torch's and timm's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import interpolate

import loader
from loader import ConfigError, FitError
from loader.formats.tree import Storage, TensorEntry, contiguous
from loader.keys.rules import Rewriting, rewrite
from loader.keys.rules.resize import Resize
from tests.laws import examples
from tests.libraries import library
from tests.rules import parse_rules

INTERPOLATING = ["bicubic", "bilinear", "nearest", "area"]


class Holder(nn.Module):
    """A model with one tensor."""

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("x", torch.full(shape, 7, dtype=dtype))


def resized(value: torch.Tensor, shape: tuple[int, ...], **rule: Any) -> torch.Tensor:
    """Loads a tensor into a model with another size."""
    model = Holder(*shape, dtype=value.dtype)
    before = value.clone()
    loader.load_into(model, {"x": value}, rules={"r": {"resize": "x", **rule}})
    assert torch.equal(value, before)
    made = model.x
    assert isinstance(made, torch.Tensor)
    return made


def settled(shape: tuple[int, ...], wanted: tuple[int, ...] | None, dtype: str = "float32", **rule: Any) -> Rewriting:
    entry = TensorEntry(dtype, shape, contiguous(shape), storage=Storage("", 0, 10**6))
    return rewrite({"x": entry}, {"r": Resize("x", **rule)}, "m.pt", {} if wanted is None else {"x": wanted})


def fault(shape: tuple[int, ...], wanted: tuple[int, ...] | None, dtype: str = "float32", **rule: Any) -> str:
    """Returns the refusal of a rule, after the file's name."""
    with pytest.raises(FitError) as refused:
        settled(shape, wanted, dtype, **rule)
    assert refused.value.exit_code == 4
    head, _, rest = refused.value.message.partition(" does not fit m.pt: ")
    assert head.startswith("rule 'r' (resize: x, by: ")
    return rest + (f" | {refused.value.hint}" if refused.value.hint else "")


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize("antialias", [False, True])
def test_positions_are_timms_bit_for_bit(prefix: int, antialias: bool) -> None:
    resample = library("timm.layers.pos_embed").resample_abs_pos_embed
    positions = torch.randn(1, prefix + 14 * 14, 24)
    theirs = resample(positions, [9, 9], num_prefix_tokens=prefix, antialias=antialias)
    made = resized(positions, (1, prefix + 81, 24), by="bicubic", prefix=prefix, antialias=antialias)
    assert torch.equal(made, theirs)
    assert torch.equal(made[:, :prefix], positions[:, :prefix])


def test_positions_in_half_precision_are_timms_bit_for_bit() -> None:
    resample = library("timm.layers.pos_embed").resample_abs_pos_embed
    positions = torch.randn(1, 1 + 7 * 7, 8).bfloat16()
    theirs = resample(positions, [12, 12], num_prefix_tokens=1, antialias=False)
    assert torch.equal(resized(positions, (1, 145, 8), by="bicubic", prefix=1), theirs)


def test_grids_that_are_not_square_are_timms_bit_for_bit() -> None:
    resample = library("timm.layers.pos_embed").resample_abs_pos_embed
    positions = torch.randn(1, 1 + 4 * 6, 8)
    theirs = resample(positions, [3, 8], old_size=[4, 6], num_prefix_tokens=1, antialias=False)
    rule = {"by": "bicubic", "prefix": 1, "grid": [3, 8], "file_grid": [4, 6]}
    assert torch.equal(resized(positions, (1, 25, 8), **rule), theirs)  # 24 tokens on both sides
    theirs = resample(positions, [5, 8], old_size=[4, 6], num_prefix_tokens=1, antialias=False)
    assert torch.equal(resized(positions, (1, 41, 8), **{**rule, "grid": [5, 8]}), theirs)


def test_relative_tables_with_extra_tokens_at_the_end_are_timms_bit_for_bit() -> None:
    resize = library("timm.layers.pos_embed_rel").resize_rel_pos_bias_table_simple
    table = torch.randn(13 * 13 + 3, 4)
    theirs = resize(table, (14, 14), (27 * 27 + 3, 4))
    made = resized(table, (27 * 27 + 3, 4), by="bicubic", suffix=3)
    assert torch.equal(made, theirs)
    assert torch.equal(made[-3:], table[-3:])


def torchs(images: torch.Tensor, sizes: list[int], by: str) -> torch.Tensor:
    return interpolate(images, size=sizes, mode=by, align_corners=None if by in ("nearest", "area") else False)


@pytest.mark.parametrize("by", INTERPOLATING)
def test_two_dims_are_a_picture(by: str) -> None:
    value = torch.randn(1, 8, 6, 7)
    assert torch.equal(resized(value, (1, 8, 9, 4), by=by), torchs(value, [9, 4], by))
    last = value.permute(0, 2, 3, 1).contiguous()
    torch.testing.assert_close(
        resized(last, (1, 9, 4, 8), by=by), torchs(value, [9, 4], by).permute(0, 2, 3, 1), rtol=1e-6, atol=1e-6
    )


def test_one_dim_is_a_line_for_linear() -> None:
    value = torch.randn(1, 20, 6)
    made = resized(value, (1, 33, 6), by="linear", prefix=2, suffix=1)
    line = interpolate(value[:, 2:-1].transpose(1, 2), size=30, mode="linear", align_corners=False)
    assert torch.equal(made, torch.cat([value[:, :2], line.transpose(1, 2), value[:, -1:]], 1))


@settings(max_examples=examples(60), deadline=None)
@given(
    by=st.sampled_from(INTERPOLATING),
    old=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    new=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    prefix=st.integers(0, 2),
    suffix=st.integers(0, 2),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    first=st.booleans(),
)
def test_a_flattened_grid_is_interpolated_between_tokens_that_stay(
    by: str,
    old: tuple[int, int],
    new: tuple[int, int],
    prefix: int,
    suffix: int,
    dtype: torch.dtype,
    first: bool,
) -> None:
    have, want = old[0] * old[1], new[0] * new[1]
    value = torch.randn(prefix + have + suffix, 103, generator=torch.Generator().manual_seed(0)).to(dtype)
    shape: tuple[int, ...] = (prefix + want + suffix, 103)
    wide = value.to(torch.float64 if dtype == torch.float64 else torch.float32)
    images = wide[prefix : prefix + have].reshape(1, *old, 103).permute(0, 3, 1, 2)
    middle = (
        torchs(images, list(new), by).permute(0, 2, 3, 1).reshape(want, 103) if old != new else images.flatten(2)[0].T
    )
    expected = torch.cat([wide[:prefix], middle, wide[prefix + have :]]).to(dtype)
    rule: dict[str, Any] = {"by": by, "prefix": prefix, "suffix": suffix, "file_grid": list(old), "grid": list(new)}

    made = resized(value, shape, **rule) if first else resized(value.T.contiguous(), shape[::-1], **rule).T

    torch.testing.assert_close(made, expected, rtol=2e-3 if dtype.itemsize == 2 else 1e-6, atol=1e-6)
    assert torch.equal(made[:prefix], value[:prefix])
    assert torch.equal(made[prefix + want :], value[prefix + have :])


def test_a_tensor_of_the_models_size_stays_as_it_is_whatever_its_dtype() -> None:
    for dtype in ("float32", "int64", "bool"):
        rewriting = settled((1, 50, 8), (1, 50, 8), dtype, by="bicubic")
        made = rewriting.made["x"].entry
        assert isinstance(made, TensorEntry)
        assert made.formula is None and not made.pieces  # noqa: PT018
    same = settled((1, 24, 8), (1, 24, 8), by="bicubic", grid=[4, 6], file_grid=[4, 6]).made["x"].entry
    assert isinstance(same, TensorEntry)
    assert not same.is_computed


MISFITS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "has 197 tokens in the file and 577 in the model: a grid that is not square (expected file_grid: [H, W] and grid: "
    "[H, W]) | rules.r.prefix=1   # makes both grids square": ((1, 197, 8), (1, 577, 8), {}),
    "has 12 tokens in the file: a grid that is not square (expected file_grid: [H, W])": ((1, 12, 8), (1, 16, 8), {}),
    "has 24 tokens in the model where grid: [3, 9] has 27": (
        (1, 17, 8),
        (1, 25, 8),
        {"prefix": 1, "grid": [3, 9]},
    ),
    "has no tokens left in dim 1 beside prefix: 2 and suffix: 1": (
        (1, 3, 8),
        (1, 25, 8),
        {"prefix": 2, "suffix": 1},
    ),
    "differs in dims 0, 1, 2; by: bicubic changes one, a flattened grid, or two, a picture": (
        (2, 4, 8),
        (3, 9, 9),
        {},
    ),
    "differs in dims 1 and 2, and 'prefix' is for one flattened grid": ((1, 4, 4), (1, 9, 9), {"prefix": 1}),
    "has 2 dims of 24 tokens, expected one with the grid": (
        (1, 24, 24),
        (1, 24, 24),
        {"grid": [3, 8], "file_grid": [4, 6]},
    ),
    "differs in the number of dims, which by: bicubic does not change": ((1, 4), (1, 9, 8), {}),
    "has no elements on one of the two sides": ((1, 0, 8), (1, 9, 8), {}),
}


@pytest.mark.parametrize("said", MISFITS)
def test_a_grid_that_does_not_fit_is_refused_with_both_shapes(said: str) -> None:
    shape, wanted, rule = MISFITS[said]
    expected = f"x {list(shape)}, in the model {list(wanted)}, {said}"
    assert fault(shape, wanted, by="bicubic", **rule) == expected


def test_a_tensor_far_larger_than_the_models_is_refused() -> None:
    said = "has 4,000,000,000 elements, more than the 65,536 times as large as its result that a tensor may be"
    for by, shape, wanted in (("area", (1, 10**8, 40), (1, 4, 40)), ("channels", (2, 2 * 10**9), (2, 1))):
        assert fault(shape, wanted, by=by) == f"x {list(shape)}, in the model {list(wanted)}, {said}"


def test_linear_changes_one_dim() -> None:
    said = "x [1, 4, 4], in the model [1, 9, 9], differs in dims 1, 2; by: linear changes one"
    assert fault((1, 4, 4), (1, 9, 9), by="linear") == said


def test_integers_are_not_interpolated() -> None:
    said = "x [1, 4, 8], in the model [1, 9, 8], is int64, and arithmetic needs floating-point numbers"
    assert fault((1, 4, 8), (1, 9, 8), "int64", by="nearest") == said


def test_a_size_from_a_key_that_the_model_lacks_is_refused() -> None:
    said = "x [1, 4, 8] takes its size from the model, which has no key of this name and size"
    assert fault((1, 4, 8), None, by="bicubic") == said


def test_all_faults_of_a_rule_are_reported_at_once() -> None:
    entry = TensorEntry("float32", (1, 5, 8), (40, 8, 1), storage=Storage("", 0, 160))
    with pytest.raises(FitError, match=r"a \[1, 5, 8\], in the model .*b \[1, 5, 8\] takes its size from the model"):
        rewrite({"a": entry, "b": entry}, {"r": Resize("*", "bicubic")}, shapes={"a": (1, 9, 8)})


def test_names_are_settled_after_all_rules_and_a_dropped_tensor_needs_no_size() -> None:
    entry = TensorEntry("float32", (1, 4, 8), (32, 8, 1), storage=Storage("", 0, 128))
    rules = parse_rules(
        {"r": {"resize": "*", "by": "bicubic"}, "n": {"rename": "a", "to": "b"}, "d": {"drop": "c"}, "k": {"keep": "b"}}
    )
    made = rewrite({"a": entry, "c": entry, "d": entry}, rules, shapes={"b": (1, 9, 8)})
    assert {name: one.entry.shape for name, one in made.made.items() if isinstance(one.entry, TensorEntry)} == {
        "b": (1, 9, 8)
    }
    assert made.dropped == {"c": "c", "d": "d"}


def test_a_further_tensor_rule_on_it_is_refused() -> None:
    entry = TensorEntry("float32", (1, 4, 8), (32, 8, 1), storage=Storage("", 0, 128))
    rules = parse_rules({"r": {"resize": "*", "by": "bicubic"}, "s": {"scale": "x"}})
    with pytest.raises(
        FitError, match=r"rule 's' .* needs sizes in m.pt that an earlier rule leaves to the model: .*x"
    ):
        rewrite({"x": entry}, rules, "m.pt", {"x": (1, 9, 8)})


@pytest.mark.parametrize(
    ("rule", "said", "line"),
    [
        ({"by": "rows", "prefix": 1}, "'prefix' has no effect with by: rows", "rules.r.prefix=0"),
        ({"by": "channels", "fill": "mean"}, "'fill' has no effect with by: channels", "rules.r.fill=model"),
        ({"by": "linear", "grid": [2, 2]}, "'grid' has no effect with by: linear", "rules.r.grid=null"),
        ({"by": "area", "antialias": True}, "'antialias' has no effect with by: area", "rules.r.antialias=false"),
        ({"by": "area", "suffix": -1}, "'suffix' is -1, expected a number of tokens", "rules.r.suffix=0"),
        (
            {"by": "area", "grid": [2]},
            "'grid' is [2], expected a height and a width such as [14, 14]",
            "leave the rule out",
        ),
        (
            {"by": "area", "file_grid": [0, 4]},
            "'file_grid' is [0, 4], expected a height and a width such as [14, 14]",
            "leave the rule out",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(rule: dict[str, Any], said: str, line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settled((1, 4, 8), (1, 9, 8), **rule)
    assert (refused.value.message, refused.value.hint) == (f"rule 'r': {said}", line)


MANNERS = "bicubic, bilinear, linear, nearest, area, rows, channels"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"by": "bicubc"}, f"'rules.r.by' is 'bicubc', expected one of {MANNERS} (did you mean 'bicubic'?)"),
        ({"by": "rows", "fill": "noise"}, "'rules.r.fill' is 'noise', expected one of model, mean, 0"),
        ({}, "rule 'rules.r' has no 'by'"),
    ],
)
def test_an_unknown_manner_is_refused_before_anything_is_opened(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_rules({"r": {"resize": "x", **rule}})


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64, torch.float16]
)
def test_fewer_rows_are_those_that_both_have(dtype: torch.dtype) -> None:
    value = (torch.randn(6, 3) * 5).to(dtype)
    assert torch.equal(resized(value, (4, 3), by="rows"), value[:4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("fill", ["model", 0])
def test_new_rows_of_every_dtype_are_the_models_own_or_nought(dtype: torch.dtype, fill: object) -> None:
    value = (torch.randn(4, 3) * 5).to(dtype)
    made = resized(value, (6, 3), by="rows", fill=fill)
    assert torch.equal(made[:4], value)
    assert torch.equal(made[4:], torch.full((2, 3), 7 if fill == "model" else 0, dtype=dtype))


def test_large_integers_keep_all_their_digits() -> None:
    value = torch.tensor([2**60 + 1, -(2**60) - 1])
    assert resized(value, (3,), by="rows", fill=0).tolist() == [2**60 + 1, -(2**60) - 1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_new_rows_are_the_mean_of_the_files(dtype: torch.dtype) -> None:
    value = torch.randn(5, 3).to(dtype)
    made = resized(value, (7, 3), by="rows", fill="mean")
    wide = value.to(torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(made[:5], value)
    torch.testing.assert_close(made[5:], wide.mean(0).to(dtype).expand(2, 3), rtol=1e-6, atol=1e-6)


def test_a_bias_has_rows_too() -> None:
    value = torch.randn(4)
    assert torch.equal(resized(value, (6,), by="rows", fill=0), torch.cat([value, torch.zeros(2)]))


def test_other_dims_are_not_rows() -> None:
    said = "x [4, 3], in the model [6, 5], differs in dim 1, which by: rows does not change (it changes dim 0 alone)"
    assert fault((4, 3), (6, 5), by="rows") == said


def test_a_mean_needs_numbers_and_rows() -> None:
    said = "x [4, 3], in the model [6, 3], is int64, and arithmetic needs floating-point numbers"
    assert fault((4, 3), (6, 3), "int64", by="rows", fill="mean") == said
    said = "x [0, 3], in the model [6, 3], has no rows in the file whose mean new ones could take"
    assert fault((0, 3), (6, 3), by="rows", fill="mean") == said


def embedding(tmp_path: Path, rows: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    weight = torch.randn(rows, 4).to(dtype)
    torch.save({"weight": weight}, tmp_path / "m.pt")
    return weight


def built(job: loader.Loaded) -> str:
    assert job.report.model is not None
    return job.report.model.build


def loaded(tmp_path: Path, *more: str) -> loader.Loaded:
    model = "model={_target_: torch.nn.Embedding, num_embeddings: 9, embedding_dim: 4}"
    rule = "+rules={rows: {resize: '*', by: rows}}"
    path = f"checkpoint.path={tmp_path / 'm.pt'}"
    return loader.load([model, path, rule, "verify.forward=false", "device=cpu", *more])


@pytest.mark.parametrize("seed", [0, 7])
def test_new_rows_have_the_initial_values_that_the_seed_gives(tmp_path: Path, seed: int) -> None:
    weight = embedding(tmp_path, 6)
    job = loaded(tmp_path, f"seed={seed}")

    torch.manual_seed(seed)
    own = nn.Embedding(9, 4).weight
    made = job.model.state_dict()["weight"]
    assert torch.equal(made, torch.cat([weight, own[6:]]))
    build = "plain: a rule fills tensors with the model's own initialization"
    assert built(job) == build
    read_back = next(check for check in job.report.verification.checks if check.name == "read back")
    assert read_back.ok


def test_new_rows_keep_the_models_precision(tmp_path: Path) -> None:
    weight = embedding(tmp_path, 6, torch.bfloat16)
    made = loaded(tmp_path).model.state_dict()["weight"]

    torch.manual_seed(0)
    own = nn.Embedding(9, 4).weight
    assert torch.equal(made, torch.cat([weight.float(), own[6:]]))


def test_a_model_that_needs_no_new_rows_is_built_hollow(tmp_path: Path) -> None:
    embedding(tmp_path, 12)
    assert built(loaded(tmp_path)) == "hollow"
    embedding(tmp_path, 6)
    assert built(loaded(tmp_path, "rules.rows.fill=mean")) == "hollow"


@pytest.mark.parametrize("more", ["mode=plan", "device=meta"])
def test_without_values_nothing_is_filled(tmp_path: Path, more: str) -> None:
    embedding(tmp_path, 6)
    assert loaded(tmp_path, more).report.keys.loaded == 1


def test_a_live_model_keeps_its_own_rows(tmp_path: Path) -> None:
    weight, live = embedding(tmp_path, 6), nn.Embedding(9, 4)
    own = live.weight.detach().clone()
    report = loader.load_into(
        live, tmp_path / "m.pt", rules={"r": {"resize": "weight", "by": "rows"}}, verify={"forward": False}
    )
    assert torch.equal(live.weight, torch.cat([weight, own[6:]]))
    assert all(check.ok for check in report.verification.checks)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 6, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kernel", [(7, 7), (1, 1)])
def test_channels_are_timms_bit_for_bit(channels: int, dtype: torch.dtype, kernel: tuple[int, int]) -> None:
    adapt = library("timm.models._manipulate").adapt_input_conv
    weight = torch.randn(8, 3, *kernel).to(dtype)
    made = resized(weight, (8, channels, *kernel), by="channels")
    assert torch.equal(made, adapt(channels, weight))


def test_channels_of_other_counts_keep_their_sum() -> None:
    weight = torch.randn(8, 4, 3)
    made = resized(weight, (8, 8, 3), by="channels")
    assert torch.equal(made, torch.cat([weight, weight], 1) * 0.5)
    torch.testing.assert_close(made.sum(1), weight.sum(1))
    torch.testing.assert_close(resized(weight, (8, 1, 3), by="channels")[:, 0], weight.sum(1))


@pytest.mark.parametrize(
    ("shape", "wanted", "said"),
    [
        ((8, 3, 7, 7), (8, 1, 5, 5), "differs in dim 2 and 3, which by: channels does not change"),
        ((8, 3), (9, 3), "differs in dim 0, which by: channels does not change"),
        ((8,), (9,), "differs in dim 0, which by: channels does not change"),
        ((8, 0), (8, 3), "has no elements on one of the two sides"),
        ((8, 3), (8, 0), "has no elements on one of the two sides"),
    ],
)
def test_channels_change_dim_1_alone(shape: tuple[int, ...], wanted: tuple[int, ...], said: str) -> None:
    assert said in fault(shape, wanted, by="channels")


def test_integers_have_no_channels() -> None:
    assert "is uint8, and arithmetic" in fault((8, 3), (8, 1), "uint8", by="channels")
