"""Laws of giving a file's tensors back: for files of every format, and for tensors that lie oddly in theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize
from hypothesis import given, settings

from loader.formats.boxes import narrowed, repeated
from loader.formats.tree import TensorEntry
from loader.keys.rules import rewrite
from loader.modes.convert.backwards import Backwards, Irreversible
from tests.formats.dcp_writer import write_distributed
from tests.formats.gguf_writer import written
from tests.formats.rewriting import rewritten
from tests.hostile.samples import SAMPLES
from tests.keys.rules.moving import counted
from tests.keys.rules.test_moves_in_formats import HELD, STATE, bits, cut, laws, opened
from tests.laws import examples
from tests.rules import parse_rules

Rules = Mapping[str, Mapping[str, Any]]


def forwards() -> Sequence[Rules]:
    """Rules of every kind of move, alone and one after the other."""
    whole = laws()
    halves = [{next(iter(rules)): rules[next(iter(rules))]} for rules in whole if len(rules) == 2]
    both: list[Rules] = [
        {"split": whole[0]["split"], "turn": {"rearrange": "*", "pattern": "... a -> a ..."}},
        {"copy": {"copy": "^", "into": ["a_", "b_"]}, "turn": {"rearrange": "a_*", "pattern": "a ... -> ... a"}},
    ]
    return [*whole[:-1], *halves, *both]


def check_backwards(path: Path | Mapping[str, torch.Tensor]) -> None:
    """The tensors that rules make give back those that they were made of."""
    with opened(path) as (checkpoint, holder):
        file = holder.tensors()
        plain = {key: checkpoint.read(entry, mmap=False).resolve_conj() for key, entry in file.items()}
        for rules in forwards():
            made = [one.entry for one in rewrite(file, parse_rules(rules)).made.values()]
            backwards = Backwards(file)
            for entry in made:
                assert isinstance(entry, TensorEntry)
                backwards.add(entry, checkpoint.read(entry, mmap=False))
            given_back = dict(backwards.given())
            assert {*given_back} == {*plain}, rules
            for key, value in plain.items():
                assert (given_back[key].dtype, given_back[key].shape) == (value.dtype, value.shape)
                found = backwards.tensor(key).resolve_conj()
                assert found.dtype == value.dtype
                assert torch.equal(found, value), (rules, key)


@pytest.mark.parametrize("format", SAMPLES)
def test_a_file_of_any_format_comes_back(tmp_path: Path, format: str) -> None:
    check_backwards(SAMPLES[format](tmp_path, HELD.get(format, STATE)))


def test_tensors_that_lie_oddly_come_back(tmp_path: Path) -> None:
    large = counted(40, 6, 12)
    odd = {
        "transposed": counted(6, 12).t(),
        "stepped": large[2:14, :, ::2][..., 1],
        "complex": torch.complex(counted(12, 6), -counted(12, 6)).conj(),
        "half": counted(12, 6).bfloat16(),
        "whole": large.view(-1)[:72].view(12, 6),
    }
    check_backwards(odd)
    torch.save(odd, tmp_path / "views.pt")
    check_backwards(tmp_path / "views.pt")
    check_backwards(rewritten(tmp_path / "views.pt", {}, packing=8))


def test_pieces_quantized_blocks_and_compressed_arrays_come_back(tmp_path: Path) -> None:
    check_backwards(write_distributed(tmp_path / "pieces", STATE))
    arrays: Any = {key: np.asfortranarray(value) for key, value in STATE.items()}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    check_backwards(tmp_path / "a.npz")
    raw = quantize(counted(12, 96).numpy(), Kind.Q8_0)
    check_backwards(written(tmp_path / "a.gguf", {"w": raw}, {"w": Kind.Q8_0}))


@given(case=cut())
@settings(max_examples=examples(200))
def test_the_pieces_of_any_split_give_the_whole_back(case: tuple[torch.Tensor, dict[str, Any], dict[str, Any]]) -> None:
    value, split, merge = case
    for rules in ({"s": split}, {"s": split, "m": merge}):
        with opened({"w": value}) as (checkpoint, holder):
            backwards = Backwards(holder.tensors())
            for one in rewrite(holder.tensors(), parse_rules(rules)).made.values():
                assert isinstance(one.entry, TensorEntry)
                backwards.add(one.entry, checkpoint.read(one.entry, mmap=False))
            given_back = dict(backwards.given())
            assert [*given_back] == ["w"]
            found = backwards.tensor("w")
            assert found.dtype == value.dtype
            assert torch.equal(bits(found), bits(value))


def test_a_part_of_a_tensor_gives_nothing_back(tmp_path: Path) -> None:
    with opened({"w": counted(4, 2), "other": counted(3)}) as (_, holder):
        file = holder.tensors()
        backwards = Backwards(file)
        backwards.add(narrowed(file["w"], 0, 1, 2), counted(2, 2))
        with pytest.raises(Irreversible, match=r"^w$"):
            dict(backwards.given())
        with pytest.raises(Irreversible):
            backwards.add(repeated(file["other"], 1, 2), counted(3, 2))


def test_untouched_tensors_of_the_file_are_not_given() -> None:
    with opened({"w": counted(4, 2), "other": counted(3)}) as (_, holder):
        backwards = Backwards(holder.tensors())
        backwards.add(holder.tensors()["w"], counted(4, 2))
        assert [*dict(backwards.given())] == ["w"]


def test_values_of_several_dtypes_are_written_in_the_one_that_holds_all() -> None:
    with opened({"w": counted(4, 2)}) as (_, holder):
        file = holder.tensors()
        backwards = Backwards(file)
        backwards.add(narrowed(file["w"], 0, 0, 2), counted(2, 2).bfloat16())
        backwards.add(narrowed(file["w"], 0, 2, 2), counted(2, 2))
        assert dict(backwards.given())["w"].dtype == torch.float32
        assert torch.equal(backwards.tensor("w"), torch.cat([counted(2, 2)] * 2))
