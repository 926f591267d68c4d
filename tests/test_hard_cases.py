"""What a load must get right, one test per hard case."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

import loader
from loader import FitError, load_into
from loader.keys.plan import Mismatch
from tests.jobs import assert_same_state, carry_out, misfit, same_tensor, save, target
from tests.models import (
    Buffers,
    Extra,
    Lazy,
    Nested,
    Normed,
    Pair,
    Scalars,
    Tied,
    Two,
    WeightNormed,
    filled,
)

# Weights that the constructor computed something from.


class OldNormed(nn.Module):
    """The weight norm of old: its constructor computes the weight from the two parameters that it splits it into."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = weight_norm(nn.Linear(3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x)
        return result


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_the_weight_norm_of_old_is_loaded_and_computes_what_was_saved(tmp_path: Path) -> None:
    saved = filled(OldNormed()).eval()
    path = save(saved.state_dict(), tmp_path / "old.pt")
    loaded = carry_out({"_target_": OldNormed}, path, verify={"input": {"shape": [2, 3]}}).model
    assert_same_state(loaded, saved.state_dict())
    assert torch.equal(loaded(torch.ones(1, 3)), saved(torch.ones(1, 3)))


# Tied weights.


@pytest.fixture
def tied() -> Tied:
    model = Tied()
    filled(model)
    return model


def test_tied_weights_stay_tied(tied: Tied, tmp_path: Path) -> None:
    loaded = carry_out("Tied", save(tied.state_dict(), tmp_path / "tied.pt"))
    model: Any = loaded.model
    assert model.head.weight is model.embed.weight
    assert_same_state(model, tied.state_dict())
    assert loaded.report.keys.tied == [["embed.weight", "head.weight"]]
    assert loaded.report.keys.loaded == 2


@pytest.mark.parametrize("kept", ["embed.weight", "head.weight"])
def test_a_file_without_the_second_name_of_a_tied_tensor_is_complete(tied: Tied, tmp_path: Path, kept: str) -> None:
    save_file({kept: tied.embed.weight.detach()}, tmp_path / "tied.safetensors")
    loaded = carry_out("Tied", tmp_path / "tied.safetensors")
    model: Any = loaded.model
    assert model.head.weight is model.embed.weight
    assert same_tensor(model.embed.weight, tied.embed.weight)
    assert (loaded.report.keys.loaded, loaded.report.keys.missing) == (2, [])


def test_conflicting_values_of_a_tied_tensor_are_refused(tied: Tied, tmp_path: Path) -> None:
    state = {"embed.weight": tied.embed.weight.detach(), "head.weight": tied.head.weight.detach() + 1}
    with pytest.raises(FitError) as refusal:
        carry_out("Tied", save(state, tmp_path / "untied.pt"))
    assert refusal.value.message == (
        "the model ties names that hold different values in the file: embed.weight and head.weight"
    )
    assert refusal.value.hint == "'+rules={untie: {drop: head.weight}}'   # drops the unwanted name"


def test_the_advice_for_conflicting_tied_values_works(tied: Tied, tmp_path: Path) -> None:
    state = {"embed.weight": tied.embed.weight.detach(), "head.weight": tied.head.weight.detach() + 1}
    path = save(state, tmp_path / "untied.pt")
    loaded = carry_out("Tied", path, rules={"untie": {"drop": "head.weight"}})
    assert same_tensor(loaded.model.get_parameter("head.weight"), state["embed.weight"])


def test_conflicting_tied_values_out_of_two_files_of_one_layout_are_refused(tmp_path: Path) -> None:
    # The same place in two files says nothing about what stands there.
    for name, value in (("a", 1.0), ("b", 2.0)):
        save_file({"weight": torch.full((6, 4), value)}, tmp_path / f"{name}.safetensors")
    parts = {"embed": {"path": str(tmp_path / "a.safetensors")}, "head": {"path": str(tmp_path / "b.safetensors")}}
    with pytest.raises(FitError, match=r"hold different values in the file: embed\.weight and head\.weight"):
        carry_out("Tied", tmp_path / "a.safetensors", parts=parts)


