"""The whole flow: dtypes, devices, allowances, parts, dry runs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from loader import ConfigError, DeviceError, FitError
from tests.jobs import assert_same_state, carry_out, same_tensor, save, target
from tests.models import Buffers, Pair, Two, filled, two_models


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(filled(Two()).state_dict(), tmp_path / "two.pt")


# dtype.


def test_by_default_the_model_declares_the_dtype(tmp_path: Path) -> None:
    half = save(filled(Two()).half().state_dict(), tmp_path / "half.pt")
    loaded = carry_out("Two", half)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert [cast["checkpoint"] for cast in loaded.report.keys.cast] == ["float16"] * 4


def test_the_checkpoint_can_decide_the_dtype(tmp_path: Path) -> None:
    state = filled(Two()).half().state_dict()
    state["second.bias"] = state["second.bias"].double()
    loaded = carry_out("Two", save(state, tmp_path / "mixed.pt"), dtype="checkpoint")
    assert_same_state(loaded.model, state)
    assert loaded.report.keys.cast == []
    assert loaded.report.model is not None
    assert loaded.report.model.dtypes == ["float16", "float64"]


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64", "bf16", "torch.float16"])
def test_a_dtype_is_for_the_whole_model(name: str, tmp_path: Path) -> None:
    path = save(filled(Buffers()).state_dict(), tmp_path / "buffers.pt")
    model: Any = carry_out("Buffers", path, dtype=name, verify={}).model
    floating = [*model.parameters(), *model.buffers()]
    (dtype,) = {tensor.dtype for tensor in floating}
    assert str(dtype).removeprefix("torch.") in (name.removeprefix("torch."), "bfloat16")
    assert model.computed.tolist() == [0.0, 1.0, 2.0]


def test_a_dtype_reaches_what_was_not_loaded_but_no_integers(tmp_path: Path) -> None:
    path = save(filled(nn.BatchNorm1d(4)).state_dict(prefix="norm."), tmp_path / "norm.pt")
    model: Any = carry_out("Normed", path, dtype="float64", allow={"missing": ["linear.*"]}).model
    assert model.linear.weight.dtype == model.norm.weight.dtype == torch.float64
    assert model.norm.num_batches_tracked.dtype == torch.int64


def test_a_model_that_does_not_know_the_dtype_is_told(path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        carry_out("Two", path, dtype="int8")
    assert refusal.value.message.startswith("'dtype' is 'int8', expected null, checkpoint or one of float16, bfloat16")
    assert refusal.value.hint == "dtype=null   # each as the model declares it"


# Devices.


def test_the_meta_device_holds_no_values(path: Path) -> None:
    loaded = carry_out("Two", path, device="meta", verify={})
    assert all(tensor.is_meta for tensor in (*loaded.model.parameters(), *loaded.model.buffers()))
    assert loaded.report.exit_code == 0
    assert loaded.report.model is not None
    assert (loaded.report.model.device, loaded.report.model.bytes) == ("meta", 160)


def test_keys_must_fit_on_the_meta_device_too(tmp_path: Path) -> None:
    path = save({"first.weight": torch.zeros(4, 4)}, tmp_path / "part.pt")
    with pytest.raises(FitError):
        carry_out("Two", path, device="meta")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_a_device_that_is_not_there_is_told_before_the_file_is_opened(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as refusal:
        carry_out("Two", tmp_path / "no.pt", device="cuda:1")
    assert refusal.value.message == "device 'cuda:1' is not on this machine; available: cpu, meta"
    assert refusal.value.hint == "device=auto   # takes the first available accelerator, or the CPU"
    assert refusal.value.exit_code == 6


# Allowances.


@pytest.mark.parametrize("seed", [0, 5])
def test_what_stays_unloaded_is_what_a_plain_seeded_build_gives(seed: int, tmp_path: Path) -> None:
    state = filled(Pair()).state_dict()
    path = save({key: value for key, value in state.items() if key != "head.weight"}, tmp_path / "pair.pt")
    loaded = carry_out("Pair", path, allow={"missing": ["head.weight"]}, seed=seed)
    torch.manual_seed(seed)
    fresh = Pair()
    assert same_tensor(loaded.model.get_parameter("head.weight"), fresh.head.weight)
    assert same_tensor(loaded.model.get_parameter("head.bias"), state["head.bias"])
    assert loaded.report.model is not None
    assert loaded.report.model.build == "plain: keys that may stay unloaded keep the model's own initialization"


def test_a_mismatched_key_keeps_the_models_value(tmp_path: Path) -> None:
    state = {**filled(Pair()).state_dict(), "head.weight": torch.ones(9, 4)}
    path = save(state, tmp_path / "pair.pt")
    loaded = carry_out("Pair", path, allow={"mismatched": ["head.*"]}, seed=2)
    torch.manual_seed(2)
    assert same_tensor(loaded.model.get_parameter("head.weight"), Pair().head.weight)
    assert loaded.report.keys.mismatched == [{"key": "head.weight", "model": [2, 4], "checkpoint": [9, 4]}]
    assert loaded.report.keys.loaded == 5


def test_a_load_that_loads_nothing_is_refused_under_every_allowance(tmp_path: Path) -> None:
    path = save({"other.weight": torch.ones(2)}, tmp_path / "other.pt")
    everything = {"missing": ["*"], "unexpected": ["*"], "mismatched": ["*"]}
    for model in ("Two", "Normed"):
        with pytest.raises(FitError) as refusal:
            carry_out(model, path, allow=everything)
        assert " 0 of " in refusal.value.message
        assert refusal.value.plan is not None
        assert refusal.value.plan.loaded == []


def test_a_refusal_carries_its_plan(tmp_path: Path) -> None:
    path = save({"first.weight": torch.ones(4, 4), "extra": torch.ones(1)}, tmp_path / "part.pt")
    with pytest.raises(FitError) as refusal:
        carry_out("Two", path)
    plan = refusal.value.plan
    assert plan is not None
    assert (plan.loaded, plan.missing, plan.unexpected) == (
        ["first.weight"], ["first.bias", "second.weight", "second.bias"], ["extra"],
    )  # fmt: skip


# Parts.

MODELS = {"_target_": "tests.models.two_models"}


def test_two_models_out_of_one_file(tmp_path: Path) -> None:
    models: Any = filled(two_models())
    content = {"modelA": models["a"].state_dict(), "modelB": models["b"].state_dict(), "epoch": 2}
    loaded = carry_out(
        MODELS, save(content, tmp_path / "both.pt"), parts={"a": {"key": "modelA"}, "b": {"key": "modelB"}}, verify={}
    )
    assert_same_state(loaded.model, models.state_dict())
    assert {name: (part.key, part.tensors) for name, part in loaded.report.parts.items()} == {
        "a": ("modelA", 2), "b": ("modelB", 2),
    }  # fmt: skip


def test_a_backbone_and_a_head_out_of_two_files_with_rules_of_their_own(tmp_path: Path) -> None:
    saved: Any = filled(Pair())
    body = {f"module.{key}": value for key, value in saved.backbone.state_dict().items()}
    head = {"classifier." + key: value for key, value in saved.head.state_dict().items()}
    parts = {
        "backbone": {"path": str(save(body, tmp_path / "body.pt")), "rules": {"ddp": {"strip": "module."}}},
        "head": {"path": str(save(head, tmp_path / "head.pt")), "rules": {"head": {"strip": "classifier."}}},
    }
    loaded = carry_out("Pair", "", parts=parts, verify={})
    assert_same_state(loaded.model, saved.state_dict())
    assert [part.rules for part in loaded.report.parts.values()] == [
        [{"name": "ddp", "hits": 4}], [{"name": "head", "hits": 2}],
    ]  # fmt: skip


def test_allowances_and_the_report_use_full_model_keys(tmp_path: Path) -> None:
    body = filled(Two()).state_dict() | {"old": torch.ones(1)}
    del body["second.bias"]
    parts = {"backbone": {"path": str(save(body, tmp_path / "body.pt"))}}
    allow = {"missing": ["head.*", "backbone.second.bias"], "unexpected": ["backbone.old"]}
    report = carry_out("Pair", "", parts=parts, allow=allow).report
    assert report.keys.missing == ["backbone.second.bias", "head.weight", "head.bias"]
    assert report.keys.unexpected == ["backbone.old"]


def test_a_part_that_the_model_does_not_have_is_told(path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        carry_out("Pair", path, parts={"backbon": {}})
    assert refusal.value.message == (
        "parts names backbon, which the model does not have (did you mean 'backbone'?); its submodules are backbone, "
        "head"
    )
    assert refusal.value.hint == f"'parts={{backbone: {{path: {path}}}}}'"


def test_a_part_with_a_strange_name_is_given_to_the_one_submodule_that_its_file_fits(tmp_path: Path) -> None:
    saved = filled(Pair())
    for state, submodule in ((saved.get_submodule("head").state_dict(), "head"), (saved.state_dict(), "SUBMODULE")):
        file = save(state, tmp_path / "part.pt")
        with pytest.raises(ConfigError, match="its submodules are backbone, head") as refusal:
            carry_out("Pair", "", parts={"zzz": {"path": str(file)}})
        assert refusal.value.hint == f"'parts={{{submodule}: {{path: {file}}}}}'"


def test_other_parts_and_what_is_set_stay_in_the_line_to_type(path: Path) -> None:
    parts = {"haed": {"key": "net", "rules": {"ddp": {"strip": "module."}}}, "backbone": {"rules": "auto"}}
    with pytest.raises(ConfigError, match=r"\(did you mean 'head'\?\)") as refusal:
        carry_out("Pair", path, parts=parts)
    assert refusal.value.hint == (
        f"'parts={{head: {{path: {path}, key: net, rules: {{ddp: {{strip: module.}}}}}}, "
        f"backbone: {{path: {path}, rules: auto}}}}'"
    )


def test_parts_that_overlap_are_told(path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        carry_out("Pair", path, parts={"backbone": {}, "backbone.first": {}})
    assert refusal.value.message == "parts overlap: backbone.first lies in backbone"
    assert refusal.value.hint == "give each key of the model to one part alone"


def test_a_part_without_a_file_is_told() -> None:
    with pytest.raises(ConfigError) as refusal:
        carry_out("Pair", "", parts={"head": {}})
    assert (refusal.value.message, refusal.value.hint) == (
        "'parts.head.path' is required", "parts.head.path=FILE",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"^'checkpoint\.path' is required"):
        carry_out("Pair", "")


def test_a_file_that_two_parts_name_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import loader.parts.open
    from loader.parts.open import open_checkpoint

    models: Any = filled(two_models())
    path = save({"a": models["a"].state_dict(), "b": models["b"].state_dict()}, tmp_path / "both.pt")
    opened = []
    original = open_checkpoint

    def count(*args: Any, **kwargs: Any) -> Any:
        opened.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(loader.parts.open, "open_checkpoint", count)
    carry_out(MODELS, path, parts={"a": {"key": "a"}, "b": {"key": "b"}})
    assert len(opened) == 1


# Dry runs, and what a job leaves alone.


def test_a_dry_run_reads_no_tensor_and_verifies_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from loader.formats.opened import OpenedFile

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(OpenedFile, "read", refuse)
    monkeypatch.setattr(OpenedFile, "verify", refuse)
    loaded = carry_out("Two", path, mode="plan", verify={})
    assert (loaded.report.mode, loaded.report.keys.loaded) == ("plan", 4)
    assert (loaded.report.verification.checks, loaded.report.verification.outputs) == ([], [])
    with pytest.raises(FitError):
        carry_out("Pair", path, mode="plan")


def test_the_global_random_states_are_left_as_they_were(path: Path) -> None:
    before = (torch.get_rng_state(), random.getstate(), str(np.random.get_state()))
    carry_out("Two", path, verify={})
    carry_out("Pair", path, rules={"in": {"add": "backbone."}}, allow={"missing": ["head.*"]}, verify={})
    with pytest.raises(FitError):
        carry_out("Pair", path)
    after = (torch.get_rng_state(), random.getstate(), str(np.random.get_state()))
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_the_model_comes_in_eval_mode_and_can_be_trained(path: Path) -> None:
    model = carry_out("Two", path).model
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())
    model.train()(torch.ones(1, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_parameters_that_do_not_learn_stay_so(tmp_path: Path) -> None:
    path = save({"weight": torch.ones(2, 3, dtype=torch.int8), "count": torch.arange(3)}, tmp_path / "int.pt")
    assert not carry_out(target("Typed", dtype="int8"), path).model.get_parameter("weight").requires_grad


def test_a_refused_job_reports_what_was_known(tmp_path: Path) -> None:
    from loader.job import execute
    from loader.report.data import Report
    from tests.jobs import job

    path = save({"first.weight": torch.ones(4, 4)}, tmp_path / "part.pt")
    report = Report()
    with pytest.raises(FitError):
        execute(job("Two", path), report)
    assert (report.status, report.exit_code) == ("failed", 4)
    assert report.error is not None
    assert report.error.type == "FitError"
    assert report.keys.missing == ["first.bias", "second.weight", "second.bias"]
    assert report.parts[""].format == "torch-zip"
    assert report.model is not None
    assert report.model.parameters == 40
    assert {"open", "build", "plan", "total"} <= set(report.timings)


def test_a_job_refused_for_its_casts_reports_them(tmp_path: Path) -> None:
    from loader.job import execute
    from loader.report.data import Report
    from tests.jobs import job

    state = {"first.weight": torch.full((4, 4), 1e6), "first.bias": torch.ones(4)}
    path = save(state | {"second.weight": torch.ones(4, 4), "second.bias": torch.ones(4)}, tmp_path / "large.pt")
    report = Report()
    with pytest.raises(FitError, match="a cast would change values"):
        execute(job("Two", path, dtype="float16"), report)
    assert [cast["loss"] for cast in report.keys.cast if cast["loss"]] == ["16 elements become inf or nan"]
    assert report.keys.loaded == 4
