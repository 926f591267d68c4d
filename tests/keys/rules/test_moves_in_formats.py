"""Laws of moved tensors, for every format that the reader knows, and for tensors that lie oddly in their file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.formats.memory import MemoryCheckpoint
from loader.formats.opened import Checkpoint
from loader.formats.tree import Container, TensorEntry
from loader.keys.rules import rewrite
from loader.keys.select import find
from loader.parts.open import open_checkpoint
from tests.formats.dcp_writer import write_distributed
from tests.formats.gguf_writer import written
from tests.formats.rewriting import rewritten
from tests.hostile.samples import SAMPLES
from tests.keys.rules.moving import counted
from tests.laws import examples
from tests.rules import parse_rules

Rules = Mapping[str, Mapping[str, Any]]
NAMES = ("q_", "k_", "v_")
STATE = {
    "weight": counted(12, 6),
    "cube": counted(6, 4, 6, dtype=torch.float16),
    "row": counted(6, dtype=torch.int32),
}
HELD = {
    "gguf": {"weight": STATE["weight"], "cube": STATE["cube"]},  # the smallest integers that its writer knows are wider
    "deepspeed": {"weight": STATE["weight"], "cube": STATE["cube"].float()},
}


@contextmanager
def opened(path: Path | Mapping[str, torch.Tensor]) -> Iterator[tuple[Checkpoint, Container]]:
    """A checkpoint and what holds its tensors."""
    checkpoint = MemoryCheckpoint(path) if isinstance(path, Mapping) else open_checkpoint(path)
    with closing(checkpoint):
        holder = next(one for key in ("", "module", "model") if (one := _holder(checkpoint, key)) is not None)
        yield checkpoint, holder


def _holder(checkpoint: Checkpoint, key: str) -> Container | None:
    found = find(checkpoint.root, key) if key else checkpoint.root
    return found if isinstance(found, Container) and found.tensors() else None


def through(checkpoint: Checkpoint, holder: Container, rules: Rules, *, mmap: bool = True) -> dict[str, torch.Tensor]:
    """The tensors after rules, their checksums compared."""
    made = rewrite(holder.tensors(), parse_rules(rules)).made
    entries = {name: one.entry for name, one in made.items() if isinstance(one.entry, TensorEntry)}
    checkpoint.verify(entries.values(), mmap=mmap)
    return {name: checkpoint.read(entry, mmap=mmap).clone() for name, entry in entries.items()}


def check_laws(path: Path | Mapping[str, torch.Tensor]) -> None:
    """Every move and its inverse give back what is in the file."""
    with opened(path) as (checkpoint, holder):
        plain = through(checkpoint, holder, {})
        assert plain
        for rules in laws():
            for mmap in (True, False):
                made = through(checkpoint, holder, rules, mmap=mmap)
                assert {*made} == {*plain}, rules
                for name, value in plain.items():
                    assert made[name].dtype == value.dtype
                    assert torch.equal(made[name], value), (rules, name)


def laws() -> Sequence[Rules]:
    """Rules that together change nothing."""
    pieces = {"split": "^", "into": list(NAMES), "sizes": [1, 1, 1]}
    back = {"merge": [f"^{name}" for name in NAMES], "to": ""}
    return [
        {"split": pieces, "merge": back},
        {"split": {**pieces, "dim": -1}, "merge": {**back, "dim": -1}},
        {"split": {**pieces, "groups": 2}, "merge": {**back, "groups": 2}},
        {"split": {**pieces, "sizes": [1, 4, 1]}, "merge": back},
        {"split": {"split": "^", "into": "{}_"}, "merge": {"merge": r"^(\d+)_", "to": ""}},
        {
            "split": {"split": "^", "into": "{}_", "dim": -1},
            "merge": {"merge": r"^(\d+)_", "to": "", "dim": -1},
        },
        {
            "turn": {"rearrange": "*", "pattern": "(h d r) ... -> ... r (d h)", "axes": {"d": 3, "r": 2}},
            "back": {"rearrange": "*", "pattern": "... r (d h) -> (h d r) ...", "axes": {"d": 3, "r": 2}},
        },
        {"all": {"take": "*", "index": ":"}},
        {"copy": {"copy": "^", "into": ["a_", "b_"]}, "one": {"drop": "b_*"}, "back": {"strip": "a_"}},
    ]


@pytest.mark.parametrize("format", SAMPLES)
def test_moves_and_their_inverses_give_back_a_file_of_any_format(tmp_path: Path, format: str) -> None:
    check_laws(SAMPLES[format](tmp_path, HELD.get(format, STATE)))


def test_the_same_holds_for_tensors_that_lie_oddly(tmp_path: Path) -> None:
    large = counted(40, 6, 12)
    odd = {
        "transposed": counted(6, 12).t(),
        "stepped": large[2:14, :, ::2][..., 1],
        "expanded": counted(6).expand(12, 6),
        "complex": torch.complex(counted(12, 6), -counted(12, 6)).conj(),
        "bytes": counted(12, 6).to(torch.float8_e4m3fn).view(torch.uint8),
        "half": counted(12, 6).bfloat16(),
        "whole": large.view(-1)[:72].view(12, 6),
    }
    check_laws(odd)
    torch.save(odd, tmp_path / "views.pt")
    check_laws(tmp_path / "views.pt")
    check_laws(rewritten(tmp_path / "views.pt", {}, packing=8))


def test_the_same_holds_for_pieces_quantized_blocks_and_compressed_arrays(tmp_path: Path) -> None:
    check_laws(write_distributed(tmp_path / "pieces", STATE))
    arrays: Any = {key: np.asfortranarray(value) for key, value in STATE.items()}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    check_laws(tmp_path / "a.npz")
    raw = quantize(counted(12, 96).numpy(), Kind.Q8_0)
    check_laws(written(tmp_path / "a.gguf", {"w": raw}, {"w": Kind.Q8_0}))


def test_the_same_holds_for_big_endian_files(tmp_path: Path) -> None:
    arrays: Any = {key: value.numpy() for key, value in STATE.items()}
    np.savez(tmp_path / "a.npz", **{key: value.astype(value.dtype.newbyteorder(">")) for key, value in arrays.items()})

    with opened(tmp_path / "a.npz") as (checkpoint, holder):
        assert torch.equal(through(checkpoint, holder, {})["weight"], STATE["weight"])
    check_laws(tmp_path / "a.npz")


DTYPES = ("float32", "float64", "float16", "bfloat16", "int8", "int64", "uint8", "bool", "complex64", "float8_e5m2")


def bits(value: torch.Tensor) -> torch.Tensor:
    """Its bytes, which compare where numbers do not: nan, and float8."""
    return value.contiguous().flatten().view(torch.uint8)


@st.composite
def cut(draw: st.DrawFn) -> tuple[torch.Tensor, dict[str, Any], dict[str, Any]]:
    """A tensor, a split that fits it, and the merge that is its inverse."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    groups, times = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    shape = draw(st.lists(st.integers(0, 3), max_size=2))
    dim = draw(st.integers(0, len(shape)))
    shape.insert(dim, sum(sizes) * groups * times)
    value = (torch.randn(shape) * 100).to(getattr(torch, draw(st.sampled_from(DTYPES))))
    where = dim if draw(st.booleans()) else dim - len(shape)
    names = [f"{chr(ord('a') + at)}_" for at in range(len(sizes))]
    how = {"dim": where, "groups": groups}
    return (
        value,
        {"split": "^", "into": names, "sizes": sizes, **how},
        {"merge": [f"^{name}" for name in names], "to": "", **how},
    )