def test_a_module_that_is_used_twice_stays_one(tmp_path: Path) -> None:
    shared = nn.Linear(2, 2)
    saved = filled(nn.Sequential(shared, nn.ReLU(), shared)).state_dict()
    one = nn.Linear(2, 2)
    live = nn.Sequential(one, nn.ReLU(), one)
    report = load_into(live, save(saved, tmp_path / "shared.pt"))
    assert live[0] is live[2]
    assert_same_state(live, saved)
    assert report.keys.tied == [["0.weight", "2.weight"], ["0.bias", "2.bias"]]


# What is not a plain tensor of the state dict.


def test_buffers_that_are_not_saved_and_plain_tensors_keep_their_own_values(tmp_path: Path) -> None:
    saved = filled(Buffers()).state_dict()
    model: Any = carry_out("Buffers", save(saved, tmp_path / "buffers.pt")).model
    assert_same_state(model, saved)
    assert model.computed.tolist() == [0.0, 1.0, 2.0]
    assert model.plain.tolist() == [2.0, 2.0, 2.0]
    assert not any(tensor.is_meta for tensor in (model.computed, model.plain))


@pytest.mark.parametrize("norm", [False, True], ids=["alone", "beside load hooks"])
@pytest.mark.parametrize(
    "state", [torch.tensor([1.0, 2.0]), {"version": 2, "scale": [0.5], "table": torch.ones(2)}, "v2", 7], ids=type
)
def test_extra_state(state: Any, norm: bool, tmp_path: Path) -> None:
    saved = Extra(norm)
    filled(saved)
    saved.state = state
    path = save(saved.state_dict(), tmp_path / "extra.pt")
    model: Any = carry_out(target("Extra", norm=norm), path).model
    assert same_tensor(model.weight, saved.weight)
    assert _same_object(model.state, state)
    live = Extra(norm)
    load_into(live, saved.state_dict())
    assert _same_object(live.state, state)


def _same_object(left: Any, right: Any) -> bool:
    if isinstance(right, torch.Tensor):
        return isinstance(left, torch.Tensor) and same_tensor(left, right)
    if isinstance(right, dict):
        return list(left) == list(right) and all(_same_object(left[key], right[key]) for key in right)
    return bool(left == right)


def test_extra_state_that_needs_a_global_names_it(tmp_path: Path) -> None:
    saved = Extra()
    saved.state = {"settings": Settings(3)}
    path = save(saved.state_dict(), tmp_path / "extra.pt")
    with pytest.raises(loader.CheckpointError) as refusal:
        carry_out("Extra", path)
    name = f"{__name__}.Settings"
    assert name in refusal.value.message
    assert f"'checkpoint.allow_globals=[{name}]'" in refusal.value.hint
    model: Any = carry_out("Extra", path, checkpoint={"allow_globals": [name]}).model
    assert model.state["settings"].width == 3


class Settings:
    def __init__(self, width: int) -> None:
        self.width = width


def test_extra_state_that_the_model_refuses_is_a_misfit(tmp_path: Path) -> None:
    saved = Extra()
    saved.state = {"version": "bad"}
    path = save(saved.state_dict(), tmp_path / "extra.pt")
    with pytest.raises(FitError, match=r"set_extra_state of Extra .*ValueError: version bad is too old"):
        carry_out("Extra", path)


def test_missing_extra_state_is_told(tmp_path: Path) -> None:
    path = save({"weight": torch.ones(2)}, tmp_path / "bare.pt")
    assert misfit("Extra", path).missing == ["_extra_state"]
    assert carry_out("Extra", path, allow={"missing": ["_extra_state"]}).report.keys.missing == ["_extra_state"]


def test_lazy_modules_take_their_shapes_from_the_file(tmp_path: Path) -> None:
    saved = Lazy()
    saved(torch.zeros(1, 3))
    filled(saved)
    path = save(saved.state_dict(), tmp_path / "lazy.pt")
    model: Any = carry_out("Lazy", path).model
    assert same_tensor(model(torch.ones(1, 3)), saved.eval()(torch.ones(1, 3)))
    assert_same_state(model, saved.state_dict())
    live = Lazy()
    load_into(live, path)
    assert same_tensor(live(torch.ones(1, 3)), saved(torch.ones(1, 3)))


