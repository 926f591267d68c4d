"""Computed tensors, for every format that the reader knows: the same as from the tensors in memory, bit for bit."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import loader
from loader.formats.tree import Container
from loader.keys.select import find
from loader.parts.open import open_checkpoint
from tests.formats.rewriting import rewritten
from tests.hostile.samples import SAMPLES

STATE = {"weight": torch.randn(12, 6), "cube": torch.randn(4, 4, 6), "twin": torch.randn(12, 6)}
RULES: dict[str, Any] = {
    "both": {"merge": ["^weight$", "^twin$"], "to": "both", "by": "mean"},
    "scale": {"scale": "both", "by": 1.3, "plus": 0.7},
}
RESIZED: dict[str, Any] = {
    "norm": {"scale": "weight", "plus": 1.0},
    "rest": {"rename": "twin", "to": "channel"},
    "channel": {"resize": "channel", "by": "channels"},
    "cube": {"resize": "cube", "by": "bicubic"},
}


class Holder(nn.Module):
    """A model with tensors of given shapes."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_buffer(name, torch.full(shape, 5.0))


def filled(checkpoint: Any, rules: dict[str, Any], **shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    model = Holder(**shapes)
    allow = {"unexpected": ["*"]}
    report = loader.load_into(model, checkpoint, rules=rules, allow=allow, verify={"forward": False})
    assert all(check.ok is not False for check in report.verification.checks)
    return model.state_dict()


def check(path: Path) -> None:
    """Compares what a file gives with what the tensors in memory give."""
    with closing(open_checkpoint(path)) as checkpoint:
        holders = [(key, find(checkpoint.root, key)) for key in (None, "module", "model")]
    key = next(key for key, holder in holders if isinstance(holder, Container) and "cube" in holder.tensors())
    rows: dict[str, Any] = {"rows": {"resize": "weight", "by": "rows"}}
    cases: list[tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = [
        (RULES, {"both": (12, 6)}),
        (RESIZED, {"weight": (12, 6), "channel": (12, 4), "cube": (4, 9, 6)}),
        ({"channel": {"resize": "twin", "by": "channels"}}, {"twin": (12, 1)}),
        (rows, {"weight": (15, 6)}),
        (rows, {"weight": (5, 6)}),
        ({"rows": {**rows["rows"], "fill": "mean"}}, {"weight": (15, 6)}),
        ({"rows": {**rows["rows"], "fill": "0"}}, {"weight": (15, 6)}),
    ]
    for rules, shapes in cases:
        expected = filled(STATE, rules, **shapes)
        for mmap in (True, False):
            made = filled({"path": str(path), "key": key, "mmap": mmap}, rules, **shapes)
            assert all(torch.equal(made[name], expected[name]) for name in shapes), (rules, mmap)


@pytest.mark.parametrize("format", [format for format in SAMPLES if format != "npy"])  # which holds one tensor
def test_a_file_of_any_format_gives_what_its_tensors_do(tmp_path: Path, format: str) -> None:
    check(SAMPLES[format](tmp_path, STATE))


def test_a_deflated_file_gives_the_same(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "m.pt")
    check(rewritten(tmp_path / "m.pt", {}, packing=8))
