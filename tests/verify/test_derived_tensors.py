"""Reading back and identifying tensors that rules made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file

from loader import VerificationError
from loader.apply import stage as staging
from loader.formats import identity
from loader.formats.boxes import narrowed
from loader.formats.formulas import compute
from loader.formats.formulas.records import Formula, Scaled
from loader.formats.tree import TensorEntry, contiguous
from loader.parts.open import open_checkpoint
from loader.verify.rereading import _are_near
from tests.derived import FUSED, ROWS, fused, numbers, shapes
from tests.jobs import carry_out, checks, detail, save


def fingerprint(node: Any, path: Path, rules: Mapping[str, Any], **settings: Any) -> str:
    found = carry_out(node, path, rules=rules, **settings).report.verification.fingerprint
    assert found is not None
    return found


def test_derived_tensors_are_computed_again(tmp_path: Path) -> None:
    report = carry_out(shapes(ROWS), save(fused(), tmp_path / "a.pt"), rules=FUSED).report
    assert detail(report, "read back") == "5 of 5 tensors: 2 compared with the file, 3 computed again, all bytes"
    assert checks(report)["read back"]


@pytest.mark.parametrize("value", [float("nan"), -3.0])
def test_a_derived_tensor_that_changed_is_found(value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = staging._placed

    def other(prepared: Any, key: str, tensor: torch.Tensor, *, copy: bool) -> torch.Tensor:
        placed = place(prepared, key, tensor, copy=copy)
        return torch.full_like(placed, value) if key == "l.k.weight" else placed

    monkeypatch.setattr(staging, "_placed", other)
    settings = {"forward": False, "expect": {"finite": False}}
    with pytest.raises(VerificationError, match=r"not what the file holds: l\.k\.weight"):
        carry_out(shapes(ROWS), save(fused(), tmp_path / "a.pt"), rules=FUSED, verify=settings)


def test_a_moved_tensor_counts_by_its_values(tmp_path: Path) -> None:
    """The file that holds the pieces is the same weights, in any container."""
    found = fingerprint(shapes(ROWS), save(fused(), tmp_path / "a.pt"), FUSED)
    pieces = {
        key: value.detach().clone()
        for key, value in carry_out(shapes(ROWS), tmp_path / "a.pt", rules=FUSED).model.state_dict().items()
    }
    assert fingerprint(shapes(ROWS), save(pieces, tmp_path / "b.pt"), {}) == found
    save_file(pieces, tmp_path / "c.safetensors")
    assert fingerprint(shapes(ROWS), tmp_path / "c.safetensors", {}) == found
    save_file(fused(), tmp_path / "d.safetensors")
    assert fingerprint(shapes(ROWS), tmp_path / "d.safetensors", FUSED) == found
    assert fingerprint(shapes(ROWS), tmp_path / "d.safetensors", FUSED, checkpoint={"mmap": False}) == found
    assert fingerprint(shapes(ROWS), tmp_path / "d.safetensors", FUSED, dtype="bfloat16") == found


def test_a_conversion_has_the_fingerprint_of_its_source(tmp_path: Path) -> None:
    path, out = save(fused(), tmp_path / "a.pt"), tmp_path / "b.safetensors"
    source = carry_out(shapes(ROWS), path, rules=FUSED, mode="convert", convert={"path": str(out)}).report
    assert fingerprint(shapes(ROWS), out, {}) == source.verification.fingerprint


@dataclass(frozen=True, slots=True)
class Doubled(Formula):
    """2 · x, by a formula whose bits are not the same everywhere."""

    exact: ClassVar[bool] = False
    times: float = 2.0


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "_HOW", {**compute._HOW, Doubled: lambda of, inputs: inputs[0]().float() * of.times})


def made(entry: TensorEntry, formula: Formula) -> TensorEntry:
    return TensorEntry(entry.dtype, entry.shape, contiguous(entry.shape), formula=formula, inputs=(entry,))


def line(path: Path, formula: Formula, dtype: torch.dtype = torch.float32, times: float = 1.0) -> identity.Line:
    save({"w": (numbers(4, 3) * times).to(dtype)}, path)
    with open_checkpoint(path) as checkpoint:
        return identity.line_of("w", checkpoint, made(checkpoint.root.tensors()["w"], formula))


def test_an_exact_formula_counts_by_its_values(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    assert line(path, Scaled(2.0, 1.0)) == identity.line_of_value("w", numbers(4, 3) * 2 + 1)
    rounded = (numbers(4, 3) / 3).bfloat16()
    expected = (rounded.float() * 0.1).bfloat16()
    assert line(path, Scaled(0.1), torch.bfloat16, 1 / 3) == identity.line_of_value("w", expected)


@pytest.mark.usefixtures("doubled")
def test_another_formula_counts_by_its_recipe(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    found = line(path, Doubled())
    assert found == line(path, Doubled())
    assert found != identity.line_of_value("w", numbers(4, 3) * 2)
    assert found.hash != line(path, Doubled(3.0)).hash
    assert found.hash != line(path, Doubled(), times=2.0).hash
    assert (found.dtype, found.shape) == ("float32", (4, 3))


@pytest.mark.usefixtures("doubled")
def test_a_recipe_says_which_part_is_taken(tmp_path: Path) -> None:
    with open_checkpoint(save({"w": numbers(4, 3)}, tmp_path / "a.pt")) as checkpoint:
        whole = made(checkpoint.root.tensors()["w"], Doubled())
        assert not identity.is_exact(narrowed(whole, 0, 0, 2))
        first, second = (identity.line_of("w", checkpoint, narrowed(whole, 0, at, 2)) for at in (0, 2))
        again = identity.line_of("w", checkpoint, narrowed(whole, 0, 0, 2))
    assert first == again
    assert first.hash != second.hash


@pytest.mark.usefixtures("doubled")
def test_roundings_of_such_a_formula_do_not_fail_reading_back() -> None:
    values = torch.linspace(-3, 3, 50)
    assert _are_near(values, values * (1 + 1e-6))
    assert not _are_near(values, values * 1.001)
    assert _are_near(values.bfloat16(), (values * 1.001).bfloat16())
    assert not _are_near(values.bfloat16(), (values * 1.1).bfloat16())
    assert not _are_near(torch.tensor([1, 2]), torch.tensor([1, 3]))
    assert _are_near(torch.tensor([float("nan"), 1.0]), torch.tensor([float("nan"), 1.0]))
    assert not _are_near(torch.tensor([float("inf"), 1.0]), torch.tensor([2.0, 1.0]))