def test_a_lazy_module_that_the_file_does_not_fill_is_left_without_data(tmp_path: Path) -> None:
    path = save(nn.Linear(4, 2).state_dict(prefix="second."), tmp_path / "half.pt")
    with pytest.raises(loader.VerificationError) as refusal:
        carry_out("Lazy", path, allow={"missing": ["first.*"]})
    assert refusal.value.message == "2 tensors of the model are left without data: first.weight, first.bias"


def test_one_element_fills_a_scalar_as_in_torch(tmp_path: Path) -> None:
    path = save({"scale": torch.tensor([3.0]), "steps": torch.tensor([5])}, tmp_path / "old.pt")
    model: Any = carry_out("Scalars", path).model
    assert (model.scale.shape, model.scale.item(), model.steps.item()) == (torch.Size([]), 3.0, 5)


def test_a_scalar_does_not_fill_one_element(tmp_path: Path) -> None:
    path = save({"weight": torch.tensor(3.0)}, tmp_path / "scalar.pt")
    assert misfit({"_target_": "torch.nn.PReLU"}, path).mismatched == [Mismatch("weight", (1,), (), "weight")]


def test_entries_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    content = {**filled(Two()).state_dict(), "epoch": 3, "name": "run", "options": {"lr": 0.1}}
    report = carry_out("Two", save(content, tmp_path / "mixed.pt")).report
    assert report.parts[""].other == {"epoch": "int", "name": "str", "options": "dict"}
    assert report.parts[""].tensors == 4
    assert report.keys.unexpected == []


def test_an_entry_that_is_no_tensor_under_a_model_key_is_unexpected(tmp_path: Path) -> None:
    content = {**filled(Two()).state_dict(), "second.bias": 0.5}
    plan = misfit("Two", save(content, tmp_path / "odd.pt"))
    assert (plan.missing, plan.unexpected) == (["second.bias"], ["second.bias"])


def test_a_number_does_not_pass_for_a_scalar_beside_load_hooks(tmp_path: Path) -> None:
    live = nn.ModuleDict({"norm": nn.BatchNorm1d(2), "scalars": Scalars()})
    content: dict[str, Any] = {**live.state_dict(), "scalars.scale": 3.0}
    with pytest.raises(FitError) as refusal:
        load_into(live, save(content, tmp_path / "odd.pt"))
    assert refusal.value.plan is not None
    assert refusal.value.plan.refused == ["scalars.scale", "scalars.scale"]


# The model's own load hooks, and what travels beside the tensors.


