"""The dummy forward pass: its inputs, its parts, and how its failures are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader import ConfigError, VerificationError, load_into
from tests.jobs import carry_out, checks, detail, save, target
from tests.models import Behaving, Noisy, Pair, TwoInputs, filled, two_models


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    return save(filled(nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")


@pytest.fixture
def both(tmp_path: Path) -> Path:
    models: Any = filled(two_models())
    return save({"A": models["a"].state_dict(), "B": models["b"].state_dict()}, tmp_path / "both.pt")


PARTS = {"a": {"key": "A"}, "b": {"key": "B"}}
MODELS = {"_target_": "tests.models.two_models"}


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("raise", "the forward pass raised ValueError: cannot broadcast. Its input was [1, 2] float32 (verify.input)"),
        ("exit", "the forward pass raised SystemExit: 3. Its input was [1, 2] float32 (verify.input)"),
    ],
)
def test_a_forward_pass_that_fails_is_told_with_its_input(how: str, told: str, linear: Path) -> None:
    with pytest.raises(VerificationError) as refusal:
        carry_out(target("Behaving", how=how), linear, verify={"input": {"shape": [1, 2]}})
    assert refusal.value.message == told
    assert "\n" not in refusal.value.message
    assert refusal.value.hint == (
        "'verify.input={shape: [1, 3, 224, 224]}'   # the shape your model takes, a list for several inputs, names for "
        "keyword arguments\nverify.forward=false   # leaves it out"
    )
    assert refusal.value.exit_code == 5


def test_an_input_of_the_wrong_shape_is_told(linear: Path) -> None:
    with pytest.raises(VerificationError, match=r"raised RuntimeError: .*\[1, 5\] float32 \(verify\.input\)"):
        carry_out("Behaving", linear, verify={"input": {"shape": [1, 5]}})


def test_a_forward_pass_that_gives_no_tensor_is_told(linear: Path) -> None:
    with pytest.raises(VerificationError) as refusal:
        carry_out(target("Behaving", how="nothing"), linear, verify={"input": {"shape": [1, 2]}})
    assert refusal.value.message == "the forward pass returns no tensor"
    assert refusal.value.hint == "verify.forward=false   # leaves it out"


def test_an_interruption_is_no_failure_of_the_model(linear: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        carry_out(target("Behaving", how="interrupt"), linear, verify={})


def test_no_forward_pass_where_it_is_left_out(linear: Path) -> None:
    report = carry_out(target("Behaving", how="raise"), linear, verify={"forward": False}).report
    assert report.verification.outputs == []
    assert "forward pass" not in checks(report)


def test_no_gradients_are_recorded(linear: Path) -> None:
    seen = []

    class Watching(Behaving):
        def forward(self, x: torch.Tensor) -> Any:
            seen.append((torch.is_grad_enabled(), self.training))
            return super().forward(x)

    load_into(Watching(), linear, verify={})
    assert seen == [(False, False)]


def test_random_numbers_in_the_model_come_from_the_seed(linear: Path) -> None:
    live = Noisy(2, 2)

    def output(seed: int) -> Any:
        return load_into(live, linear, seed=seed, verify={"input": {"value": [[1.0, 1.0]]}}).verification.outputs

    state = torch.get_rng_state()
    assert output(0) == output(0)
    assert output(0)[0]["sha256"] != output(1)[0]["sha256"]
    assert torch.equal(torch.get_rng_state(), state)


def test_inputs_by_keyword(tmp_path: Path) -> None:
    path = save(filled(TwoInputs()).state_dict(), tmp_path / "two.pt")
    inputs = {"x": {"shape": [1, 3]}, "mask": {"shape": [1, 3], "dtype": "bool"}}
    report = carry_out("TwoInputs", path, verify={"input": inputs}).report
    assert [(given["name"], given["dtype"]) for given in report.verification.inputs] == [
        ("x", "float32"), ("mask", "bool"),
    ]  # fmt: skip
    carry_out("TwoInputs", path, verify={"input": [inputs["x"], inputs["mask"]]})
    with pytest.raises(VerificationError, match=r"mask is torch\.float32. Its input was x \[1, 3\] float32, mask"):
        carry_out("TwoInputs", path, verify={"input": {**inputs, "mask": {"shape": [1, 3]}}})


def test_inputs_take_the_dtype_that_the_model_computes_in(linear: Path) -> None:
    for dtype in ("float64", "bfloat16"):
        report = carry_out("Behaving", linear, dtype=dtype, verify={"input": {"shape": [1, 2]}}).report
        assert report.verification.inputs[0]["dtype"] == report.verification.outputs[0]["dtype"] == dtype


def test_models_that_know_nothing_of_each_other_run_each_on_their_own(both: Path) -> None:
    report = carry_out(MODELS, both, parts=PARTS, verify={}).report
    assert [output["name"] for output in report.verification.outputs] == ["a.0", "b.0"]
    assert [given["shape"] for given in report.verification.inputs] == [[1, 3], [1, 2]]
    assert {"forward pass of a", "forward pass of b", "finite outputs of b"} <= set(checks(report))


def test_inputs_by_part(both: Path) -> None:
    inputs = {"a": {"shape": [4, 3]}, "b": {"shape": [5, 2]}}
    report = carry_out(MODELS, both, parts=PARTS, verify={"input": inputs}).report
    assert [given["shape"] for given in report.verification.inputs] == [[4, 3], [5, 2]]
    assert [given["origin"] for given in report.verification.inputs] == ["verify.input.a", "verify.input.b"]
    report = carry_out(MODELS, both, parts=PARTS, verify={"input": {"b": inputs["b"]}}).report
    assert [given["shape"] for given in report.verification.inputs] == [[1, 3], [5, 2]]


def test_a_failure_in_one_part_names_it(both: Path) -> None:
    with pytest.raises(VerificationError) as refusal:
        carry_out(MODELS, both, parts=PARTS, verify={"input": {"b": {"shape": [1, 9]}}})
    assert refusal.value.message.startswith("the forward pass of b raised RuntimeError: ")
    assert refusal.value.hint.startswith("'verify.input.b={shape: ")


def test_parts_of_one_model_run_as_one(tmp_path: Path) -> None:
    saved = filled(Pair())
    body = save(saved.get_submodule("backbone").state_dict(), tmp_path / "body.pt")
    head = save(saved.get_submodule("head").state_dict(), tmp_path / "head.pt")
    parts = {"backbone": {"path": str(body)}, "head": {"path": str(head)}}
    report = carry_out("Pair", body, parts=parts, verify={"input": {"shape": [3, 4]}}).report
    assert [output["shape"] for output in report.verification.outputs] == [[3, 2]]
    assert list(report.parts) == ["backbone", "head"]


def test_a_wrong_spec_is_told_with_its_place(both: Path) -> None:
    with pytest.raises(ConfigError, match=r"^unknown config key 'verify\.input\.b\.shap'"):
        carry_out(MODELS, both, parts=PARTS, verify={"input": {"b": {"value": 1, "shap": [1]}}})


def test_on_the_meta_device_shapes_are_all_there_is(linear: Path) -> None:
    loaded = carry_out("Behaving", linear, device="meta", verify={"expect": {"shape": [1, 2]}})
    assert all(parameter.is_meta for parameter in loaded.model.parameters())
    (output,) = loaded.report.verification.outputs
    assert (output["shape"], output["device"], output["mean"], output["finite"]) == ([1, 2], "meta", None, None)
    assert loaded.report.verification.fingerprint is None
    assert set(checks(loaded.report)) == {"complete", "eval mode", "forward pass", "output shape", "read back"}
    why = "not done: device=meta reads no values, so the weights have no fingerprint"
    assert (checks(loaded.report)["read back"], detail(loaded.report, "read back")) == (None, why)
    assert loaded.report.keys.loaded == 2
    with pytest.raises(VerificationError, match=r"output shape: \[1, 2\], expected \[7\]"):
        carry_out("Behaving", linear, device="meta", verify={"expect": {"shape": [7]}})
