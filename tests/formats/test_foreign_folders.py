from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loader.errors import CheckpointError
from loader.parts.open import open_checkpoint
from tests.formats.dcp_writer import write_distributed


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return caught.value


@pytest.mark.parametrize(
    ("names", "what", "tool"),
    [
        (["saved_model.pb", "variables/variables.index"], "a TensorFlow SavedModel", "tensorflow.saved_model.load("),
        (
            ["checkpoint", "model.ckpt-9.index", "model.ckpt-9.data-00000-of-00001", "model.ckpt-9.meta"],
            "a folder of TensorFlow checkpoints (model.ckpt-9)",
            "tensorflow.train.load_checkpoint(",
        ),
        (["_METADATA", "manifest.ocdbt"], "an Orbax checkpoint, as JAX and Flax write them (_METADATA)", "PyTreeChe"),
        (["_CHECKPOINT_METADATA", "default/x"], "an Orbax checkpoint, as JAX and Flax write them (_CH", "PyTreeChe"),
        (["manifest.ocdbt", "d/1"], "an Orbax checkpoint, as JAX and Flax write them (manifest.ocdbt)", "PyTreeChe"),
        (["flax_model.msgpack", "config.json"], "a model saved by Flax (flax_model.msgpack)", "from_flax=True"),
        (["tf_model.h5", "config.json"], "a model saved by TensorFlow (tf_model.h5)", "from_tf=True"),
        (["model.onnx", "config.json"], "a folder with 1 ONNX model (model.onnx)", "m.graph.initializer"),
        (
            ["model_index.json", "unet/config.json", "vae/config.json", "tokenizer/vocab.json"],
            "a pipeline of several models (unet, vae); one was expected",
            "/unet\ncheckpoint.path=",
        ),
        (
            ["iter_0000010/mp_rank_00/model_optim_rng.pt", "latest_checkpointed_iteration.txt"],
            "a Megatron-LM run with iter_0000010, which has one rank, whose file is read",
            "iter_0000010/mp_rank_00/model_optim_rng.pt",
        ),
        (
            ["mp_rank_00/model_optim_rng.pt", "mp_rank_01/model_optim_rng.pt"],
            "a Megatron-LM checkpoint that is split among 2 ranks (mp_rank_00, mp_rank_01)",
            "python tools/checkpoint/convert.py",
        ),
        (
            ["iter_0000010/.metadata", "latest_checkpointed_iteration.txt"],
            "a Megatron-LM run with iter_0000010, which is a checkpoint folder itself",
            "/iter_0000010",
        ),
    ],
)
def test_folders_of_other_tools_are_named_with_what_converts_them(
    names: list[str], what: str, tool: str, tmp_path: Path
) -> None:
    refused = refusal(touch(tmp_path, *names))
    assert refused.message.startswith(f"{tmp_path} is {what}")
    assert tool in refused.hint
    assert "{file}" not in refused.hint


@pytest.mark.parametrize(("text", "named"), [("20", "iter_0000020"), ("release", "release"), ("junk", "release")])
def test_the_newest_iteration_is_what_megatron_says(text: str, named: str, tmp_path: Path) -> None:
    touch(tmp_path, *(f"{step}/mp_rank_00/model_optim_rng.pt" for step in ("iter_0000010", "iter_0000020", "release")))
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(text)
    assert refusal(tmp_path).hint == f"checkpoint.path={tmp_path / named}/mp_rank_00/model_optim_rng.pt"


def test_the_iteration_of_one_rank_loads_when_its_file_is_named(tmp_path: Path) -> None:
    rank = tmp_path / "iter_0000010" / "mp_rank_00"
    rank.mkdir(parents=True)
    torch.save({"model": {"w": torch.ones(2)}, "iteration": 10}, rank / "model_optim_rng.pt")
    refused = refusal(tmp_path / "iter_0000010")
    with open_checkpoint(refused.hint.removeprefix("checkpoint.path=")) as checkpoint:
        assert list(checkpoint.root.children) == ["model", "iteration"]


def test_weights_that_are_read_come_before_those_that_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "flax_model.msgpack", "tf_model.h5", "model.onnx", "saved_model.pb")
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.format == "safetensors"


def test_checkpoints_one_folder_below_are_reported(tmp_path: Path) -> None:
    touch(tmp_path, "checkpoint-5/model.safetensors", "logs/events.out")
    write_distributed(tmp_path / "pytorch_model_fsdp_0", {"a": torch.ones(2)})
    refused = refusal(tmp_path)
    assert refused.message == (
        f"{tmp_path} holds no checkpoint itself; 2 folders in it do: checkpoint-5, pytorch_model_fsdp_0"
    )
    assert refused.hint.splitlines()[1] == f"checkpoint.path={tmp_path / 'pytorch_model_fsdp_0'}"
    (tmp_path / "checkpoint-5" / "model.safetensors").unlink()
    assert "; 1 folder in it does: pytorch_model_fsdp_0" in refusal(tmp_path).message