def test_old_weight_norm_names_load_into_the_parametrized_one(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        old = nn.ModuleDict({"layer": weight_norm(nn.Linear(3, 4))})
    filled(old)
    path = save(old.state_dict(), tmp_path / "old.pt")
    assert {"layer.weight_g", "layer.weight_v"} < set(old.state_dict())
    reference = WeightNormed()
    reference.load_state_dict(old.state_dict())
    model: Any = carry_out("WeightNormed", path).model
    assert_same_state(model, reference.state_dict())
    assert same_tensor(model(torch.ones(1, 3)), reference.eval()(torch.ones(1, 3)))
    live = WeightNormed()
    load_into(live, path)
    assert_same_state(live, reference.state_dict())


def test_new_weight_norm_loads_as_it_is(tmp_path: Path) -> None:
    saved = filled(parametrizations.weight_norm(nn.Linear(3, 4)))
    path = save({f"layer.{key}": value for key, value in saved.state_dict().items()}, tmp_path / "new.pt")
    model = carry_out("WeightNormed", path).model
    assert same_tensor(
        model.get_parameter("layer.parametrizations.weight.original1"),
        saved.state_dict()["parametrizations.weight.original1"],
    )


def test_metadata_follows_its_keys_through_the_rules(tmp_path: Path) -> None:
    # A batch norm of version 2 must have num_batches_tracked; one without a version may lack it.
    saved = filled(nn.Sequential(OrderedDict(module=Normed()))).state_dict()
    del saved["module.norm.num_batches_tracked"]
    assert saved._metadata["module.norm"] == {"version": 2}  # type: ignore[attr-defined]
    path = save(saved, tmp_path / "ddp.pt")
    assert misfit("Normed", path, rules={"ddp": {"strip": "module."}}).missing == ["norm.num_batches_tracked"]
    plain = save(dict(saved), tmp_path / "plain.pt")
    loaded = carry_out("Normed", plain, rules={"ddp": {"strip": "module."}})
    assert loaded.report.keys.missing == []


def test_the_callers_dict_and_its_metadata_are_untouched() -> None:
    saved = filled(Normed()).state_dict()
    saved._metadata["norm"]["assign_to_params_buffers"] = True  # type: ignore[attr-defined]
    keys, metadata = list(saved), copy.deepcopy(saved._metadata)  # type: ignore[attr-defined]
    values = {key: value.clone() for key, value in saved.items()}
    load_into(Normed(), saved)
    assert list(saved) == keys
    assert saved._metadata == metadata  # type: ignore[attr-defined]
    assert all(same_tensor(saved[key], value) for key, value in values.items())


@pytest.mark.parametrize("kind", ["memory", "zip", "legacy"])
def test_metadata_cannot_switch_a_load_to_assigning(kind: str, tmp_path: Path) -> None:
    saved = filled(Normed()).state_dict()
    for values in saved._metadata.values():  # type: ignore[attr-defined]
        values["assign_to_params_buffers"] = True
    live = Normed()
    before = {key: (id(value), value.data_ptr()) for key, value in live.state_dict(keep_vars=True).items()}
    load_into(live, saved if kind == "memory" else save(saved, tmp_path / "file.pt", legacy=kind == "legacy"))
    after = {key: (id(value), value.data_ptr()) for key, value in live.state_dict(keep_vars=True).items()}
    assert before == after
    assert_same_state(live, saved)


def test_attributes_of_the_files_tensors_and_dicts_have_no_effect(tmp_path: Path) -> None:
    saved = filled(Two()).state_dict()
    saved["first.weight"].requires_grad_(True)
    saved.note = "from the file"  # type: ignore[attr-defined]
    model = carry_out("Two", save(saved, tmp_path / "noted.pt")).model
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())
    assert_same_state(model, saved)


