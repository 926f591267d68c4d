from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import loader
from loader.errors import CheckpointError
from loader.formats.tree import Container
from loader.parts.open import open_checkpoint
from tests.formats.zero_writer import Run

WEIGHTS = {"a.weight": torch.randn(3, 5), "b.weight": torch.randn(7), "scale": torch.randn(())}
BIASES = {"a.bias": torch.randn(5), "empty": torch.empty(0, 2), "b.bias": torch.randn(1)}
BUFFERS = {"norm.mean": torch.randn(3), "norm.count": torch.tensor(4)}
FROZEN = {"frozen.weight": torch.randn(3, 3)}
EVERYTHING = {**BUFFERS, **WEIGHTS, **BIASES}


def module_of(checkpoint: Any) -> Container:
    found = checkpoint.root.children["module"]
    assert isinstance(found, Container)
    return found


def weights(path: Path, **options: Any) -> dict[str, torch.Tensor]:
    with open_checkpoint(path, **options) as checkpoint:
        entries = module_of(checkpoint).tensors()
        checkpoint.will_need(list(entries.values()))
        checkpoint.verify(entries.values())
        return {
            name: checkpoint.read(entry, mmap=bool(number % 2)) for number, (name, entry) in enumerate(entries.items())
        }


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


def refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return caught.value


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_the_master_weights_are_put_together(stage: int, processes: int, tmp_path: Path) -> None:
    run = Run([WEIGHTS, BIASES], stage, processes, BUFFERS, FROZEN, shared={"tied.weight": "a.weight"})
    frozen = {name: value.bfloat16() for name, value in FROZEN.items()}
    found = weights(run.write(tmp_path), format="deepspeed")
    assert_equal(found, {**EVERYTHING, **frozen, "tied.weight": WEIGHTS["a.weight"]})


def test_stage_3_may_divide_its_shares_among_several_tensors(tmp_path: Path) -> None:
    assert_equal(weights(Run([WEIGHTS, BIASES], 3, 2, BUFFERS, sub_groups=3).write(tmp_path)), EVERYTHING)


def test_parameters_may_be_aligned_and_files_be_those_of_the_bfloat16_optimizer(tmp_path: Path) -> None:
    run = Run([WEIGHTS, BIASES], 1, 2, BUFFERS, prefix="bf16_", aligned=8)
    assert_equal(weights(run.write(tmp_path)), EVERYTHING)


def test_a_parameter_in_one_partition_looks_into_the_file(tmp_path: Path) -> None:
    folder = Run([WEIGHTS, BIASES], 1, 1).write(tmp_path)
    with open_checkpoint(folder) as checkpoint:
        entry = module_of(checkpoint).tensors()["a.weight"]
        assert checkpoint.read(entry).data_ptr() == checkpoint.read(entry).data_ptr()


def test_which_weights_are_taken_is_reported(tmp_path: Path) -> None:
    three, two = (Run([WEIGHTS], stage, 2).write(tmp_path / f"global_step{stage}") for stage in (3, 2))
    told = "'module' is the float32 master weights of ZeRO stage {}, assembled from 2 processes"
    with open_checkpoint(three) as checkpoint:
        assert checkpoint.note == f"global_step3: {told.format(3)}"
    with open_checkpoint(two) as checkpoint:
        assert checkpoint.note == f"global_step2: {told.format(2)}; mp_rank_00_model_states.pt holds them as trained"
    for name in two.glob("*_optim_states.pt"):
        name.unlink()
    with open_checkpoint(two) as checkpoint:
        assert checkpoint.note == "global_step2: 'module' is the weights as trained; there are no master weights"
    assert_equal(weights(two), {name: value.bfloat16() for name, value in WEIGHTS.items()})


@pytest.mark.parametrize("tag", ["global_step30", "best"])
def test_the_newest_states_of_a_run_are_found(tag: str, tmp_path: Path) -> None:
    Run([WEIGHTS], 2, 2).write(tmp_path / "global_step4")
    Run([BIASES], 2, 2).write(tmp_path / tag)
    (tmp_path / "latest").write_text(f"{tag}\n")
    (tmp_path / "zero_to_fp32.py").touch()
    assert_equal(weights(tmp_path), BIASES)


def test_the_one_step_of_a_run_needs_no_latest_and_several_do(tmp_path: Path) -> None:
    Run([WEIGHTS], 2, 2).write(tmp_path / "global_step4")
    assert_equal(weights(tmp_path), WEIGHTS)
    Run([WEIGHTS], 2, 2).write(tmp_path / "global_step10")
    told = refusal(tmp_path)
    assert told.message == (
        f"{tmp_path} holds 2 checkpoints of DeepSpeed, but no 'latest' that selects one: global_step4, global_step10"
    )
    assert told.hint == "\n".join(f"checkpoint.path={tmp_path / f'global_step{step}'}" for step in (4, 10))


