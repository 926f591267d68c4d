"""Models that torch quantized, and files of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.ao import quantization

from loader import load_into
from loader.errors import CheckpointError, FitError
from loader.formats.pickle.revive import packed
from tests.jobs import carry_out
from tests.models import filled

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*quantization.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*TypedStorage.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*reduce_range.*:UserWarning"),
]


class Net(nn.Module):
    """Linear layers, one of which is not quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        self.plain = nn.Conv1d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x) + self.plain(x[:, :2].unsqueeze(1)).squeeze(1)
        return out


def dynamic(dtype: torch.dtype = torch.qint8) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantization.quantize_dynamic(Net().eval(), {nn.Linear}, dtype)  # type: ignore[no-untyped-call, no-any-return]


def half() -> nn.Module:
    return dynamic(torch.float16)


def static() -> nn.Module:
    layers = (quantization.QuantStub(), nn.Conv1d(1, 2, 1), nn.ReLU(), quantization.DeQuantStub(), nn.Flatten())
    model = nn.Sequential(*layers).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)  # type: ignore[no-untyped-call]
        quantization.prepare(model, inplace=True)  # type: ignore[no-untyped-call]
        model(torch.randn(3, 1, 4))
        quantization.convert(model, inplace=True)  # type: ignore[no-untyped-call]
    return model


