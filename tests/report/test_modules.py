from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from loader.errors import FitError
from loader.job import execute
from loader.report.data import Report
from loader.report.modules import MOST, OUTCOMES, all_loaded
from tests.jobs import carry_out, job, save

ALL = {"missing": 0, "mismatched": 0, "initialised": 0}


class Deep(nn.Module):
    """Four alike blocks, another one, a buffer, and a head that is tied to the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(4))
        self.blocks.append(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
        self.head = nn.Linear(2, 5, bias=False)
        self.head.weight = self.embed.weight


DEEP = {"_target_": f"{__name__}.Deep"}


def modules(report: Report) -> dict[str, dict[str, Any]]:
    return {row["module"]: {name: row[name] for name in row if name != "module"} for row in report.modules}


def test_alike_layers_are_one_row_and_tied_weights_count_once(tmp_path: Path) -> None:
    path = save(Deep().state_dict(), tmp_path / "deep.pt")
    loaded = carry_out(DEEP, path)
    assert modules(loaded.report) == {
        "embed": {"count": 1, "parameters": 10, "loaded": 1, **ALL},
        "blocks.{0..3}.0": {"count": 4, "parameters": 24, "loaded": 8, **ALL},
        "blocks.4.0": {"count": 1, "parameters": 9, "loaded": 2, **ALL},
        "blocks.{0..3}.1": {"count": 4, "parameters": 16, "loaded": 20, **ALL},
        "blocks.4.1": {"count": 1, "parameters": 6, "loaded": 5, **ALL},
        "head": {"count": 1, "parameters": 0, "loaded": 1, **ALL},
    }
    assert loaded.report.model is not None
    assert sum(row["parameters"] for row in loaded.report.modules) == loaded.report.model.parameters


def test_a_refused_load_says_what_became_of_each_module(tmp_path: Path) -> None:
    state = Deep().state_dict()
    del state["blocks.4.0.bias"]
    state["blocks.0.0.weight"] = torch.zeros(7, 2)
    path = save(state, tmp_path / "deep.pt")
    report = Report()
    with pytest.raises(FitError, match="does not fit"):
        execute(job(DEEP, path), report)
    found = modules(report)
    assert found["blocks.4.0"] == {"count": 1, "parameters": 9, "loaded": 1, **ALL, "missing": 1}
    assert found["blocks.0.0"] == {"count": 1, "parameters": 6, "loaded": 1, **ALL, "mismatched": 1}
    assert found["blocks.{1..3}.0"]["loaded"] == 6


def test_an_allowed_key_is_initialised(tmp_path: Path) -> None:
    state = Deep().state_dict()
    del state["blocks.4.0.bias"]
    state["blocks.0.0.weight"] = torch.zeros(7, 2)
    path = save(state, tmp_path / "deep.pt")
    allow = {"missing": ["blocks.4.0.bias"], "mismatched": ["blocks.0.0.weight"]}
    found = modules(carry_out(DEEP, path, allow=allow).report)
    assert found["blocks.4.0"] == {"count": 1, "parameters": 9, "loaded": 1, **ALL, "initialised": 1}
    assert found["blocks.0.0"] == {"count": 1, "parameters": 6, "loaded": 1, **ALL, "initialised": 1}


def test_a_lazy_module_has_the_size_that_the_file_gives_it(tmp_path: Path) -> None:
    path = save(nn.Linear(3, 4).state_dict(), tmp_path / "lazy.pt")
    node = {"_target_": "torch.nn.LazyLinear", "out_features": 4}
    assert modules(carry_out(node, path).report) == {"": {"count": 1, "parameters": 16, "loaded": 2, **ALL}}


def test_a_pickled_model_is_loaded_whole(tmp_path: Path) -> None:
    path = save(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), tmp_path / "whole.pt")
    admitted = [
        *("torch.nn.modules.container.Sequential", "torch.nn.modules.linear.Linear"),
        *("builtins.set", "__builtin__.set"),
    ]
    report = carry_out(None, path, checkpoint={"allow_globals": admitted}).report
    assert modules(report) == {"{0,1}": {"count": 2, "parameters": 12, "loaded": 4, **ALL}}


def test_a_plan_knows_the_modules_without_reading_a_tensor(tmp_path: Path) -> None:
    path = save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pt")
    node = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2}
    assert modules(carry_out(node, path, mode="plan").report) == {"": {"count": 1, "parameters": 6, "loaded": 2, **ALL}}


NAMES = st.lists(st.sampled_from(["0", "1", "2", "01", "a", "b", "", "{}", "weight"]), min_size=1, max_size=4).map(
    ".".join
)


@given(st.dictionaries(NAMES, st.integers(0, 3), max_size=30))
def test_every_key_is_counted_once(sizes: dict[str, int]) -> None:
    rows = all_loaded(sizes)
    assert sum(row["loaded"] for row in rows) == len(sizes)
    assert sum(row["parameters"] for row in rows) == sum(sizes.values())
    assert sum(row["count"] for row in rows) == len({key.rpartition(".")[0] for key in sizes})
    assert all(row[outcome] == 0 for row in rows for outcome in OUTCOMES[1:])


def test_more_modules_than_a_map_can_show_are_one_row() -> None:
    rows = all_loaded({f"m{index}.weight": index for index in range(3 * MOST)})
    assert len(rows) == MOST + 1
    assert rows[-1]["module"] == "…"
    assert sum(row["loaded"] for row in rows) == sum(row["count"] for row in rows) == 3 * MOST
    assert sum(row["parameters"] for row in rows) == sum(range(3 * MOST))


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (["stages.0.0.w", "stages.0.1.w", "stages.1.0.w", "stages.1.1.w"], ["stages.{0,1}.{0,1}"]),
        (["stages.0.0.w", "stages.0.1.w", "stages.1.0.w"], ["stages.0.{0,1}", "stages.1.0"]),
        (["h.0.q.w", "h.0.k.w", "h.1.q.w", "h.1.k.w"], ["h.{0,1}.q", "h.{0,1}.k"]),
        (["w", "b"], [""]),
    ],
)
def test_only_numbers_are_folded(keys: list[str], named: list[str]) -> None:
    assert [row["module"] for row in all_loaded(dict.fromkeys(keys, 1))] == named
