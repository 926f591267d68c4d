"""One honest file of every format: what the hostile ones are made of, and what is mutated.

A new format is one entry of `SAMPLES`: its name and what writes it.
"""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.formats.gguf_writer import written as written_gguf
from tests.formats.saving import save_alone
from tests.formats.sharding import write_shards
from tests.formats.zero_writer import Run

State = Mapping[str, torch.Tensor]
Writer = Callable[[Path, State], Path]
"""Writes a state dict into an empty folder; returns what `checkpoint.path` is to be."""


def torch_zip(folder: Path, state: State) -> Path:
    """What `torch.save` writes."""
    path = folder / "a.pt"
    torch.save(dict(state), path)
    return path


def torch_legacy(folder: Path, state: State) -> Path:
    """What it wrote before 1.6."""
    path = folder / "a.pth"
    torch.save(dict(state), path, _use_new_zipfile_serialization=False)
    return path


def torch_tar(folder: Path, state: State) -> Path:
    """What it wrote before 0.1.10: a tar of four members."""
    storages, tensors = [pickle.dumps(len(state), 2)], [pickle.dumps(len(state), 2)]
    for number, value in enumerate(state.values()):
        flat = value.contiguous()
        kind = getattr(torch, f"{flat.type().rpartition('.')[2].removesuffix('Tensor')}Storage")
        raw = bytes(flat.view(torch.uint8).flatten().tolist())
        storages += [pickle.dumps((number, "cpu", kind), 2), struct.pack("<q", flat.numel()), raw]
        shape = (*flat.shape, *flat.stride(), 0)
        tensors += [pickle.dumps((100 + number, number, type(value)), 2), struct.pack("<ii", value.dim(), 0)]
        tensors += [struct.pack(f"<{len(shape)}q", *shape)]
    pickled = b"\x80\x02}" + b"".join(
        b"X" + struct.pack("<I", len(key)) + key.encode() + b"U\x03%dQs" % (100 + number)
        for number, key in enumerate(state)
    )
    members = {
        "sys_info": pickle.dumps({"protocol_version": 1000, "little_endian": True}, 2),
        "pickle": pickled + b".",
        "tensors": b"".join(tensors),
        "storages": b"".join([*storages, pickle.dumps([], 2)]),
    }
    return write_tar(folder / "a.tar", members)


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A tar archive of these members."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def safetensors(folder: Path, state: State) -> Path:
    """What the library of that name writes."""
    path = folder / "a.safetensors"
    save_file(dict(state), path, {"format": "pt"})
    return path


def shards(folder: Path, state: State) -> Path:
    """An index and safetensors shards."""
    return write_shards(folder, *({key: value} for key, value in state.items()))


def pickled_shards(folder: Path, state: State) -> Path:
    """An index and shards of `torch.save`."""
    return write_shards(folder, *({key: value} for key, value in state.items()), ending="bin")


def torchscript(folder: Path, state: State) -> Path:
    """An archive of a scripted module with these buffers."""
    module = torch.nn.Module()
    for key, value in state.items():
        module.register_buffer(key, value)
    return save_script(module, folder / "a.pt")


def save_script(module: torch.nn.Module, path: Path) -> Path:
    """Scripts and saves a module; torch says of both that they are deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".torch.jit")
        torch.jit.save(torch.jit.script(module), path)
    return path


def npz(folder: Path, state: State) -> Path:
    """What `numpy.savez` writes."""
    path = folder / "a.npz"
    np.savez(path, **{key: value.numpy() for key, value in state.items()})  # type: ignore[arg-type]
    return path


def distributed(folder: Path, state: State) -> Path:
    """A folder of `torch.distributed.checkpoint`."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter

    path = folder / "dcp"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that nothing is distributed here
        save_alone({**state, "note": "as it was trained " * 30}, storage_writer=FileSystemWriter(path))
    return path


def npy(folder: Path, state: State) -> Path:
    """What `numpy.save` writes: one array without a name."""
    path = folder / "a.npy"
    np.save(path, next(iter(state.values())).numpy())
    return path


def objects(folder: Path, state: State) -> Path:
    """What `numpy.save` writes of a dict of arrays."""
    path = folder / "a.npy"
    np.save(path, {key: value.numpy() for key, value in state.items()}, allow_pickle=True)  # type: ignore[arg-type]
    return path


def pickled(folder: Path, state: State) -> Path:
    """What `pickle.dump` writes of a dict of arrays."""
    path = folder / "a.pkl"
    path.write_bytes(pickle.dumps({key: value.numpy() for key, value in state.items()}, 2))
    return path


def exported(folder: Path, state: State) -> Path:
    """What `torch.export` wrote before torch 2.8: an archive with files of `torch.save` in it."""
    path = folder / "a.pt2"
    weights = folder / "weights"
    torch.save(dict(state), weights)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("version", "8.0")
        archive.writestr("serialized_exported_program.json", "{}")
        archive.write(weights, "serialized_state_dict.pt")
        archive.write(weights, "serialized_constants.pt")
    weights.unlink()
    return path


def program(folder: Path, state: State) -> Path:
    """What `torch.export` writes today; exporting takes seconds."""
    module = torch.nn.Linear(3, 1, bias=False)
    module.load_state_dict({"weight": state["weight"]})
    path = folder / "a.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module, (torch.ones(1, 3),)), path)
    return path


def gguf(folder: Path, state: State) -> Path:
    """What llama.cpp's own tools write."""
    return written_gguf(folder / "a.gguf", {key: value.numpy() for key, value in state.items()})


def deepspeed(folder: Path, state: State) -> Path:
    """A folder of DeepSpeed, of two processes."""
    path = folder / "run"
    path.mkdir()
    floats = {key: value.float() for key, value in state.items()}
    return Run([floats], 2, 2).write(path)


def policy(folder: Path, state: State) -> Path:
    """What stable-baselines3 writes: a file of `torch.save` in an archive with its settings."""
    path = folder / "agent.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
        with archive.open("policy.pth", "w", force_zip64=True) as stream:
            torch.save(dict(state), stream)
    return path


SAMPLES: Mapping[str, Writer] = {
    "torch-zip": torch_zip,
    "torch-zip-policy": policy,
    "torch-legacy": torch_legacy,
    "torch-tar": torch_tar,
    "safetensors": safetensors,
    "safetensors-sharded": shards,
    "torch-sharded": pickled_shards,
    "torchscript": torchscript,
    "npz": npz,
    "npy": npy,
    "npy-objects": objects,
    "pickle": pickled,
    "torch-export": exported,
    "gguf": gguf,
    "dcp": distributed,
    "deepspeed": deepspeed,
}
"""By format."""
SLOW: Mapping[str, Writer] = {"torch-export, program": program}
"""For long runs alone."""
