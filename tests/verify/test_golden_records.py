"""Golden records: written, found, compared with, and refused."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from loader import CheckpointError, ConfigError, VerificationError, load, load_into
from loader.verify import golden
from loader.verify.golden import Record, differences
from loader.verify.inputs import Inputs
from tests.formats.sharding import write_shards
from tests.hostile.samples import distributed
from tests.jobs import carry_out, checks, detail, save, target
from tests.models import Two, filled, two_models

INPUT = {"input": {"shape": [2, 4]}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(filled(Two()).state_dict(), tmp_path / "two.pt")


def record_beside(path: Path) -> Path:
    return path.with_name(path.name + ".golden.safetensors")


def test_a_record_is_written_beside_the_file_and_found_again(path: Path) -> None:
    report = carry_out("Two", path, verify={**INPUT, "record": True}).report
    beside = record_beside(path)
    assert detail(report, "golden record") == f"written to {beside}"
    held = load_file(beside)
    assert {name: tuple(value.shape) for name, value in held.items()} == {"input.0": (2, 4), "output.0": (2, 4)}
    again = carry_out("Two", path, verify={}).report
    assert checks(again)["golden record"]
    assert (report.verification.golden_diff, again.verification.golden_diff) == (None, 0.0)
    assert again.verification.inputs[0]["origin"] == "golden record two.pt.golden.safetensors"
    assert again.verification.fingerprint == report.verification.fingerprint


def test_no_record_is_no_check(path: Path) -> None:
    assert "golden record" not in checks(carry_out("Two", path, verify=INPUT).report)


def test_a_record_is_replaced_whatever_stands_there(path: Path) -> None:
    record_beside(path).write_bytes(b"broken")
    carry_out("Two", path, verify={**INPUT, "record": True})
    assert checks(carry_out("Two", path, verify={}).report)["golden record"]
    assert list(path.parent.glob(".*")) == []


def test_recording_compares_with_nothing(path: Path) -> None:
    carry_out("Two", path, verify={**INPUT, "record": True})
    report = carry_out(target("Two", activation="tanh"), path, verify={**INPUT, "record": True}).report
    assert checks(report)["golden record"]
    assert checks(carry_out(target("Two", activation="tanh"), path, verify={}).report)["golden record"]


def test_nothing_is_recorded_where_a_check_fails(path: Path) -> None:
    with pytest.raises(VerificationError, match="output shape"):
        carry_out("Two", path, verify={**INPUT, "record": True, "expect": {"shape": [9]}})
    assert not record_beside(path).exists()


def test_a_named_record_is_used_with_an_input_of_ones_own(path: Path, tmp_path: Path) -> None:
    carry_out("Two", path, verify={**INPUT, "record": True})
    named = tmp_path / "elsewhere.safetensors"
    shutil.move(record_beside(path), named)
    report = carry_out("Two", path, verify={"input": {"shape": [5, 4]}, "golden": str(named)}).report
    assert checks(report)["golden record"]
    assert report.verification.inputs[0]["shape"] == [5, 4]
    with pytest.raises(VerificationError, match=r"^golden record: output 0 differs"):
        carry_out(target("Two", activation="tanh"), path, verify={"input": {"shape": [5, 4]}, "golden": str(named)})
    carry_out(target("Two", activation="tanh"), path, verify={**INPUT, "golden": None})


def test_the_record_of_the_shipped_example_is_not_offered_to_be_replaced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(golden, "differences", lambda *_: (["output 0 differs by up to 1"], "", 1.0))
        with pytest.raises(VerificationError, match=r"^golden record: ") as refusal:
            load([])
    assert [fix.line for fix in refusal.value.fixes] == ["", "verify.atol=1.1", "verify.golden=null"]
    carry_out("Two", path, verify={**INPUT, "record": True})
    with pytest.raises(VerificationError) as refusal:
        carry_out(target("Two", activation="tanh"), path, verify={})
    assert "verify.record=true   # replaces the record" in refusal.value.hint


def test_a_record_that_is_not_there_is_a_wrong_config(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        carry_out("Two", path, verify={"golden": str(tmp_path / "no.safetensors")})
    assert refusal.value.message == f"golden record {tmp_path / 'no.safetensors'} does not exist"
    assert refusal.value.hint == (
        "verify.golden=auto   # takes the one next to the checkpoint\nverify.record=true   # writes it"
    )


def test_a_broken_record_cannot_be_read(path: Path) -> None:
    record_beside(path).write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{broken}")
    with pytest.raises(CheckpointError, match=r"two\.pt\.golden\.safetensors"):
        carry_out("Two", path, verify={})


def test_another_file_is_no_record(path: Path, tmp_path: Path) -> None:
    save_file({"first.weight": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError) as refusal:
        carry_out("Two", path, verify={"golden": str(tmp_path / "weights.safetensors")})
    assert refusal.value.message == (
        f"{tmp_path / 'weights.safetensors'} is not a golden record: expected tensors named input.… and "
        "output.…, found first.weight"
    )
    assert refusal.value.hint == "verify.record=true   # writes one\nverify.golden=null   # does without"


@pytest.mark.parametrize(
    ("verify", "told"),
    [
        ({"forward": False, "record": True}, "verify.record=true needs the forward pass, and verify.forward is false"),
        ({"forward": False, "golden": "g"}, "verify.golden=g needs the forward pass, and verify.forward is false"),
    ],
)
def test_a_record_needs_the_forward_pass(verify: dict[str, Any], told: str, path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        carry_out("Two", path, verify=verify)
    assert (refusal.value.message, refusal.value.hint) == (told, "verify.forward=true")


def test_a_record_needs_one_file_to_stand_beside(path: Path, tmp_path: Path) -> None:
    other = save(filled(nn.Linear(4, 2)).state_dict(), tmp_path / "head.pt")
    parts = {"backbone": {}, "head": {"path": str(other)}}
    with pytest.raises(ConfigError) as refusal:
        carry_out("Pair", path, parts=parts, verify={**INPUT, "record": True})
    assert refusal.value.message == "verify.record=true writes next to a job's one checkpoint file, and this job has 2"
    with pytest.raises(ConfigError, match="and this job has none"):
        load_into(Two(), filled(Two()).state_dict(), verify={**INPUT, "record": True})


def test_the_root_that_parts_leave_to_another_file_counts_as_a_file(tmp_path: Path) -> None:
    """Also where that file has the name of the record."""
    whole = filled(two_models()).state_dict()
    first = save({key[2:]: value for key, value in whole.items() if key[0] == "a"}, tmp_path / "a.pt")
    rest = {key: value for key, value in whole.items() if key[0] == "b"}
    save_file(rest, record_beside(first))
    before = record_beside(first).read_bytes()
    with pytest.raises(ConfigError) as refusal:
        carry_out(
            target("two_models"),
            record_beside(first),
            parts={"a": {"path": str(first)}},
            verify={"input": {"a": {"shape": [1, 3]}, "b": {"shape": [1, 2]}}, "record": True},
        )
    assert refusal.value.message == "verify.record=true writes next to a job's one checkpoint file, and this job has 2"
    assert record_beside(first).read_bytes() == before


def test_a_shard_is_not_replaced_by_a_record(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    state = filled(Two()).state_dict()
    save_file(state, record_beside(index))
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, record_beside(index).name)}))
    before = record_beside(index).read_bytes()
    told = f"verify.record=true would replace {record_beside(index)}, which is read in this job"
    with pytest.raises(ConfigError) as refusal:
        carry_out("Two", index, verify={**INPUT, "record": True})
    assert (refusal.value.message, refusal.value.hint) == (told, "verify.record=false")
    with pytest.raises(ConfigError) as refusal:
        load_into(Two(), index, verify={**INPUT, "record": True})
    assert refusal.value.message == told
    assert record_beside(index).read_bytes() == before


@pytest.mark.parametrize("given", [dict, lambda spec: [spec], lambda spec: {"x": spec}, lambda spec: {"a": [spec]}])
def test_an_input_is_not_replaced_by_a_record(given: Callable[[Any], Any], path: Path) -> None:
    save_file({"x": torch.ones(2, 4)}, record_beside(path))
    before = record_beside(path).read_bytes()
    verify = {"input": given({"path": str(record_beside(path))}), "record": True}
    with pytest.raises(ConfigError, match=r"\.golden\.safetensors, which is read in this job"):
        carry_out("Two", path, verify=verify)
    assert record_beside(path).read_bytes() == before


def test_a_record_that_cannot_be_written_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out("Two", path, verify={**INPUT, "record": True})
    before = record_beside(path).read_bytes()

    def full(_path: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError) as refusal:
        carry_out("Two", path, verify={**INPUT, "record": True})
    told = f"verify.record=true cannot write {record_beside(path)}: No space left on device"
    assert (refusal.value.message, refusal.value.hint) == (told, "verify.record=false")
    assert record_beside(path).read_bytes() == before


def as_file(state: dict[str, torch.Tensor], folder: Path) -> tuple[Path, Path]:
    save_file(state, folder / "model.safetensors")
    return folder, folder / "model.safetensors"


def as_shards(state: dict[str, torch.Tensor], folder: Path) -> tuple[Path, Path]:
    return folder, write_shards(folder, *({key: value} for key, value in state.items()))


def as_distributed(state: dict[str, torch.Tensor], folder: Path) -> tuple[Path, Path]:
    path = distributed(folder, state)
    return path / ".metadata", path


@pytest.mark.parametrize("write", [as_file, as_shards, as_distributed])
def test_the_record_of_a_folder_stands_beside_what_is_read(
    write: Callable[[dict[str, torch.Tensor], Path], tuple[Path, Path]], tmp_path: Path
) -> None:
    typed, meant = write(filled(Two()).state_dict(), tmp_path)
    for _ in range(2):  # the second time it stands there already
        report = carry_out("Two", typed, verify={**INPUT, "record": True}).report
        assert detail(report, "golden record") == f"written to {record_beside(meant)}"
    for path in (typed, meant):
        report = carry_out("Two", path, verify={}).report
        assert checks(report)["golden record"]
        assert report.parts[""].path == str(path)


def test_a_record_needs_outputs(path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        carry_out("Two", path, device="meta", verify={**INPUT, "record": True})
    assert refusal.value.message == "verify.record=true needs outputs, and device=meta produces none"
    assert refusal.value.hint == "device=cpu"


def test_outputs_keep_their_names_in_a_record(tmp_path: Path) -> None:
    path = save(filled(nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")
    model = target("Behaving", how="nested")
    carry_out(model, path, verify={"record": True})
    report = carry_out(model, path, verify={}).report
    assert checks(report)["golden record"]
    assert [output["name"] for output in report.verification.outputs] == ["logits", "aux/loss.0", "aux/loss.1.0"]


def test_keyword_inputs_keep_their_names_in_a_record(tmp_path: Path) -> None:
    path = save(filled(nn.Linear(3, 2)).state_dict(prefix="linear."), tmp_path / "two.pt")
    inputs = {"mask": {"value": [[True, False, True]]}, "x": {"shape": [1, 3]}}
    carry_out("TwoInputs", path, verify={"input": inputs, "record": True})
    report = carry_out("TwoInputs", path, verify={}).report
    assert checks(report)["golden record"]
    assert [given["name"] for given in report.verification.inputs] == ["mask", "x"]


def test_each_part_has_its_own_record(tmp_path: Path) -> None:
    models = filled(two_models())
    path = save({"a": models["a"].state_dict(), "b": models["b"].state_dict()}, tmp_path / "both.pt")  # type: ignore[index]
    parts = {"a": {"key": "a"}, "b": {"key": "b"}}
    node = {"_target_": "tests.models.two_models"}
    carry_out(node, path, parts=parts, verify={"record": True})
    report = carry_out(node, path, parts=parts, verify={}).report
    assert checks(report)["golden record of a"]
    assert checks(report)["golden record of b"]


def test_a_record_without_the_part_that_is_run_fails(path: Path, tmp_path: Path) -> None:
    carry_out("Two", path, verify={**INPUT, "record": True})
    models = filled(two_models())
    both = save({"a": models["a"].state_dict(), "b": models["b"].state_dict()}, tmp_path / "both.pt")  # type: ignore[index]
    record = record_beside(path)
    with pytest.raises(VerificationError) as refusal:
        carry_out(
            {"_target_": "tests.models.two_models"},
            both,
            parts={"a": {"key": "a"}, "b": {"key": "b"}},
            verify={"golden": str(record)},
        )
    assert refusal.value.message == (
        f"golden record of a: {record} has nothing for a, only for the whole model; "
        f"golden record of b: {record} has nothing for b, only for the whole model"
    )


# Comparing.


def one(value: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"0": value}


@pytest.mark.parametrize(
    ("dtype", "near", "far"),
    [
        (torch.float64, 1e-7, 1e-5),
        (torch.float32, 5e-5, 1e-3),
        (torch.float16, 5e-3, 5e-2),
        (torch.bfloat16, 3e-2, 2e-1),
    ],
)
def test_each_dtype_has_its_tolerance(dtype: torch.dtype, near: float, far: float) -> None:
    base = torch.ones(3, dtype=torch.float64)
    assert differences(one(base.to(dtype)), one(base + near), dtype, None, None)[0] == []
    assert differences(one(base.to(dtype)), one(base + far), dtype, None, None)[0] != []


def test_the_looser_dtype_counts() -> None:
    base = torch.ones(3)
    assert differences(one(base), one(base + 1e-2), torch.bfloat16, None, None)[0] == []
    assert differences(one(base), one(base + 1e-2), torch.float32, None, None)[0] == ["output 0 differs by up to 0.01"]


def test_tolerances_can_be_set() -> None:
    base = torch.ones(3)
    told, close, gap = differences(one(base), one(base + 0.1), torch.float32, 0.2, 0.0)
    assert (told, close) == ([], "largest difference 0.1 (rtol 0.2, atol 0)")
    assert gap == pytest.approx(0.1)
    assert differences(one(base), one(base + 1e-6), torch.float32, 0.0, 0.0)[0] != []


def test_integers_are_compared_exactly() -> None:
    classes = torch.tensor([30000])
    assert differences(one(classes), one(classes + 1), torch.float32, None, None)[0] == ["output 0 differs by up to 1"]
    assert differences(one(classes), one(classes), torch.float32, None, None)[0] == []


def test_imaginary_parts_are_compared() -> None:
    value = torch.complex(torch.ones(2), torch.ones(2))
    assert differences(one(value), one(value.conj().resolve_conj()), torch.float32, None, None)[0] == [
        "output 0 differs by up to 2"
    ]
    assert differences(one(value), one(value.real.clone()), torch.float32, None, None)[0] == [
        "output 0 is float32, the record has complex64"
    ]


def test_nan_meets_nan_only() -> None:
    nan = torch.tensor([float("nan"), 1.0])
    assert differences(one(nan), one(nan.clone()), torch.float32, None, None)[0] == []
    assert differences(one(nan), one(torch.ones(2)), torch.float32, None, None)[0] == ["output 0 differs by up to inf"]
    inf = torch.tensor([float("inf"), 1.0])
    assert differences(one(inf), one(inf.clone()), torch.float32, None, None) == (
        [], "largest difference 0 (rtol 0.0001, atol 1e-05)", 0.0,
    )  # fmt: skip


def test_other_shapes_and_names_are_told() -> None:
    several = {"a": torch.ones(2), "b": torch.ones(1)}
    told, _, gap = differences(several, {"a": torch.ones(3)}, torch.float32, None, None)
    assert gap is None
    assert told == ["output a is [3], the record has [2]", "output b is only in the record"]
    told, *_ = differences({}, {"extra": torch.ones(1)}, torch.float32, None, None)
    assert told == ["output extra is only in the model"]


def test_many_inputs_and_outputs_keep_their_order(tmp_path: Path) -> None:
    values = [torch.full((1,), float(n)) for n in range(12)]
    outputs = {str(n): value for n, value in enumerate(values)}
    path = tmp_path / "record.safetensors"
    records = {"": Record(Inputs(values), outputs), "deep.part": Record(Inputs([], {"x": values[3]}), {})}
    golden.write(path, golden.packed(records))
    records = golden.read(path)
    assert [value.item() for value in records[""].inputs.args] == [float(n) for n in range(12)]
    assert {name: value.item() for name, value in records[""].outputs.items()} == {str(n): float(n) for n in range(12)}
    assert records["deep.part"].inputs.kwargs["x"].item() == 3.0


def test_a_record_in_half_precision_is_met_by_a_double_model(path: Path) -> None:
    carry_out("Two", path, dtype="bfloat16", verify={**INPUT, "record": True})
    assert checks(carry_out("Two", path, dtype="float64", verify={}).report)["golden record"]


OUTPUTS = [torch.complex64, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.float8_e4m3fn, torch.bfloat16]


@pytest.mark.parametrize("dtype", OUTPUTS, ids=str)
def test_outputs_of_every_dtype_of_the_format_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    """Also of those that the oldest safetensors library that is supported does not know."""
    output = torch.tensor([[0, 1], [1, 1]]).to(dtype)
    record = Record(Inputs(args=[torch.ones(1)]), {"0": output})
    golden.write(tmp_path / "a.safetensors", golden.packed({"": record}))
    found = golden.read(tmp_path / "a.safetensors")[""]
    assert found.outputs["0"].dtype is dtype
    assert torch.equal(found.outputs["0"].to(torch.complex128), output.to(torch.complex128))
    assert found.inputs.args[0].tolist() == [1]


def test_what_the_format_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    output = torch.zeros(2, dtype=torch.complex128)
    with pytest.raises(ConfigError) as refused:
        golden.packed({"": Record(Inputs(), {"logits": output, "0": torch.ones(1)})})
    assert refused.value.message == (
        "verify.record=true cannot write 1 tensor of the record: output.logits (its dtype is complex128)"
    )
    assert refused.value.hint == "verify.record=false"
    assert list(tmp_path.iterdir()) == []


class Probable(nn.Module):
    """Small outputs: the probabilities of a thousand classes."""

    def __init__(self, activation: str = "relu") -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 64), nn.Linear(64, 1000)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = getattr(torch, self.activation)(self.first(x))
        result: torch.Tensor = self.second(hidden).softmax(-1)
        return result


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_small_outputs_are_compared_as_closely_as_large_ones(dtype: str, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        path = save(Probable().state_dict(), tmp_path / "probable.pt")
    node, settings = {"_target_": f"{__name__}.Probable"}, {"dtype": dtype}
    carry_out(node, path, verify={"input": {"shape": [1, 32]}, "record": True}, **settings)
    assert checks(carry_out(node, path, verify={}, **settings).report)["golden record"]
    with pytest.raises(VerificationError, match="golden record: output 0 differs by up to 0"):
        carry_out(node | {"activation": "tanh"}, path, verify={}, **settings)


def test_the_absolute_tolerance_shrinks_with_outputs_below_1() -> None:
    def told(expected: float, got: float) -> str:
        both = ({"0": torch.tensor([expected, 0.0])}, {"0": torch.tensor([got, 0.0])})
        return golden.differences(*both, torch.float32, None, None)[1].partition(" (")[2]

    assert told(0.01, 0.01) == "rtol 0.0001, atol 1e-07)"
    assert told(5.0, 5.0) == told(0.0, 0.0) == told(float("nan"), float("nan")) == "rtol 0.0001, atol 1e-05)"


def test_a_record_is_written_to_no_other_place_than_beside_the_checkpoint(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        carry_out("Two", path, verify={"record": True, "golden": "mine.safetensors"})
    assert refusal.value.message == (
        f"verify.golden names mine.safetensors, and verify.record=true writes {record_beside(path)}, next to the "
        "checkpoint"
    )
    assert refusal.value.hint == "verify.golden=auto   # writes it there"
    assert not record_beside(path).exists()

    for named in ("auto", None, str(record_beside(path))):
        carry_out("Two", path, verify={"record": True, "golden": named})
        record_beside(path).unlink()
