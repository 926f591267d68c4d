from __future__ import annotations

import importlib.util
import io
import pickletools
import random
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader.errors import ConfigError
from loader.examples import EXAMPLE_FILES, TENSOR_FILES, CustomModel, LinearModel, SimpleNet
from loader.examples.__main__ import main
from loader.examples.files import trained_simple_net, write_examples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("examples")
    write_examples(made)
    return made


def read(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def storage_locations(path: Path) -> set[str]:
    """The texts in a file's pickle that look like a device."""
    with zipfile.ZipFile(path) as archive:
        data = archive.read(f"{path.stem}/data.pkl")
    texts = {argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}
    return texts & {"cpu", "cuda:0"}


def same(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)


def test_every_named_file_is_written_and_nothing_unnamed(folder: Path) -> None:
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    own = {name for name in written if not name.endswith(".golden.safetensors")}
    assert own == {*EXAMPLE_FILES, *TENSOR_FILES, "tiny_bert_lora/adapter_config.json"}


def test_bytes_are_the_same_every_time(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(random.randrange(10**6))  # whatever was random before must not matter
    for path in write_examples(tmp_path):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path.name


def test_random_state_and_modules_are_left_alone(tmp_path: Path) -> None:
    state, modules = torch.get_rng_state(), set(sys.modules)
    write_examples(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert "my_project" not in set(sys.modules) - modules


def test_plain_state_dict(folder: Path) -> None:
    assert same(read(folder / "simple_net.pth"), trained_simple_net().state_dict())


def test_file_from_a_gpu_differs_in_its_storage_locations_alone(folder: Path) -> None:
    assert storage_locations(folder / "simple_net.pth") == {"cpu"}
    assert storage_locations(folder / "simple_net_cuda.pth") == {"cuda:0"}
    assert same(read(folder / "simple_net_cuda.pth"), read(folder / "simple_net.pth"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_file_from_a_gpu_is_one_that_torch_refuses_to_load_without_one(folder: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Attempting to deserialize object on a CUDA device"):
        torch.load(folder / "simple_net_cuda.pth", weights_only=True)


def test_locations_of_later_saves_are_untouched(folder: Path, tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "later.pth")
    assert storage_locations(tmp_path / "later.pth") == {"cpu"}


def test_ddp_file_has_keys_with_and_without_the_prefix(folder: Path) -> None:
    state = read(folder / "simple_net_ddp.pth")
    assert sorted(state) == ["fc2.bias", "fc2.weight", "module.fc1.bias", "module.fc1.weight"]
    stripped = {key.removeprefix("module."): value for key, value in state.items()}
    assert same(dict(sorted(stripped.items())), dict(sorted(trained_simple_net().state_dict().items())))


def test_whole_model_has_buffers_that_are_not_the_initial_ones(folder: Path) -> None:
    model = torch.load(folder / "my_model.pth", weights_only=False)
    assert [type(layer).__name__ for layer in model] == ["Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear"]
    assert not torch.equal(model[1].running_mean, torch.zeros(8))
    assert not torch.equal(model[1].running_var, torch.ones(8))
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_whole_model_of_own_class_cannot_be_unpickled_here(folder: Path) -> None:
    assert importlib.util.find_spec("my_project") is None
    with pytest.raises(ModuleNotFoundError, match="my_project"):
        torch.load(folder / "my_own_model.pth", weights_only=False)


def test_training_checkpoint_has_everything_beside_the_weights(folder: Path) -> None:
    state = read(folder / "training_checkpoint.pth")
    assert sorted(state) == ["epoch", "loss", "model_state_dict", "optimizer_state_dict"]
    assert same(state["model_state_dict"], trained_simple_net().state_dict())
    optimizer = torch.optim.Adam(SimpleNet().parameters())
    optimizer.load_state_dict(state["optimizer_state_dict"])
    assert len(optimizer.state) == 4


def test_small_models_load_strictly(folder: Path) -> None:
    LinearModel(10, 2).load_state_dict(read(folder / "linear_model.pth"))
    CustomModel().load_state_dict(read(folder / "custom_model.pth"))
    both = read(folder / "two_models.pth")
    LinearModel(10, 5).load_state_dict(both["modelA_state_dict"])
    LinearModel(5, 2).load_state_dict(both["modelB_state_dict"])


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "my_model.pth").write_text("weeks of training")
    with pytest.raises(ConfigError) as refusal:
        write_examples(tmp_path)
    assert refusal.value.message == (
        f"{tmp_path} has files of the same names as the examples, with other content: my_model.pth"
    )
    assert refusal.value.hint == f"name another folder\nrm {tmp_path / 'my_model.pth'}   # if they are not needed"
    assert [path.name for path in tmp_path.iterdir()] == ["my_model.pth"]
    assert (tmp_path / "my_model.pth").read_text() == "weeks of training"


def test_command_lists_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum(path.is_file() for path in tmp_path.rglob("*"))
    assert not [line for line in lines if not line.split(maxsplit=1)[1:]]
    assert lines[0].split(maxsplit=1) == [f"{tmp_path / 'simple_net.pth'}", EXAMPLE_FILES["simple_net.pth"]]


def test_command_says_why_it_did_not_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_model.pth").write_text("weeks of training")
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path)])
    assert exit_.value.code == 2
    assert "has files of the same names as the examples, with other content: my_model.pth" in capsys.readouterr().err


def test_help_names_every_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown and about in shown for name, about in {**EXAMPLE_FILES, **TENSOR_FILES}.items())


def test_files_are_what_torch_save_writes(folder: Path) -> None:
    again = io.BytesIO()
    torch.save(trained_simple_net().state_dict(), again)
    with zipfile.ZipFile(again) as ours, zipfile.ZipFile(folder / "simple_net.pth") as file:
        assert file.read("simple_net/data.pkl") == ours.read("archive/data.pkl")