class Recurrent(nn.Module):
    """Layers whose packed weights are script objects."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(4, 3, num_layers=2, bidirectional=True)
        self.second = nn.GRUCell(6, 2)
        self.third = nn.LSTMCell(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.third(self.second(self.first(x.unsqueeze(0))[0].squeeze(0)))[0]
        return out


def recurrent(dtype: torch.dtype = torch.qint8) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kinds = {nn.LSTM, nn.GRUCell, nn.LSTMCell}
        return quantization.quantize_dynamic(Recurrent().eval(), kinds, dtype)  # type: ignore[no-untyped-call, no-any-return]


def recurrent_half() -> nn.Module:
    return recurrent(torch.float16)


MADE: dict[str, Callable[[], nn.Module]] = {
    "dynamic": dynamic, "half": half, "static": static, "recurrent": recurrent, "recurrent_half": recurrent_half,
}  # fmt: skip


def saved(kind: str, folder: Path, **how: Any) -> tuple[Path, nn.Module]:
    """A file, and the model that it is of."""
    torch.manual_seed(7)
    model = MADE[kind]()
    torch.save({"state_dict": model.state_dict()}, folder / "a.pt", **how)
    return folder / "a.pt", model


def answer(kind: str, model: nn.Module) -> torch.Tensor:
    shape = (2, 1, 4) if kind == "static" else (2, 4)
    out: torch.Tensor = model(torch.arange(8.0).reshape(shape) / 8)
    return out


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", MADE)
def test_a_quantized_model_loads_its_own_file(kind: str, legacy: bool, tmp_path: Path) -> None:
    path, theirs = saved(kind, tmp_path, _use_new_zipfile_serialization=not legacy)
    mine = MADE[kind]()
    report = load_into(mine, {"path": str(path), "key": "state_dict"})
    assert report.keys.loaded == len(theirs.state_dict())
    assert not report.keys.missing + report.keys.unexpected
    assert torch.equal(answer(kind, mine), answer(kind, theirs))


@pytest.mark.parametrize("kind", MADE)
def test_a_job_builds_it_by_a_function_and_plans_and_loads_it(kind: str, tmp_path: Path) -> None:
    path, theirs = saved(kind, tmp_path)
    node = {"_target_": f"tests.test_quantized_modules.{kind}"}
    planned = carry_out(node, path, checkpoint={"key": "state_dict"}, mode="plan")
    assert planned.report.keys.loaded == len(theirs.state_dict())
    loaded = carry_out(node, path, checkpoint={"key": "state_dict"})
    assert torch.equal(answer(kind, loaded.model), answer(kind, theirs))


@pytest.mark.parametrize("kind", MADE)
def test_a_plan_and_a_failed_verification_leave_a_quantized_model_as_it_was(kind: str, tmp_path: Path) -> None:
    path, _ = saved(kind, tmp_path)
    torch.manual_seed(1)
    mine = MADE[kind]()
    before = answer(kind, mine)
    shape = [2, 1, 4] if kind == "static" else [2, 4]
    with pytest.raises(Exception, match="shape"):
        load_into(
            mine,
            {"path": str(path), "key": "state_dict"},
            verify={"input": {"shape": shape}, "expect": {"shape": [9, 9]}},
        )
    assert torch.equal(answer(kind, mine), before)


def test_a_plain_model_is_told_that_the_file_is_quantized(tmp_path: Path) -> None:
    path, _ = saved("dynamic", tmp_path)
    for mode in ("load", "plan"):
        with pytest.raises(FitError) as refusal:
            carry_out(
                {"_target_": "tests.test_quantized_modules.Net"}, path, checkpoint={"key": "state_dict"}, mode=mode
            )
        assert "is quantized: torch.ao in 2 layers (body.0, body.2)" in refusal.value.message


def test_a_plain_layer_is_told_that_its_weight_is_quantized(tmp_path: Path) -> None:
    path, _ = saved("static", tmp_path)
    rules = {"first": {"keep": "1.*"}, "second": {"strip": "1."}}
    node = {"_target_": "torch.nn.Conv1d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    for mode in ("load", "plan"):
        with pytest.raises(FitError) as refusal:
            carry_out(node, path, checkpoint={"key": "state_dict"}, rules=rules, mode=mode, allow={"unexpected": ["*"]})
        assert refusal.value.message == "weight is quantized in the file and strided in the model"


def test_what_a_quantized_model_does_not_have_may_stay_unexpected(tmp_path: Path) -> None:
    path, _ = saved("dynamic", tmp_path)
    node = {"_target_": "torch.nn.Conv1d", "in_channels": 1, "out_channels": 1, "kernel_size": 1}
    rules = {"first": {"strip": "plain."}}
    loaded = carry_out(node, path, checkpoint={"key": "state_dict"}, rules=rules, allow={"unexpected": ["body.*"]})
    assert loaded.report.keys.loaded == 2


def test_a_quantized_model_is_told_which_key_its_hook_misses_in_a_plain_file(tmp_path: Path) -> None:
    torch.save(filled(Net()).state_dict(), tmp_path / "a.pt")
    with pytest.raises(FitError) as refusal:
        load_into(dynamic(), tmp_path / "a.pt")
    assert refusal.value.message == "the load hook of Linear at 'body.0' needs body.0.scale, and no file has it"


def test_damage_is_told_before_a_hook_sees_the_values(tmp_path: Path) -> None:
    path, theirs = saved("dynamic", tmp_path)
    raw = path.read_bytes()
    weight = theirs.body[0].weight().int_repr()  # type: ignore[index, union-attr]
    where = raw.index(bytes(weight.view(torch.uint8).flatten().tolist()))
    path.write_bytes(raw[: where + 2] + bytes([raw[where + 2] ^ 1]) + raw[where + 3 :])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_into(dynamic(), {"path": str(path), "key": "state_dict"})


def test_packed_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    path, _ = saved("dynamic", tmp_path)
    other = Net()
    other.body[0] = nn.Linear(5, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine = quantization.quantize_dynamic(other.eval(), {nn.Linear})  # type: ignore[no-untyped-call]
    with pytest.raises(FitError) as refusal:
        load_into(mine, {"path": str(path), "key": "state_dict"})
    assert refusal.value.message == (
        "body.0._packed_params._packed_params is [3, 4] and [3] in the file and [3, 5] and [3] in the model"
    )


def quantized(*shape: int) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.rand(shape), 0.1, 0, torch.qint8)


WEIGHT, BIAS = quantized(3, 4), torch.rand(3)
LINEAR, CELL = "quantized.LinearPackedParamsBase", "rnn.CellParamsBase"
ODD: dict[str, tuple[str, Any]] = {
    "another class": ("quantized.Conv2dPackedParamsBase", (WEIGHT, BIAS)),
    "no class": ("../x", ()),
    "a weight of one dimension": (LINEAR, (quantized(3), BIAS)),
    "a weight of other numbers": (LINEAR, (torch.rand(3, 4).double(), None)),
    "a bias of another size": (LINEAR, (WEIGHT, torch.rand(4))),
    "a bias of integers": (LINEAR, (WEIGHT, torch.ones(3, dtype=torch.int32))),
    "no bias": (LINEAR, (WEIGHT,)),
    "nothing": (LINEAR, None),
    "a cell of tensors": (CELL, ("quantized_dynamic", [BIAS, BIAS], [], [0], [WEIGHT, WEIGHT])),
    "a cell of another kind": (CELL, ("non_quantized", [BIAS, BIAS], [], [0], [])),
    "a cell with a number too many": (CELL, ("quantized_fp16", [], [1.0], [], [])),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_script_object_that_no_quantized_module_makes_is_refused(odd: str) -> None:
    name, content = ODD[odd]
    with pytest.raises(CheckpointError, match="that torch's quantized modules do not make"):
        packed(f"__torch__.torch.classes.{name}", content)
