"""Folders whose indexes say anything at all: they are refused with a message, or read, and nothing else."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader.errors import CheckpointError
from loader.parts.open import open_checkpoint
from tests.formats.dcp_writer import Writer, grid
from tests.formats.zero_writer import Run
from tests.laws import examples

ODD: list[Any] = [
    None, True, -1, 0, 1, 1 << 40, 1 << 63, 1 << 70, 1.5, float("nan"), "", "..", "x", b"y", [], {}, (), [[]],
    {"x": {}}, (-1,), (1 << 62, 4), torch.Size([2]), torch.Size([3, 0]), torch.Size([1 << 40, 1 << 40]), torch.ones(2),
    torch.ones(2, 3).t(), torch.empty(3, device="meta"), torch.float16, torch.strided, {1: 2}, object,
]  # fmt: skip
RARELY_ENOUGH = settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def sites(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Every place in a structure that holds something: what holds it, and under which key."""
    below = value if isinstance(value, dict) else getattr(value, "__dict__", None)
    if isinstance(value, list):
        below = dict(enumerate(value))
    if below is None or depth > 6 or isinstance(value, torch.Tensor | type):
        return
    for key, child in list(below.items()):
        if key == "memory_format":
            continue  # torch refuses to write another
        yield (value if isinstance(value, dict | list) else value.__dict__), key
        yield from sites(child, depth + 1)


def spoil(value: Any, draw: random.Random) -> None:
    for _ in range(draw.randint(1, 2)):
        holder, key = draw.choice(list(sites(value)))
        holder[key] = draw.choice(ODD)


def read_all(folder: Path) -> None:
    """Reads everything in both ways, unless it is refused."""
    with contextlib.suppress(CheckpointError), open_checkpoint(folder) as checkpoint:
        entries = [entry for _, container in checkpoint.root.walk() for entry in container.tensors().values()]
        for entry in entries:
            for mmap in (True, False):
                checkpoint.verify([entry], mmap=mmap)
                found = checkpoint.read(entry, mmap=mmap)
                assert tuple(found.shape) == entry.shape
                assert str(found.dtype) == f"torch.{entry.dtype}"


@RARELY_ENOUGH
@given(st.randoms(use_true_random=False))
def test_distributed_metadata_may_say_anything(tmp_path: Path, draw: random.Random) -> None:
    writer = Writer()
    matrix = torch.arange(24.0).view(6, 4)
    writer.add(("model", "w"), matrix, grid(matrix))
    writer.add(("model", "layers", 0), torch.ones(3))
    writer.add_object(("epoch",), 3)
    spoil(writer.metadata, draw)
    read_all(writer.write(tmp_path / "d"))


@RARELY_ENOUGH
@given(st.randoms(use_true_random=False), st.sampled_from([1, 2, 3]))
def test_deepspeeds_states_may_say_anything(tmp_path: Path, draw: random.Random, stage: int) -> None:
    run = Run([{"a": torch.ones(5, 3), "b": torch.ones(2)}], stage, 2, {"c": torch.ones(1)}, {"f": torch.ones(3)})
    folder = run.write(tmp_path / str(stage))
    path = draw.choice(sorted(folder.glob("*_optim_states.pt")) + sorted(folder.glob("*_model_states.pt")))
    state = run.states(path.name)
    spoil(state, draw)
    torch.save(state, path)
    read_all(folder)


def test_the_structures_are_spoilt_everywhere() -> None:
    writer = Writer()
    writer.add(("w",), torch.ones(4))
    keys = {str(key) for _, key in sites(writer.metadata)}
    assert {"properties", "size", "chunks", "offsets", "relative_path", "offset", "length", "planner_data"} <= keys


@pytest.mark.parametrize("value", ODD, ids=lambda value: str(value)[:20])
def test_a_shape_may_be_anything(value: Any, tmp_path: Path) -> None:
    writer = Writer()
    writer.add(("w",), torch.ones(4))
    writer.metadata.state_dict_metadata["w"].__dict__["size"] = value
    read_all(writer.write(tmp_path / "d"))
