"""Writes the example files: real `torch.save` files, one for each common kind of checkpoint.

Guarantees: a given torch version writes the same bytes every time; the global random state, `sys.modules` and torch's
registries are left unchanged; another file that happens to have the same name is never overwritten.
"""

from __future__ import annotations

import copy
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from ..errors import ConfigError
from ..text.lines import Fix, typed
from ..text.wording import listing
from . import EXAMPLE_FILES, tensor_files
from .models import CustomModel, LinearModel, SimpleNet
from .tensor_files import GOLDEN

_WEIGHTS = resources.files(str(__package__)) / "weights"
_HOLDING_TRAINED_WEIGHTS = (
    "simple_net.pth",
    "simple_net_cuda.pth",
    "simple_net_ddp.pth",
    "my_own_model.pth",
    "training_checkpoint.pth",
)


def trained_simple_net() -> SimpleNet:
    """Returns the SimpleNet that the package ships, trained on handwritten digits, in eval mode."""
    with _seeded(0):
        model = SimpleNet()
    model.load_state_dict(load((_WEIGHTS / "simple_net.safetensors").read_bytes()))
    return model.eval()


def write_examples(folder: Path) -> list[Path]:
    """Writes every example file, and a golden record next to each one with the trained weights.

    Returns:
        The paths of all files, in the order of `EXAMPLE_FILES`, with their records last; then those of `tensor_files`.

    Raises:
        ConfigError: The folder has a file of the same name with other content; nothing is written.
    """
    record = (_WEIGHTS / f"simple_net.safetensors{GOLDEN}").read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        for name in EXAMPLE_FILES:
            _WRITERS[name](Path(scratch, name))
        content = {name: Path(scratch, name).read_bytes() for name in EXAMPLE_FILES}
    content |= {f"{name}{GOLDEN}": record for name in _HOLDING_TRAINED_WEIGHTS}
    content |= tensor_files.contents()
    _refuse_others(folder, content)
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return [folder / name for name in content]


def _refuse_others(folder: Path, content: dict[str, bytes]) -> None:
    others = [name for name, data in content.items() if (folder / name).exists() and _differs(folder / name, data)]
    if others:
        raise ConfigError(
            f"{folder} has files of the same names as the examples, with other content: {listing(others)}",
            Fix(note="name another folder"),
            typed("rm", *(str(folder / name) for name in others), note="if they are not needed"),
        )


def _differs(path: Path, data: bytes) -> bool:
    return not path.is_file() or path.read_bytes() != data


def _save_state_dict(path: Path) -> None:
    torch.save(trained_simple_net().state_dict(), path)


def _save_from_gpu(path: Path) -> None:
    torch.save(trained_simple_net().state_dict(), path, pickle_module=_TAGGED_CUDA)


def _save_ddp(path: Path) -> None:
    state = nn.ModuleDict({"module": trained_simple_net()}).state_dict()
    # As after a head was replaced in the wrapped model: these keys have no prefix, and stay unchanged.
    for name in ("fc2.weight", "fc2.bias"):
        state[name] = state.pop(f"module.{name}")
    torch.save(state, path)


def _save_whole_model(path: Path) -> None:
    with _seeded(1):
        norm = nn.BatchNorm2d(8)
        norm.register_buffer("running_mean", torch.rand(8))
        norm.register_buffer("running_var", torch.rand(8) + 0.5)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 26 * 26, 10))
    torch.save(model.eval(), path)


def _save_whole_model_of_own_class(path: Path) -> None:
    with _own_module("my_project", "Net") as own_class:
        with _seeded(0):
            model = own_class()
        model.load_state_dict(trained_simple_net().state_dict())
        torch.save(model.eval(), path)


def _save_training_checkpoint(path: Path) -> None:
    model = trained_simple_net()
    weights = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        # Any gradient fills the optimizer's state; this one needs no matrix product, whose last bits differ by machine.
        parameter.grad = parameter.detach() * 0.01
    optimizer.step()
    state = {"epoch": 40, "model_state_dict": weights, "optimizer_state_dict": optimizer.state_dict(), "loss": 0.0625}
    torch.save(state, path)


def _save_linear(path: Path) -> None:
    with _seeded(2):
        torch.save(LinearModel(10, 2).state_dict(), path)


def _save_custom(path: Path) -> None:
    with _seeded(3):
        torch.save(CustomModel().state_dict(), path)


def _save_two_models(path: Path) -> None:
    with _seeded(4):
        a, b = LinearModel(10, 5), LinearModel(5, 2)
    torch.save({"modelA_state_dict": a.state_dict(), "modelB_state_dict": b.state_dict()}, path)


_WRITERS: dict[str, Callable[[Path], None]] = {
    "simple_net.pth": _save_state_dict,
    "simple_net_cuda.pth": _save_from_gpu,
    "simple_net_ddp.pth": _save_ddp,
    "my_model.pth": _save_whole_model,
    "my_own_model.pth": _save_whole_model_of_own_class,
    "training_checkpoint.pth": _save_training_checkpoint,
    "linear_model.pth": _save_linear,
    "custom_model.pth": _save_custom,
    "two_models.pth": _save_two_models,
}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class _CudaTagger(pickle.Pickler):
    """Writes every storage's location as `cuda:0`, the only difference of a file saved from a GPU.

    torch.save derives its pickler from this class and writes the location in `persistent_id`. Wrapping that method of
    the derived class affects this call alone; registering a location tag (`torch.serialization.register_package`)
    would change every later save of the process.
    """

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        original: Callable[[Any, object], Any] = cls.persistent_id

        def persistent_id(self: pickle.Pickler, value: object) -> Any:
            found = original(self, value)
            if found is None:
                return None
            kind, storage_type, key, _, numel = found
            return kind, storage_type, key, "cuda:0", numel

        cls.persistent_id = persistent_id  # type: ignore[method-assign]


_TAGGED_CUDA = ModuleType("pickle_from_gpu")
setattr(_TAGGED_CUDA, "Pickler", _CudaTagger)  # noqa: B010 (a module has no such attribute for the type checker)


@contextmanager
def _own_module(module: str, name: str) -> Iterator[type[nn.Module]]:
    """Makes a SimpleNet under another name, importable only while it is pickled."""
    own_class = type(name, (SimpleNet,), {"__module__": module})
    made = ModuleType(module)
    setattr(made, name, own_class)
    before = sys.modules.get(module)
    sys.modules[module] = made
    try:
        yield own_class
    finally:
        if before is None:
            del sys.modules[module]
        else:
            sys.modules[module] = before
