from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from loader.errors import CheckpointError
from loader.report.data import VerificationReport
from loader.report.sketched import BUCKETS, EXACT, SKETCHED, drift, read_weights
from loader.verify import sketch
from loader.verify.sketch import keep_weights

LARGE = 700


def kept(module: nn.Module, folder: Path) -> VerificationReport:
    folder.mkdir(exist_ok=True)
    report = VerificationReport()
    keep_weights(module, folder, report)
    return report


def changed(module: nn.Module, change: torch.Tensor) -> nn.Module:
    other = nn.Linear(module.in_features, module.out_features)  # type: ignore[arg-type]
    with torch.no_grad():
        other.load_state_dict(module.state_dict())
        other.weight += change
    return other


def relative(one: nn.Module, other: nn.Module, folder: Path) -> float:
    for name, module in (("one", one), ("other", other)):
        assert kept(module, folder / name).checks == []
    (found,) = drift(*(read_weights(folder / name / SKETCHED) for name in ("one", "other"))).values()
    return found.relative


def truth(one: nn.Module, other: nn.Module) -> float:
    ours, theirs = (torch.cat([p.detach().double().reshape(-1) for p in m.parameters()]) for m in (one, other))
    return float((theirs - ours).norm() / ours.norm())


def test_a_small_models_distances_are_exact(tmp_path: Path) -> None:
    one = nn.Linear(8, 8)
    other = changed(one, torch.randn(8, 8))
    assert relative(one, other, tmp_path) == pytest.approx(truth(one, other), rel=1e-6)
    assert not read_weights(tmp_path / "one" / SKETCHED).estimated


DIFFERENCES = {
    "noise": lambda: torch.randn(LARGE, LARGE) * 0.01,
    "one row": lambda: nn.functional.pad(torch.randn(1, LARGE), (0, 0, 3, LARGE - 4)),
    "one column": lambda: nn.functional.pad(torch.randn(LARGE, 1), (5, LARGE - 6)),
    "one element": lambda: nn.functional.pad(torch.ones(1, 1), (7, LARGE - 8, 9, LARGE - 10)),
    "a constant": lambda: torch.full((LARGE, LARGE), 0.1),
    "low rank": lambda: torch.randn(LARGE, 2) @ torch.randn(2, LARGE) * 0.01,
    "rounding": lambda: torch.zeros(LARGE, LARGE),
}


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_a_large_models_distances_are_estimated_well(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketch, "WHOLE_BELOW", 1000)
    torch.manual_seed(1)
    one = nn.Linear(LARGE, LARGE)
    other = changed(one, DIFFERENCES[kind]())
    if kind == "rounding":
        other = other.bfloat16().float()
    assert relative(one, other, tmp_path) == pytest.approx(truth(one, other), rel=0.04)
    assert read_weights(tmp_path / "one" / SKETCHED).estimated
    assert (tmp_path / "one" / SKETCHED).stat().st_size < 5 * BUCKETS


@given(st.integers(0, 2**32), st.sampled_from([5, 70, 130]))
def test_equal_weights_are_never_apart(tmp_path_factory: pytest.TempPathFactory, seed: int, width: int) -> None:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(seed)
    one = nn.Linear(width, width)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sketch, "WHOLE_BELOW", 100)
        assert relative(one, changed(one, torch.zeros(1)), folder) == 0


def test_the_signs_are_the_same_everywhere() -> None:
    signs, flips = sketch._signs()
    assert signs[0, :16].tolist() == [1, 1, -1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, 1, -1]
    assert {*signs.flatten().tolist()} == {*flips.tolist()} == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 0.002


def test_each_module_has_a_vector_of_its_own_parameters(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.BatchNorm1d(3), nn.ParameterList([torch.ones(1)]))
    model.register_parameter("own", nn.Parameter(torch.tensor([1 + 2j])))
    kept(model, tmp_path)
    found = read_weights(tmp_path / SKETCHED).vectors
    assert {name: len(vector) for name, vector in found.items()} == {
        EXACT: 2, f"{EXACT}0": 9, f"{EXACT}2": 6, f"{EXACT}3": 1,
    }  # fmt: skip


def test_modules_of_other_shapes_are_left_out_and_nan_is_far(tmp_path: Path) -> None:
    one = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    spoiled = nn.Linear(2, 2)
    with torch.no_grad():
        spoiled.weight.fill_(math.nan)
    other = nn.Sequential(spoiled, nn.Linear(2, 3))
    for name, model in (("one", one), ("other", other)):
        kept(model, tmp_path / name)
    found = drift(*(read_weights(tmp_path / name / SKETCHED) for name in ("one", "other")))
    assert {name: apart.relative for name, apart in found.items()} == {"0": math.inf}


def test_too_many_modules_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch, "_MOST_BYTES", 100)
    (check,) = kept(nn.Linear(8, 8), tmp_path).checks
    assert (check.name, check.ok) == ("kept weights", None)
    assert check.detail == "not written: 1 module would take 288 B, more than 100 B"
    assert not (tmp_path / SKETCHED).exists()


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / SKETCHED / "taken").mkdir(parents=True)
    (check,) = kept(nn.Linear(2, 2), tmp_path).checks
    assert check.detail == "not written: Is a directory"


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / SKETCHED).write_bytes(b"short")
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / SKETCHED)