def test_weights_for_everyone_are_preferred(tmp_path: Path) -> None:
    Run([WEIGHTS], 2, 2).write(tmp_path / "global_step4")
    torch.save({"x": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.format == "torch-zip"


@pytest.mark.parametrize("tag", ["../outside", "/", "", "a/b"])
def test_a_latest_leads_nowhere_else(tag: str, tmp_path: Path) -> None:
    Run([WEIGHTS], 2, 2).write(tmp_path / "outside")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "latest").write_text(tag)
    assert "is a folder without a checkpoint" in refusal(folder).message


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    Run([WEIGHTS], 2, 2).write(tmp_path / "outside")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "latest").write_text("inside")
    (folder / "inside").symlink_to(tmp_path / "outside")
    assert "would be read from outside its folder" in refusal(folder).message
    states = Run([WEIGHTS], 2, 2).write(tmp_path / "states")
    (states / "mp_rank_00_model_states.pt").unlink()
    (states / "mp_rank_00_model_states.pt").symlink_to(tmp_path / "outside" / "mp_rank_00_model_states.pt")
    assert "would be read from outside its folder: mp_rank_00_model_states.pt" in refusal(states).message


def test_a_model_is_loaded_from_under_module(tmp_path: Path) -> None:
    linear = torch.nn.Linear(3, 4)
    state = {name: value.detach() for name, value in linear.named_parameters()}
    job = {
        "model": {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 4},
        "checkpoint": {"path": str(Run([state], 3, 2).write(tmp_path)), "key": "module"},
        "device": "cpu",
    }
    loaded = loader.load(job)
    assert_equal(dict(loaded.model.state_dict()), state)
    assert loaded.report.parts[""].format == "deepspeed"
    assert "float32 master weights" in loaded.report.parts[""].note


def test_the_digest_is_that_of_all_files(tmp_path: Path) -> None:
    folder = Run([WEIGHTS], 2, 2).write(tmp_path)
    names = ["mp_rank_00_model_states.pt", *(f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1))]
    told = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True).stdout
    open_checkpoint(folder, sha256=hashlib.sha256(told).hexdigest()).close()


def test_a_flipped_bit_in_one_partition_is_found(tmp_path: Path) -> None:
    state = {"w": torch.full((64,), 3.25)}
    folder = Run([state], 2, 2).write(tmp_path)
    path = folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    data = bytearray(path.read_bytes())
    data[data.index(state["w"][:8].numpy().tobytes())] ^= 1
    path.write_bytes(data)
    with open_checkpoint(folder) as checkpoint, pytest.raises(CheckpointError) as caught:
        checkpoint.verify(module_of(checkpoint).tensors().values())
    assert caught.value.message.startswith(f"{path} is damaged")
    assert "damaged with them: optimizer_state_dict.single_partition_of_fp32_groups.0" in caught.value.message


def test_states_of_a_missing_process_are_reported(tmp_path: Path) -> None:
    folder = Run([WEIGHTS], 2, 3).write(tmp_path)
    (folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    told = refusal(folder)
    assert told.message == f"{folder} holds the optimizer states of 2 processes, but declares 3"
    assert told.hint == "copy or download the whole folder again; a process may not have finished its save"


def test_model_states_of_a_missing_process_are_reported(tmp_path: Path) -> None:
    folder = Run([WEIGHTS], 3, 2).write(tmp_path)
    (folder / "zero_pp_rank_1_mp_rank_00_model_states.pt").unlink()
    assert refusal(folder).message == (
        f"{folder} holds 1 file of model states and 2 of optimizer states (expected one of each per process)"
    )


def test_stage_3_without_optimizer_states_holds_no_weights(tmp_path: Path) -> None:
    folder = Run([WEIGHTS], 3, 2).write(tmp_path)
    for path in folder.glob("*_optim_states.pt"):
        path.unlink()
    assert refusal(folder).message == (
        f"{folder} holds the model states of 2 processes, each with a part of every parameter, but no optimizer states "
        "(*_optim_states.pt), which hold the weights"
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mp_rank_01_model_states.pt", "a model split for tensor parallelism"),
        ("layer_03-model_00-model_states.pt", "pipeline layers in separate files"),
        ("layer_0_expert_1_mp_rank_00_model_states.pt", "experts in separate files"),
    ],
)
def test_other_ways_to_split_are_named(name: str, told: str, tmp_path: Path) -> None:
    folder = Run([WEIGHTS], 2, 2).write(tmp_path)
    (folder / name).touch()
    refused = refusal(folder)
    assert refused.message == f"{folder} is a DeepSpeed checkpoint of {told} ({name}), which is not supported"
    assert "ds_to_universal" in refused.hint


