"""Verification must be able to fail: each fault that a plain load lets pass is injected and caught."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader import CheckpointError, FitError, VerificationError, load_into
from loader.apply.place import settle
from tests.jobs import carry_out, checks, detail, save, snapshot, target
from tests.models import Two, filled

INPUT = {"input": {"shape": [2, 4]}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint with its golden record beside it."""
    file = save(filled(Two()).state_dict(), tmp_path / "two.pt")
    carry_out("Two", file, verify={**INPUT, "record": True})
    return file


@pytest.fixture
def after_apply(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], object]], None]:
    """Does something to a model right after its load, as a bug of the loader would."""

    def arrange(change: Callable[[Any], object]) -> None:
        def spoilt(model: nn.Module, *rest: Any) -> None:
            settle(model, *rest)
            with torch.no_grad():
                change(model)

        monkeypatch.setattr("loader.apply.target.settle", spoilt)

    return arrange


def test_nothing_is_wrong_with_a_good_load(path: Path) -> None:
    report = carry_out("Two", path, verify=INPUT).report
    assert checks(report) == dict.fromkeys(
        ("complete", "eval mode", "read back", "finite weights", "forward pass", "finite outputs", "golden record"),
        True,
    )
    assert detail(report, "complete") == "every parameter, buffer and tensor attribute has its data"
    assert detail(report, "eval mode") == "every module"
    assert detail(report, "read back") == "4 of 4 tensors compared with the file, all bytes"
    assert detail(report, "finite weights") == detail(report, "finite outputs") == "all of them"
    assert detail(report, "forward pass") == "gives [2, 4] (verify.input)"
    assert detail(report, "golden record").startswith("as recorded: largest difference 0 ")


def test_another_activation_is_caught_by_the_record(path: Path) -> None:
    with pytest.raises(VerificationError) as refusal:
        carry_out(target("Two", activation="tanh"), path, verify=INPUT)
    assert refusal.value.message.startswith("golden record: output 0 differs by up to ")
    assert "(rtol 0.0001, atol 1e-05)" in refusal.value.message
    assert refusal.value.hint == (
        "the model no longer computes what was recorded: compare its code and arguments\n"
        "verify.record=true   # replaces the record\n"
        "verify.atol=0.48   # accepts this difference\n"
        "verify.golden=null   # leaves it out"
    )
    assert refusal.value.exit_code == 5
    carry_out(target("Two", activation="tanh"), path, verify={**INPUT, "atol": 0.48})


def test_weights_that_changed_places_after_the_load_are_caught_by_reading_back(
    path: Path, after_apply: Callable[[Callable[[Any], object]], None]
) -> None:
    def swap(model: Any) -> None:
        model.first.weight, model.second.weight = model.second.weight, model.first.weight

    after_apply(swap)
    with pytest.raises(VerificationError) as refusal:
        carry_out("Two", path, verify={"forward": False})
    assert refusal.value.message == (
        "read back: 4 of 4 tensors compared with the file, all bytes; not what the file holds: first.weight, "
        "second.weight"
    )
    assert "the file was rewritten" in refusal.value.hint


def test_weights_that_changed_places_in_the_file_are_caught_by_the_record(path: Path) -> None:
    state = filled(Two()).state_dict()
    state["first.weight"], state["second.weight"] = state["second.weight"], state["first.weight"]
    save(state, path)
    with pytest.raises(VerificationError, match=r"^golden record: output 0 differs by up to"):
        carry_out("Two", path, verify=INPUT)


def test_a_layer_whose_weights_are_not_in_the_file_is_caught_by_the_plan(path: Path) -> None:
    state = {key: value for key, value in filled(Two()).state_dict().items() if not key.startswith("second")}
    save(state, path)
    with pytest.raises(FitError) as refusal:
        carry_out("Two", path)
    assert refusal.value.plan is not None
    assert refusal.value.plan.refused == ["second.weight", "second.bias"]
    with pytest.raises(VerificationError, match=r"^golden record: "):
        carry_out("Two", path, allow={"missing": ["second.*"]}, verify=INPUT)


def test_one_changed_bit_of_the_file_is_caught_by_its_checksum(path: Path) -> None:
    data = bytearray(path.read_bytes())
    bias = filled(Two()).get_parameter("second.bias").detach().numpy().tobytes()
    data[data.index(bias)] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"two\.pt is damaged: .*; damaged with them: second\.bias") as refusal:
        carry_out("Two", path)
    assert refusal.value.exit_code == 3


def test_one_changed_bit_after_the_load_is_caught_by_reading_back(
    path: Path, after_apply: Callable[[Callable[[Any], object]], None]
) -> None:
    after_apply(lambda model: model.second.bias.view(torch.int32).bitwise_xor_(1))
    with pytest.raises(VerificationError, match=r"^read back: .*; not what the file holds: second\.bias\n"):
        carry_out("Two", path, verify={"forward": False})


