"""The shipped rules on files as the real wrappers write them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import loader

PREFIXES = {
    "": "[]",
    "module.": "[ddp]",
    "_orig_mod.": "[compile]",
    "module._orig_mod.": "[ddp,compile]",
    "_orig_mod.module.": "[ddp,compile]",
    "model.": "[lightning]",
    "model._orig_mod.": "[lightning,compile]",
    "_fsdp_wrapped_module.": "[fsdp]",
}


def _saved(path: Path, prefix: str) -> nn.Linear:
    torch.manual_seed(3)
    model = nn.Linear(3, 2)
    torch.save({prefix + key: value for key, value in model.state_dict().items()}, path)
    return model


def _load(path: Path, rules: str) -> nn.Module:
    return loader.load(
        [
            "model._target_=torch.nn.Linear",
            "model.in_features=3",
            "model.out_features=2",
            f"checkpoint.path={path}",
            f"rules={rules}",
            "device=cpu",
        ]
    ).model


@pytest.mark.parametrize(("prefix", "rules"), PREFIXES.items())
def test_a_wrapper_is_taken_off_by_its_rule(tmp_path: Path, prefix: str, rules: str) -> None:
    saved = _saved(tmp_path / "weights.pt", prefix)
    assert torch.equal(_load(tmp_path / "weights.pt", rules).get_parameter("weight"), saved.weight)


@pytest.mark.parametrize("prefix", ["module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("rules", ["[ddp,compile]", "[compile,ddp]", "[dataparallel,compile]"])
def test_both_orders_of_wrapping_fit_both_orders_of_rules(tmp_path: Path, prefix: str, rules: str) -> None:
    saved = _saved(tmp_path / "weights.pt", prefix)
    assert torch.equal(_load(tmp_path / "weights.pt", rules).get_parameter("bias"), saved.bias)


# torch.compile imports parts of torch that use what torch itself deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_the_real_wrappers_write_these_prefixes() -> None:
    model = nn.Linear(3, 2)
    assert list(nn.DataParallel(model).state_dict()) == ["module.weight", "module.bias"]
    assert _compiled_keys(model) == ["_orig_mod.weight", "_orig_mod.bias"]
    assert _compiled_keys(nn.DataParallel(model)) == ["_orig_mod.module.weight", "_orig_mod.module.bias"]


def _compiled_keys(model: nn.Module) -> list[str]:
    compiled = torch.compile(model)
    assert isinstance(compiled, nn.Module)
    return list(compiled.state_dict())


def test_an_average_and_its_counter(tmp_path: Path) -> None:
    average = torch.optim.swa_utils.AveragedModel(nn.Linear(3, 2))
    torch.save(average.state_dict(), tmp_path / "ema.pt")
    loaded = _load(tmp_path / "ema.pt", "[ema]")
    assert torch.equal(loaded.get_parameter("weight"), average.module.get_parameter("weight"))


def test_a_submodule_called_module_inside_the_model_keeps_its_name(tmp_path: Path) -> None:
    torch.save({"module.inner.module.weight": torch.zeros(2, 3)}, tmp_path / "weights.pt")
    with pytest.raises(loader.FitError) as refused:
        _load(tmp_path / "weights.pt", "[ddp]")
    plan = refused.value.plan
    assert plan is not None
    assert plan.unexpected == ["inner.module.weight"]
