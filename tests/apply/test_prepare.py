"""A plan is refused where a load would be, as far as that can be known without any tensor's data."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader import LoaderError, load_into
from loader.formats import tensor
from loader.formats.opened import OpenedFile
from tests.jobs import carry_out, save, snapshot
from tests.models import Tied, filled


class Formed(nn.Module):
    """A layer, and a buffer of some form."""

    def __init__(self, form: str = "sparse_coo") -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("table", FORMS[form])


class Stated(nn.Module):
    """A layer, and extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def get_extra_state(self) -> Any:
        return None

    def set_extra_state(self, state: Any) -> None:
        pass


class Lazy(nn.Module):
    """A layer whose shape the file decides, and that may stay without one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(2)


def quantized(scale: float, dtype: torch.dtype) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result: torch.Tensor = torch.quantize_per_tensor(torch.eye(2), scale, 0, dtype)
    return result


FORMS = {"strided": torch.eye(2), "sparse_coo": torch.eye(2).to_sparse(), "quantized": quantized(0.1, torch.qint8)}
LAYER = {"layer.weight": torch.eye(2), "layer.bias": torch.ones(2)}
LINEAR = {"weight": torch.eye(2), "bias": torch.ones(2)}
FORM_HINT = "build the model with the same layout, or save the tensor in the model's layout"


def linear(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**LINEAR, **changed}


def model(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{name}", **arguments}


PLAIN = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2}
INT8 = torch.ones(2, 2, dtype=torch.int8)
CASES: dict[str, tuple[Mapping[str, Any], Mapping[str, Any], dict[str, Any], int, str]] = {
    "saved on meta": (PLAIN, linear(weight=torch.empty(2, 2, device="meta")), {}, 3, "holds no data for weight: saved"),
    "sparse": (
        PLAIN,
        linear(weight=torch.eye(2).to_sparse()),
        {},
        4,
        "weight is sparse_coo in the file and",
    ),
    "quantized": (
        PLAIN,
        linear(weight=FORMS["quantized"]),
        {},
        4,
        "weight is quantized in the file and",
    ),
    "dense": (
        model("Formed"),
        {**LAYER, "table": torch.eye(2)},
        {},
        4,
        "table is strided in the file and",
    ),
    "other codes": (
        model("Formed", form="quantized"),
        {**LAYER, "table": quantized(0.1, torch.qint32)},
        {},
        4,
        "table is qint32 in the file and qint8 in the model",
    ),
    "no gradients": (
        PLAIN,
        linear(weight=INT8),
        {"dtype": "checkpoint"},
        4,
        "weight is int8 in the file and a parameter with gradients in the model",
    ),
    "tied": (
        {"_target_": "tests.models.Tied"},
        {**Tied().state_dict(), "head.weight": torch.zeros(6, 4, dtype=torch.float64)},
        {},
        4,
        "the model ties names that hold different values in the file: embed.weight and head.weight",
    ),
    "extra state": (
        model("Stated"),
        {**LAYER, "_extra_state": argparse.Namespace(a=1)},
        {},
        3,
        "rebuilding the file's objects needs names that are not admitted: argparse.Namespace",
    ),
    "without a shape": (
        model("Lazy"),
        {"layer.bias": torch.ones(2)},
        {"allow": {"missing": ["*"]}},
        5,
        "1 tensor of the model is left without data: layer.weight",
    ),
    "input": (PLAIN, LINEAR, {"verify": {"input": [1, 2]}}, 2, "'verify.input' is '[1, 2]', expected a spec such as"),
    "kind of input": (
        PLAIN,
        LINEAR,
        {"verify": {"input": {"shape": [1, 2], "kind": "foo"}}},
        2,
        "input.kind' is 'foo'",
    ),
    "file with the input": (PLAIN, LINEAR, {"verify": {"input": {"path": "nowhere.pt"}}}, 3, "no such file: "),
    "no input": (
        {"_target_": "torch.nn.PReLU"},
        {"weight": torch.ones(1)},
        {"verify": {}},
        5,
        "the dummy forward pass",
    ),
    "record": (PLAIN, LINEAR, {"verify": {"golden": "state.pt"}}, 2, "is not a golden record: expected tensors named"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_plan_is_refused_as_a_load_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node, state, settings, code, told = CASES[name]
    monkeypatch.chdir(tmp_path)
    path = save(dict(state), tmp_path / "state.pt")
    refusals = []
    for mode in ("load", "plan"):
        with pytest.raises(LoaderError) as refusal:
            carry_out(node, path, mode=mode, **settings)
        refusals.append((refusal.value.message, refusal.value.hint, refusal.value.exit_code))
    assert refusals[0] == refusals[1]
    assert told in refusals[0][0]
    assert refusals[0][2] == code
    assert code != 4 or name == "tied" or refusals[0][1] == FORM_HINT


def test_what_is_known_is_refused_before_any_data_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(linear(weight=torch.eye(2).to_sparse()), tmp_path / "state.pt")
    monkeypatch.setattr(OpenedFile, "verify", lambda *_, **__: pytest.fail("data was read"))
    with pytest.raises(LoaderError, match="weight is sparse_coo"):
        carry_out(PLAIN, path)
    save(LINEAR, path)
    with pytest.raises(LoaderError, match=r"verify\.input"):
        carry_out(PLAIN, path, verify={"input": [1, 2]})
    with pytest.raises(LoaderError, match=r"verify\.input"):
        load_into(nn.Linear(2, 2), path, verify={"input": [1, 2]})


def test_a_dtype_that_this_torch_lacks_is_refused_by_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(linear(weight=torch.eye(2).to(torch.float8_e5m2)), tmp_path / "state.pt")
    monkeypatch.delitem(tensor.DTYPES, "float8_e5m2")
    for mode in ("plan", "load"):
        with pytest.raises(LoaderError, match=r"unsupported dtype float8_e5m2: torch .* does not have it") as refusal:
            carry_out(PLAIN, path, mode=mode)
        assert refusal.value.hint == "pip install --upgrade torch"


def test_a_large_input_is_not_made_to_be_checked(tmp_path: Path) -> None:
    path = save(LINEAR, tmp_path / "state.pt")
    carry_out(PLAIN, path, mode="plan", verify={"input": {"shape": [10**15, 2]}})


def test_on_the_meta_device_a_shape_without_data_is_enough(tmp_path: Path) -> None:
    path = save(linear(weight=torch.empty(2, 2, device="meta")), tmp_path / "state.pt")
    assert carry_out(PLAIN, path, device="meta").report.status == "ok"


def test_a_lazy_model_that_the_file_gives_its_shape_plans_with_a_forward_pass(tmp_path: Path) -> None:
    path = save({"layer.weight": torch.ones(2, 3), "layer.bias": torch.ones(2)}, tmp_path / "state.pt")
    assert carry_out(model("Lazy"), path, mode="plan", verify={}).report.status == "ok"


def test_a_state_in_memory_has_its_data(tmp_path: Path) -> None:
    live = nn.Linear(2, 2)
    load_into(live, filled(nn.Linear(2, 2)).state_dict())
    before = snapshot(live)
    with pytest.raises(LoaderError, match="holds no data for weight: saved on the meta device"):
        load_into(live, linear(weight=torch.empty(2, 2, device="meta")))
    assert snapshot(live) == before