def test_a_hook_that_refuses_the_file_is_told(tmp_path: Path) -> None:
    path = save(filled(nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(FitError) as before:
        carry_out(target("Refusing", when="before"), path)
    assert before.value.message == "the load hook of Refusing at '' raised RuntimeError: this file is too old"
    with pytest.raises(FitError) as after:
        carry_out(target("Refusing", when="after"), path)
    assert after.value.message == "a load hook of Refusing raised RuntimeError: this file is too old"


def test_a_hook_that_brings_the_models_own_value_gets_it_properly_initialised(tmp_path: Path) -> None:
    from tests.models import KeepsOwn

    saved = filled(nn.Linear(2, 2)).state_dict()
    loaded = carry_out("KeepsOwn", save(saved, tmp_path / "old.pt"), seed=3)
    torch.manual_seed(3)
    assert same_tensor(loaded.model.get_parameter("scale"), KeepsOwn().scale)
    assert same_tensor(loaded.model.get_parameter("weight"), saved["weight"])
    assert loaded.report.model is not None
    assert loaded.report.model.build.startswith("plain: ")


# Prefixes and wrappers.


def test_a_prefix_at_the_start(tmp_path: Path) -> None:
    saved = filled(Two()).state_dict()
    path = save({f"module.{key}": value for key, value in saved.items()}, tmp_path / "ddp.pt")
    loaded = carry_out("Two", path, rules={"ddp": {"strip": "module."}})
    assert_same_state(loaded.model, saved)
    assert loaded.report.parts[""].rules == [{"name": "ddp", "hits": 4}]


def test_a_prefix_in_the_middle_of_keys(tmp_path: Path) -> None:
    inner = filled(nn.Linear(2, 2)).state_dict()
    path = save({f"0._orig_mod.{key}": value for key, value in inner.items()}, tmp_path / "compiled.pt")
    live = nn.Sequential(nn.Linear(2, 2))
    report = load_into(live, path, rules={"compile": {"strip": "_orig_mod.", "anywhere": True}})
    assert_same_state(live[0], inner)
    assert report.parts[""].rules == [{"name": "compile", "hits": 2}]


def test_my_module_is_not_module(tmp_path: Path) -> None:
    saved = filled(Nested()).state_dict()
    path = save({f"module.{key}": value for key, value in saved.items()}, tmp_path / "ddp.pt")
    assert_same_state(carry_out("Nested", path, rules={"ddp": {"strip": "module."}}).model, saved)
    plain = save(saved, tmp_path / "plain.pt")
    plan = misfit("Nested", plain, rules={"ddp": {"strip": "module.", "anywhere": True}})
    assert plan.loaded == ["my_module.weight", "my_module.bias"]
    assert plan.unexpected == ["inner.weight", "inner.bias"]


@pytest.mark.parametrize("prefix", ["module._orig_mod.", "_orig_mod.module."])
def test_wrappers_in_both_orders(prefix: str, tmp_path: Path) -> None:
    saved = filled(Two()).state_dict()
    path = save({prefix + key: value for key, value in saved.items()}, tmp_path / "wrapped.pt")
    rules = {"ddp": {"strip": "module.", "anywhere": True}, "compile": {"strip": "_orig_mod.", "anywhere": True}}
    assert_same_state(carry_out("Two", path, rules=rules).model, saved)


def test_an_averaged_model_has_a_counter_beside_its_prefix(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(filled(Two()))
    path = save(averaged.state_dict(), tmp_path / "swa.pt")
    rules: dict[str, Any] = {"swa": {"strip": "module."}}
    assert misfit("Two", path, rules=rules).unexpected == ["n_averaged"]
    loaded = carry_out("Two", path, rules={**rules, "counter": {"drop": "n_averaged"}})
    assert_same_state(loaded.model, averaged.module.state_dict())
    assert loaded.report.keys.dropped == ["n_averaged"]


def test_averaged_weights_beside_raw_ones_are_never_chosen_silently(tmp_path: Path) -> None:
    raw_state, averaged = filled(Two(), 1).state_dict(), filled(Two(), 2).state_dict()
    path = save({"state_dict": raw_state, "ema_state_dict": averaged, "epoch": 1}, tmp_path / "train.pt")
    with pytest.raises(FitError) as refusal:
        carry_out("Two", path)
    assert "  state_dict: dict, 4 tensors" in refusal.value.message
    assert "  ema_state_dict: dict, 4 tensors" in refusal.value.message
    for key, state in (("state_dict", raw_state), ("ema_state_dict", averaged)):
        assert_same_state(carry_out("Two", path, checkpoint={"key": key}).model, state)


# The model's side.


def test_constructor_arguments_are_plain_python(tmp_path: Path) -> None:
    path = save(nn.Linear(2, 3, dtype=torch.float64).state_dict(prefix="linear."), tmp_path / "linear.pt")
    dtype = {"_target_": "hydra.utils.get_object", "path": "torch.float64"}
    model: Any = loader.load(
        {
            "model": target("Arguments", sizes=[2, 3], options={"deep": [{"x": 1}]}, dtype=dtype),
            "checkpoint": {"path": str(path)},
            "device": "cpu",
            "verify": {"forward": False},
        }
    ).model
    assert model.given == ([2, 3], {"deep": [{"x": 1}]}, torch.float64)
    sizes, options, kind = model.given
    assert [type(value) for value in (sizes, options, options["deep"], options["deep"][0], kind)] == [
        list, dict, list, dict, torch.dtype,
    ]  # fmt: skip


def test_a_backbone_into_a_larger_model_keeps_the_heads_initial_values(tmp_path: Path) -> None:
    path = save(filled(Two()).state_dict(), tmp_path / "backbone.pt")
    loaded = carry_out("Pair", path, rules={"in": {"add": "backbone."}}, allow={"missing": ["head.*"]}, seed=7)
    torch.manual_seed(7)
    fresh = Pair()
    assert same_tensor(loaded.model.get_parameter("head.weight"), fresh.head.weight)
    assert loaded.report.keys.missing == ["head.weight", "head.bias"]
