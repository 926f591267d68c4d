"""The identity of tensors: one algorithm, whatever holds them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from loader.formats.elements import same_elements
from loader.formats.identity import Line, compact, fingerprint, line_of, line_of_value, pieces
from loader.formats.memory import MemoryCheckpoint
from loader.parts.open import open_checkpoint
from tests.formats.dcp_writer import write_distributed
from tests.formats.gguf_writer import written
from tests.formats.sharding import write_shards
from tests.jobs import save
from tests.laws import examples

DTYPES = ("float32", "float16", "bfloat16", "float64", "int8", "int64", "bool", "float8_e4m3fn", "uint8")
State = dict[str, torch.Tensor]


def identity(path: Path | State, key: str | None = None) -> str | None:
    """The fingerprint of everything below a nested key."""
    with closing(MemoryCheckpoint(path) if isinstance(path, dict) else open_checkpoint(path)) as checkpoint:
        root: Any = checkpoint.root if key is None else checkpoint.root.children[key]
        return fingerprint(line_of(name, checkpoint, entry) for name, entry in root.tensors().items())


def tensor(dtype: str, sizes: list[int], seed: int) -> torch.Tensor:
    kind: torch.dtype = getattr(torch, dtype)
    drawn = torch.randn(sizes, generator=torch.Generator().manual_seed(seed)) * 100
    return torch.complex(drawn, -drawn).to(kind) if kind.is_complex else drawn.to(kind)


def states(*dtypes: str) -> st.SearchStrategy[State]:
    return st.dictionaries(
        st.text("abcdefgh.äß", min_size=1, max_size=6).filter(lambda name: not name.startswith(".")),
        st.builds(tensor, st.sampled_from(dtypes), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 99)),
        min_size=1,
        max_size=5,
    )


def test_the_fingerprint_is_what_the_documentation_says() -> None:
    state = {"b": torch.tensor([1.5, -2.0]), "a.ü": torch.arange(6, dtype=torch.int16).reshape(2, 3)}
    expected = xxhash.xxh3_128()
    for name in sorted(state):
        values: np.ndarray[Any, Any] = state[name].numpy()
        hashed = xxhash.xxh3_128(values.astype(values.dtype.newbyteorder("<")).tobytes()).hexdigest()
        row = [name, str(state[name].dtype).removeprefix("torch."), list(state[name].shape), hashed]
        expected.update(json.dumps(row, separators=(",", ":")).encode() + b"\n")
    assert identity(state) == expected.hexdigest() == "a458ac3811cd8f964b0b89ca94ab1f25"


@given(states(*DTYPES))  # safetensors of 0.5 knows no complex tensors
@settings(max_examples=examples(60), deadline=None)
def test_every_container_of_the_same_tensors_has_one_fingerprint(
    tmp_path_factory: pytest.TempPathFactory, state: State
) -> None:
    folder = tmp_path_factory.mktemp("containers")
    expected = identity(dict(reversed(state.items())))
    assert expected == fingerprint(line_of_value(name, value) for name, value in state.items())
    assert identity(save(state, folder / "a.pt")) == expected
    assert identity(save({"deep": state}, folder / "b.pt", legacy=True), "deep") == expected
    save_file(state, folder / "c.safetensors")
    assert identity(folder / "c.safetensors") == expected
    names = sorted(state)
    shards = [{name: state[name] for name in part} for part in (names[::2], names[1::2]) if part]
    assert identity(write_shards(folder / "d", *shards)) == expected
    assert identity(write_distributed(folder / "e", state), "model") == expected


@given(states(*DTYPES, "complex64"), st.randoms(use_true_random=False))
@settings(max_examples=examples(60), deadline=None)
def test_where_the_elements_lie_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, state: State, random: Any
) -> None:
    def elsewhere(value: torch.Tensor) -> torch.Tensor:
        if value.dim() > 1 and random.random() < 0.5:
            return value.transpose(0, 1).contiguous().transpose(0, 1)
        large = torch.zeros((*value.shape, 3), dtype=value.dtype)
        large[..., 1] = value
        return large[..., 1]

    moved = {name: elsewhere(value) for name, value in state.items()}
    path = save(moved, tmp_path_factory.mktemp("views") / "views.pt")
    assert identity(path) == identity(moved) == identity(state)


def test_plain_tensors_of_gguf_and_numpy_count_like_any_other(tmp_path: Path) -> None:
    state = {"a": torch.randn(3, 4), "b": torch.randn(5).half()}
    arrays: dict[str, Any] = {name: value.numpy() for name, value in state.items()}
    expected = identity(state)
    assert identity(written(tmp_path / "a.gguf", arrays)) == expected
    np.savez(tmp_path / "b.npz", **arrays)
    np.savez_compressed(tmp_path / "c.npz", **arrays)
    assert identity(tmp_path / "b.npz") == identity(tmp_path / "c.npz") == expected
    turned: dict[str, Any] = {name: np.asfortranarray(value) for name, value in arrays.items()}
    np.savez(
        tmp_path / "d.npz", **{name: value.astype(value.dtype.newbyteorder(">")) for name, value in turned.items()}
    )
    assert identity(tmp_path / "d.npz") == expected


def different() -> Iterator[State]:
    zeros = torch.zeros(4)
    yield {"0": zeros}
    yield {"1": zeros}
    yield {"0": zeros.to(torch.int32)}
    yield {"0": zeros.reshape(2, 2)}
    yield {"0": torch.tensor([0.0, 0.0, 0.0, -0.0])}
    yield {"0": zeros, "1": torch.zeros(0)}
    yield {"0": zeros, "1": torch.zeros(0, 2)}
    yield {"0": zeros, "1": torch.tensor(0.0)}
    yield {"0": zeros, "1": torch.zeros(1)}
    yield {"0": zeros.to_sparse()}
    yield {"0": zeros.reshape(2, 2).to_sparse()}
    yield {"0": zeros.reshape(2, 2).to_sparse_csr()}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_names_dtypes_shapes_layouts_and_bits_are_told_apart() -> None:
    found = [identity(state) for state in different()]
    assert None not in found
    assert len(set(found)) == len(found)
    assert fingerprint([]) is None


@pytest.mark.filterwarnings("ignore:torch.quantize_per:UserWarning", "ignore:Sparse:UserWarning")
def test_tensors_of_other_layouts_count_by_what_determines_them(tmp_path: Path) -> None:
    dense = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    twice = torch.sparse_coo_tensor(torch.tensor([[0, 1, 1], [1, 0, 0]]), torch.tensor([2.0, 1.0, 2.0]), (2, 2))
    channels = torch.quantize_per_channel(dense, torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0, torch.qint8)
    state = {
        "coo": dense.to_sparse(),
        "csr": dense.to_sparse_csr(),
        "csc": dense.to_sparse_csc(),
        "whole": torch.quantize_per_tensor(dense, 0.1, 2, torch.quint8),
        "channels": channels,
        "conj": torch.complex(dense, dense).conj(),
    }
    expected = identity(state)
    assert identity(save(state, tmp_path / "layouts.pt")) == expected
    assert identity({**state, "coo": twice}) == expected
    others: State = {
        "csr": (dense * 2).to_sparse_csr(),
        "whole": torch.quantize_per_tensor(dense, 0.2, 2, torch.quint8),
        "channels": torch.quantize_per_channel(dense, torch.tensor([0.1, 0.3]), torch.tensor([0, 1]), 0, torch.qint8),
        "conj": torch.complex(dense, dense),
    }
    for name, value in others.items():
        assert identity({**state, name: value}) != expected, name


def test_a_large_tensor_is_read_piece_by_piece(tmp_path: Path) -> None:
    state = {"large": torch.randn(700_001), "small": torch.randn(3)}
    path = save(state, tmp_path / "large.pt")
    with closing(open_checkpoint(path)) as checkpoint:
        entry = checkpoint.root.tensors()["large"]
        place = compact(checkpoint.located(entry))
        assert place is not None
        lengths = [len(piece) for piece in pieces(*place, entry.nbytes)]
    assert lengths == [1 << 20, 1 << 20, 700_001 * 4 - (2 << 20)]
    assert identity(path) == identity(state)


def test_a_key_that_is_no_text_for_a_file_still_counts() -> None:
    line = Line('\ud800\n"', "float32", (1,), "0" * 32)
    assert json.loads(line.encoded()) == ['\ud800\n"', "float32", [1], "0" * 32]
    assert line.encoded().count(b"\n") == 1


def test_elements_are_compared_bit_for_bit() -> None:
    nan = torch.tensor([float("nan")])
    assert same_elements(nan, nan.clone())
    assert not same_elements(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_elements(nan.to_sparse(), nan)
