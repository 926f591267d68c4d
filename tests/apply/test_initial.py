"""The model's own initial values in tensors of which a file holds a part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import loader
from loader import FitError

ROWS = {"rows": {"resize": "*weight", "by": "rows"}}


class Net(nn.Module):
    """A model with an embedding, which may be tied to an output."""

    def __init__(self, rows: int, *, tied: bool = False) -> None:
        super().__init__()
        self.emb = nn.Embedding(rows, 4)
        if tied:
            self.out = nn.Linear(4, rows, bias=False)
            self.out.weight = self.emb.weight


class Numbers(nn.Module):
    """A model with integers."""

    def __init__(self, dtype: torch.dtype, value: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((4,), value, dtype=dtype))


def saved(tmp_path: Path, name: str, rows: int = 6, prefix: str = "emb.") -> tuple[str, torch.Tensor]:
    weight = torch.randn(rows, 4)
    torch.save({f"{prefix}weight": weight}, tmp_path / name)
    return str(tmp_path / name), weight


def initial(rows: int = 9) -> torch.Tensor:
    torch.manual_seed(3)
    return Net(rows).emb.weight.detach()


def loaded(**config: Any) -> torch.Tensor:
    model = {"_target_": f"{__name__}.Net", "rows": 9, **config.pop("model", {})}
    verify = {"forward": False}
    job = loader.load({"model": model, "device": "cpu", "seed": 3, "verify": verify, "rules": ROWS, **config})
    assert all(check.ok is not False for check in job.report.verification.checks)
    weight: torch.Tensor = job.model.get_parameter("emb.weight").detach()
    return weight


def test_new_rows_of_a_mean_of_files(tmp_path: Path) -> None:
    (one, first), (other, second) = saved(tmp_path, "a.pt"), saved(tmp_path, "b.pt")
    made = loaded(checkpoint={"path": [one, other], "combine": "mean"})
    assert torch.equal(made, torch.cat([(first + second) / 2, initial()[6:]]))


def test_an_adapter_is_added_to_new_rows_too(tmp_path: Path) -> None:
    (path, weight), (delta, difference) = saved(tmp_path, "a.pt"), saved(tmp_path, "d.pt", 9)
    made = loaded(checkpoint={"path": path}, adapters={"d": {"path": delta, "scale": 0.5}})
    expected = torch.cat([weight, initial()[6:]]) + 0.5 * difference
    torch.testing.assert_close(made, expected, rtol=1e-6, atol=1e-6)


def test_new_rows_of_a_part(tmp_path: Path) -> None:
    path, weight = saved(tmp_path, "a.pt", prefix="")
    made = loaded(parts={"emb": {"path": path, "rules": ROWS}}, rules={})
    assert torch.equal(made, torch.cat([weight, initial()[6:]]))


def test_new_rows_of_a_tied_tensor(tmp_path: Path) -> None:
    path, weight = saved(tmp_path, "a.pt")
    made = loaded(checkpoint={"path": path}, model={"tied": True})
    assert torch.equal(made[:6], weight)
    torch.manual_seed(3)
    assert torch.equal(made[6:], Net(9, tied=True).emb.weight[6:])


def test_rows_are_copied_before_the_model_changes(tmp_path: Path) -> None:
    path, weight = saved(tmp_path, "a.pt")
    net = Net(9)
    parameter, own = net.emb.weight, net.emb.weight.detach().clone()
    for _ in range(2):
        loader.load_into(net, path, rules=ROWS, verify={"forward": False})
    assert net.emb.weight is parameter
    assert torch.equal(parameter, torch.cat([weight, own[6:]]))


def test_integers_are_brought_to_the_files_dtype_if_it_can_hold_them(tmp_path: Path) -> None:
    torch.save({"weight": torch.tensor([1, 2], dtype=torch.int32)}, tmp_path / "n.pt")
    net = Numbers(torch.int64, 7)
    loader.load_into(net, tmp_path / "n.pt", rules=ROWS)
    assert net.state_dict()["weight"].tolist() == [1, 2, 7, 7]

    net = Numbers(torch.int64, 2**40)
    with pytest.raises(FitError) as refused:
        loader.load_into(net, tmp_path / "n.pt", rules=ROWS)
    assert refused.value.message == (
        "weight is int32 in the file, which cannot hold the model's initial values: 2 elements change their value"
    )
    assert refused.value.hint == "fill the new rows with 0"
    assert net.state_dict()["weight"].tolist() == [2**40] * 4