def test_a_layer_that_was_initialised_again_is_caught_by_reading_back(
    path: Path, after_apply: Callable[[Callable[[Any], object]], None]
) -> None:
    after_apply(lambda model: model.first.reset_parameters())
    with pytest.raises(VerificationError, match=r"not what the file holds: first\.weight, first\.bias"):
        carry_out("Two", path, verify={"forward": False})


def test_a_model_in_training_mode_is_caught(tmp_path: Path) -> None:
    path = save(filled(nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(VerificationError) as refusal:
        carry_out(target("HalfTrained", in_features=2, out_features=2), path)
    assert refusal.value.message == "eval mode: in training mode: the model itself"


def test_a_tensor_without_data_is_caught_wherever_it_is(tmp_path: Path) -> None:
    path = save(filled(nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(VerificationError) as refusal:
        carry_out("Hollowed", path)
    assert refusal.value.message == "1 tensor of the model is left without data: cache"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_caught(value: float, path: Path) -> None:
    state = filled(Two()).state_dict()
    state["second.weight"][1, 2] = value
    save(state, path)
    with pytest.raises(VerificationError) as refusal:
        carry_out("Two", path)
    assert refusal.value.message == "finite weights: inf or nan in second.weight"
    assert refusal.value.hint == "verify.expect.finite=false   # accepts inf and nan"
    carry_out("Two", path, verify={"forward": False, "expect": {"finite": False}})


def test_outputs_that_are_no_numbers_are_caught(tmp_path: Path) -> None:
    path = save(filled(nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(VerificationError) as refusal:
        carry_out(target("Behaving", how="nan"), path, verify={"input": {"shape": [1, 2]}})
    assert refusal.value.message == "finite outputs: inf or nan in output 0"
    report = carry_out(target("Behaving", how="nan"), path, verify={"expect": {"finite": False}}).report
    assert report.verification.outputs[0]["finite"] is False
    assert report.verification.outputs[0]["mean"] is None


def test_another_output_shape_is_caught(path: Path) -> None:
    with pytest.raises(VerificationError) as refusal:
        carry_out("Two", path, verify={**INPUT, "expect": {"shape": [2, 5]}})
    assert refusal.value.message == "output shape: [2, 4], expected [2, 5]"
    assert refusal.value.hint == "'verify.expect.shape=[…]'   # says what is right"
    assert checks(carry_out("Two", path, verify={**INPUT, "expect": {"shape": [2, 4]}}).report)["output shape"]


def test_everything_that_is_wrong_is_told_at_once(path: Path) -> None:
    state = filled(Two()).state_dict()
    state["second.weight"][1, 2] = float("nan")
    save(state, path)
    with pytest.raises(VerificationError) as refusal:
        carry_out("Two", path, verify={**INPUT, "expect": {"shape": [1]}})
    told = [part.partition(":")[0] for part in refusal.value.message.split("; ") if ": " in part]
    assert told == ["finite weights", "output shape", "finite outputs", "golden record"]


def test_a_live_model_that_fails_its_verification_gets_its_weights_back(path: Path) -> None:
    live = Two(activation="tanh")
    before = snapshot(live)
    with pytest.raises(VerificationError, match="golden record"):
        load_into(live, path, verify=INPUT)
    assert snapshot(live) == before


def test_large_weights_are_read_back_in_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("loader.verify.rereading.WHOLE_BELOW", 1000)
    node = {"_target_": "torch.nn.Linear", "in_features": 100, "out_features": 50}
    path = save(filled(nn.Linear(100, 50)).state_dict(), tmp_path / "large.pt")
    report = carry_out(node, path).report
    assert detail(report, "read back") == "2 of 2 tensors compared with the file, samples of every tensor"

    def spoilt(model: Any, *rest: Any) -> None:
        settle(model, *rest)
        with torch.no_grad():
            model.weight[-1, -1] += 1

    monkeypatch.setattr("loader.apply.target.settle", spoilt)
    with pytest.raises(VerificationError, match="not what the file holds: weight"):
        carry_out(node, path)


def test_what_load_hooks_compute_is_told_not_to_be_compared(tmp_path: Path) -> None:
    state = {"linear.weight": torch.ones(4, 3), "linear.bias": torch.ones(4)}
    norm = nn.BatchNorm1d(4).state_dict(prefix="norm.")
    del norm["norm.num_batches_tracked"]
    path = save({**state, **dict(norm)}, tmp_path / "old.pt")
    report = carry_out("Normed", path).report
    assert detail(report, "read back") == ("6 of 7 tensors compared with the file, all bytes; 1 come out of load hooks")


def test_verification_leaves_no_trace_in_a_live_model(tmp_path: Path) -> None:
    live = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    state = {key: value.clone() for key, value in filled(live, 3).state_dict().items()}
    load_into(live, save(state, tmp_path / "norm.pt"), verify={"input": {"shape": [2, 4]}})
    assert all(torch.equal(value, state[key]) for key, value in live.state_dict().items())
    assert all(module.training for module in live.modules())
    assert all(parameter.grad is None for parameter in live.parameters())
