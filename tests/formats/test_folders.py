from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import loader
from loader.errors import CheckpointError
from loader.parts.open import open_checkpoint
from tests.formats.sharding import shard_name, write_index, write_shards

STATE = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}


def write(folder: Path, *names: str) -> None:
    """Writes checkpoints of one tensor that is called as its file."""
    for name in names:
        path = folder / name
        if name.endswith(".index.json"):
            write_shards(folder, {name: torch.ones(1)}, ending="bin" if ".bin." in name else "safetensors")
        elif name.endswith(".safetensors"):
            save_file({name: torch.ones(1)}, path)
        else:
            torch.save({name: torch.ones(1)}, path)


def refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return caught.value


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors"], "model.safetensors"),
        (["pytorch_model.bin"], "pytorch_model.bin"),
        (["model.safetensors", "pytorch_model.bin"], "model.safetensors"),
        (["model.safetensors", "pytorch_model.bin.index.json"], "model.safetensors"),
        (["model.safetensors.index.json", "pytorch_model.bin"], "model.safetensors.index.json"),
        (["model.safetensors.index.json", "pytorch_model.bin.index.json"], "model.safetensors.index.json"),
        (["pytorch_model.bin.index.json"], "pytorch_model.bin.index.json"),
        (["model.safetensors", "training_args.bin", "optimizer.pt"], "model.safetensors"),
        (["last.ckpt"], "last.ckpt"),
        (["adapter_model.safetensors", "adapter_model.bin", "optimizer.pt"], "adapter_model.safetensors"),
        (["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"], "diffusion_pytorch_model.safetensors"),
        (["last.ckpt", "last.ckpt.golden.safetensors", ".hidden.pt"], "last.ckpt"),
    ],
)
def test_one_checkpoint_of_a_folder_is_taken(names: list[str], chosen: str, tmp_path: Path) -> None:
    write(tmp_path, *names)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "older.pt").mkdir()
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.root.children) == [chosen]
        assert checkpoint.path == tmp_path


@pytest.mark.parametrize("index", ["diffusion.safetensors.index.json", "model.safetensors.index.fp16.json"])
def test_shards_are_not_taken_for_checkpoints_of_their_own(index: str, tmp_path: Path) -> None:
    write(tmp_path, "encoder.safetensors", "decoder.safetensors")
    write_index(tmp_path, {f"{name}.safetensors": f"{name}.safetensors" for name in ("encoder", "decoder")}, index)
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.root.children) == {"encoder.safetensors", "decoder.safetensors"}


@pytest.mark.parametrize(
    "names",
    [
        ["a.ckpt", "b.pt"],
        ["model.safetensors", "model.safetensors.index.json"],
        ["pytorch_model.bin", "pytorch_model.bin.index.json"],
    ],
)
def test_several_checkpoints_are_listed_with_the_line_to_type(names: list[str], tmp_path: Path) -> None:
    write(tmp_path, *names)
    refused = refusal(tmp_path)
    names = sorted(names, key=lambda name: not name.endswith(".json"))
    assert refused.message == f"{tmp_path} is a folder with 2 checkpoints; one was expected: {', '.join(names)}"
    assert refused.hint == "\n".join(f"checkpoint.path={tmp_path / name}" for name in names)


def test_very_many_checkpoints_are_counted(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.pt").touch()
    refused = refusal(tmp_path)
    named = ", ".join(f"{number:02}.pt" for number in range(20))
    assert refused.message.endswith(f"30 checkpoints; one was expected: {named} and 10 more")
    assert len(refused.hint.splitlines()) == 21
    assert refused.hint.splitlines()[-1] == "… and 10 more"


def test_a_folder_without_a_checkpoint_is_reported(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    refused = refusal(tmp_path)
    assert refused.message == (
        f"{tmp_path} is a folder without a checkpoint; model.safetensors, pytorch_model.bin, the index of either "
        "(*.index.json), or one file called *.safetensors, *.pt, *.pth, *.ckpt, *.bin, *.tar, *.pt2, *.gguf, *.npz was "
        "expected"
    )
    assert refused.hint == "checkpoint.path=FILE"


def test_an_empty_folder_and_links_in_a_circle_are_reported(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").message.startswith(f"{tmp_path / 'empty'} is a folder without a checkpoint")
    (tmp_path / "loop").symlink_to("loop")
    assert refusal(tmp_path / "loop").message == f"{tmp_path / 'loop'} is a symbolic link that leads in a circle"
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "last.ckpt").symlink_to("last.ckpt")
    refused = refusal(tmp_path / "one")
    assert refused.message == f"{tmp_path / 'one' / 'last.ckpt'} is a symbolic link that leads in a circle"


def test_shards_without_their_index_are_reported(tmp_path: Path) -> None:
    write_shards(tmp_path, STATE).unlink()
    refused = refusal(tmp_path)
    assert refused.message == f"{tmp_path} holds 1 shard ({shard_name(1, 1)}) and no index of them (*.index.json)"
    assert refused.hint == "download the index too; it is next to the shards at their source"


def test_a_link_out_of_the_folder_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    write(tmp_path, "outside.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "outside.safetensors")
    refused = refusal(folder)
    assert refused.message == (
        f"{folder / 'model.safetensors'} is a link that leads out of its folder, to {tmp_path / 'outside.safetensors'}"
    )
    assert refused.hint == f"checkpoint.path={tmp_path / 'outside.safetensors'}   # if that file is meant"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir(mode=0o300)
    assert refusal(folder).message == f"the folder {folder} cannot be listed: Permission denied"


@pytest.mark.parametrize("name", ["model.safetensors", "last.pt"])
def test_a_pipe_in_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    assert refusal(tmp_path).message == f"{tmp_path / name} is a named pipe; a checkpoint file was expected"


def test_the_file_of_a_folder_has_the_format_that_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "last.ckpt")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path, format="safetensors")
    assert caught.value.message == f"{tmp_path} is a torch-zip checkpoint; checkpoint.format says safetensors"


def test_the_golden_record_of_a_folder_with_one_file_is_next_to_that_file(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    save_file(STATE, folder / "model.safetensors")
    job: dict[str, Any] = {
        "model": {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2},
        "checkpoint": {"path": str(folder)},
        "device": "cpu",
        "verify": {"record": True},
    }
    loader.load(job)
    beside = ["model.safetensors", "model.safetensors.golden.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == beside
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_whole_model_is_taken_out_of_a_folder_that_is_trusted(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 2), tmp_path / "model.pt")
    loaded = loader.load({"model": None, "checkpoint": {"path": str(tmp_path), "trust": True}, "device": "cpu"})
    assert isinstance(loaded.model, torch.nn.Linear)