@given(cut())
@settings(max_examples=examples(300))
def test_merge_is_the_inverse_of_split(case: tuple[torch.Tensor, dict[str, Any], dict[str, Any]]) -> None:
    value, split, merge = case
    with opened({"w": value}) as (checkpoint, holder):
        pieces = through(checkpoint, holder, {"split": split})
        whole = through(checkpoint, holder, {"split": split, "merge": merge})

    assert sum(piece.numel() for piece in pieces.values()) == value.numel()
    assert (whole["w"].dtype, whole["w"].shape) == (value.dtype, value.shape)
    assert bits(whole["w"]).equal(bits(value))


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    st.integers(-3, 2),
    st.sampled_from(DTYPES),
)
def test_stacking_is_the_inverse_of_naming_each_index(shape: list[int], dim: int, dtype: str) -> None:
    dim = max(-len(shape), min(dim, len(shape) - 1))
    value = (torch.randn(shape) * 100).to(getattr(torch, dtype))
    split = {"split": "$", "into": ".{}", "dim": dim}
    merge = {"merge": r"\.(\d+)$", "to": "", "dim": dim}
    with opened({"w": value}) as (checkpoint, holder):
        pieces = through(checkpoint, holder, {"split": split})
        assert list(pieces) == [f"w.{index}" for index in range(value.shape[dim])]
        whole = through(checkpoint, holder, {"split": split, "merge": merge})["w"]
    assert bits(whole).equal(bits(value))