def change(path: Path, edit: Any) -> None:
    state = torch.load(path, weights_only=False)
    edit(state)
    torch.save(state, path)


@pytest.mark.parametrize("stage", [2, 3])
def test_shapes_that_lie_are_refused(stage: int, tmp_path: Path) -> None:
    folder = Run([WEIGHTS], stage, 2).write(tmp_path)
    path = next(folder.glob("*mp_rank_00_model_states.pt" if stage == 2 else "zero_pp_rank_0_*model_states.pt"))
    for size, there in ((1 << 40, "contradicts itself: it declares parameters of"), (1, "contradicts itself")):
        change(path, lambda state, size=size: state["param_shapes"][0].update({"b.weight": torch.Size([size, 9])}))
        assert f"{folder} {there}" in refusal(folder).message


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda state: state.pop("module"), "it has no module"),
        (lambda state: state.update(param_shapes=3), "it has no param_shapes"),
        (lambda state: state.update(buffer_names=None), "it has no buffer_names"),
        (lambda state: state.update(shared_params=[1]), "it has no shared_params"),
        (lambda state: state.update(frozen_param_fragments=None), "it has no frozen_param_fragments"),
        (lambda state: state["frozen_param_fragments"].clear(), "lacks 1 fragment of 'frozen.weight'"),
        (
            lambda state: state["frozen_param_fragments"].update({"frozen.weight": torch.ones(2, 3).t()}),
            "it has no contiguous fragment of 'frozen.weight'",
        ),
        (
            lambda state: state["frozen_param_fragments"].update({"frozen.weight": torch.ones(2)}),
            "the pieces of 'frozen.weight' hold 2 of its 9 elements, as float32",
        ),
        (lambda state: state["param_shapes"].append({}), "declares 2 groups of parameters, but its processes hold 1"),
        (lambda state: state["param_shapes"][0].update({"b.weight": "x"}), "its shape is not a list of sizes"),
    ],
)
def test_model_states_that_are_not_deepspeeds_are_refused(edit: Any, told: str, tmp_path: Path) -> None:
    folder = Run([WEIGHTS], 2, 2, frozen=FROZEN).write(tmp_path)
    change(folder / "mp_rank_00_model_states.pt", edit)
    assert told in refusal(folder).message


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda state: state.update(zero_stage=7), "it has no zero_stage of 1, 2 or 3"),
        (
            lambda state: state.update(zero_stage=1),
            "of 2 processes, but declares 2, of stages 1, 2",
        ),
        (lambda state: state.update(partition_count="2"), "it has no partition_count"),
        (lambda state: state.pop("single_partition_of_fp32_groups"), "it has no single_partition_of_fp32_groups"),
        (
            lambda state: state.update(single_partition_of_fp32_groups=[3]),
            "it has no flat tensors in single_partition_of_fp32_groups",
        ),
        (lambda state: state.update(param_alignment_paddings=[[-1]]), "it has no numbers in param_alignment_paddings"),
        (
            lambda state: state.update(param_alignment_paddings=[[0]]),
            "it declares 3 parameters in group 0, but holds 1",
        ),
    ],
)
def test_optimizer_states_that_are_not_deepspeeds_are_refused(edit: Any, told: str, tmp_path: Path) -> None:
    folder = Run([WEIGHTS], 2, 2).write(tmp_path)
    for rank in (1, 0):
        path = folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        plain = {"single_partition_of_fp32_groups": Run([WEIGHTS], 2, 2)._partition(WEIGHTS, rank)}
        state = {"zero_stage": 2, "partition_count": 2, **{name: [value] for name, value in plain.items()}}
        if rank == 0:
            edit(state)
        torch.save({"optimizer_state_dict": state}, path)
    assert told in refusal(folder).message


class Apart(torch.nn.Module):
    """Two weights that one process's file ties and the model does not."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(4, 4, bias=False)
        self.tied = torch.nn.Linear(4, 4, bias=False)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("mmap", [True, False])
def test_names_that_the_file_ties_share_no_memory_in_a_model_that_does_not(
    stage: int, mmap: bool, tmp_path: Path
) -> None:
    weight = torch.arange(16.0).reshape(4, 4)
    Run([{"a.weight": weight}], stage, 1, {}, {}, shared={"tied.weight": "a.weight"}).write(tmp_path)
    checkpoint = {"path": str(tmp_path), "key": "module", "mmap": mmap}
    model: Any = loader.load_model({"_target_": f"{__name__}.Apart"}, checkpoint, rules={})
    assert torch.equal(model.a.weight, weight)
    assert torch.equal(model.tied.weight, weight)
    assert model.a.weight.data_ptr() != model.tied.weight.data_ptr()
