"""A hostile pickle in every place of every format that holds pickles.

A new format is one entry of `CARRIERS`: what writes the file, and the place's name. The honest file around it holds
`case.WEIGHT`, so that what is harmless in it can still be loaded.
"""

from __future__ import annotations

import pickletools
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tests.hostile import samples
from tests.hostile.case import WEIGHT

Carrier = Callable[[Path, bytes], Path]
"""Writes into a folder a file that holds these opcodes; returns what `checkpoint.path` is to be."""
STATE = {"weight": WEIGHT}


def beside(pickled: bytes, opcodes: bytes) -> bytes:
    """A pickle that also runs these, and throws the result away."""
    return pickled[:-1] + opcodes + b"0."


def inside(pickled: bytes, opcodes: bytes) -> bytes:
    """A pickled dict that also holds their result."""
    return pickled[:-1] + b"Vextra\n" + opcodes + b"s."


Infect = Callable[[bytes, bytes], bytes]


def rezip(path: Path, changes: Mapping[str, Callable[[bytes], bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    """Writes an archive again with the members changed whose names end like this."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            change = next((made for ending, made in changes.items() if name.endswith(ending)), bytes)
            archive.writestr(name, change(content))
    return path


def streams(raw: bytes, count: int) -> list[bytes]:
    """The first pickles of a row of them, and the rest."""
    parts = []
    for _ in range(count):
        end = 1 + max(position or 0 for _, _, position in pickletools.genops(raw))
        parts.append(raw[:end])
        raw = raw[end:]
    return [*parts, raw]


def in_zip(folder: Path, opcodes: bytes, *, writer: samples.Writer, member: str, infect: Infect) -> Path:
    """A zip archive with one member infected; of shards, the first."""
    path = writer(folder, STATE)
    infected = path if zipfile.is_zipfile(path) else next(folder.glob("*.bin"))
    rezip(infected, {member: lambda raw: infect(raw, opcodes)})
    return path


def in_legacy(folder: Path, opcodes: bytes, *, stream: int, infect: Infect) -> Path:
    """One of the five pickles in a row."""
    path = samples.torch_legacy(folder, STATE)
    parts = streams(path.read_bytes(), 5)
    parts[stream] = infect(parts[stream], opcodes)
    path.write_bytes(b"".join(parts))
    return path


def in_tar(folder: Path, opcodes: bytes, *, member: str, stream: int, infect: Infect) -> Path:
    """One pickle of one member."""
    path = samples.torch_tar(folder, STATE)
    with tarfile.open(path) as archive:
        members = {name: found.read() for name in archive.getnames() if (found := archive.extractfile(name))}
    parts = streams(members[member], stream + 1)
    parts[stream] = infect(parts[stream], opcodes)
    return samples.write_tar(path, {**members, member: b"".join(parts)})


def in_array(folder: Path, opcodes: bytes) -> Path:
    """An array of objects next to the weights."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (53 + 64 - len(header)) + b"\n"
    raw = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    path = samples.npz(folder, STATE)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("extra.npy", raw + opcodes + b".")
    return path


def in_pickle(folder: Path, opcodes: bytes, *, writer: samples.Writer, infect: Infect) -> Path:
    """A file that is one pickle, with NumPy's header or without."""
    path = writer(folder, STATE)
    path.write_bytes(infect(path.read_bytes(), opcodes))
    return path


def in_metadata(folder: Path, opcodes: bytes) -> Path:
    """The metadata of a distributed checkpoint."""
    path = samples.distributed(folder, STATE)
    metadata = path / ".metadata"
    metadata.write_bytes(beside(metadata.read_bytes(), opcodes))
    return path


def in_item(folder: Path, opcodes: bytes) -> Path:
    """An object next to the tensors of a distributed checkpoint: a `torch.save` file of its own, in the data file.

    Its place and length in `.metadata` are left as they were.
    """
    path = samples.distributed(folder, STATE)
    data = next(path.glob("*.distcp"))
    raw = data.read_bytes()
    start = raw.rindex(b"\x80\x02", 0, raw.index(b"as it was trained"))
    data.write_bytes(raw[:start] + opcodes + b"." + raw[start + len(opcodes) + 1 :])
    return path


def in_export(folder: Path, opcodes: bytes, *, member: str) -> Path:
    """A file of `torch.save` inside the archive of an exported program."""
    inner = in_zip(folder, opcodes, writer=samples.torch_zip, member="data.pkl", infect=inside).read_bytes()
    (folder / "a.pt").unlink()
    return rezip(samples.exported(folder, STATE), {member: lambda _: inner})


def in_policy(folder: Path, opcodes: bytes) -> Path:
    """The file of `torch.save` inside the archive of stable-baselines3."""
    inner = in_zip(folder, opcodes, writer=samples.torch_zip, member="data.pkl", infect=inside).read_bytes()
    (folder / "a.pt").unlink()
    return rezip(samples.policy(folder, STATE), {"policy.pth": lambda _: inner})


def in_states(folder: Path, opcodes: bytes, *, of: str) -> Path:
    """One file of a DeepSpeed folder."""
    path = samples.deepspeed(folder, STATE)
    infected = next(path.rglob(f"*{of}_states.pt"))
    rezip(infected, {"data.pkl": lambda raw: beside(raw, opcodes)})
    return path


CARRIERS: Mapping[str, Carrier] = {
    "torch-zip": partial(in_zip, writer=samples.torch_zip, member="data.pkl", infect=inside),
    "torch-zip, beside": partial(in_zip, writer=samples.torch_zip, member="data.pkl", infect=beside),
    "torch-legacy, object": partial(in_legacy, stream=3, infect=inside),
    "torch-legacy, magic": partial(in_legacy, stream=0, infect=beside),
    "torch-legacy, version": partial(in_legacy, stream=1, infect=beside),
    "torch-legacy, system": partial(in_legacy, stream=2, infect=beside),
    "torch-legacy, keys": partial(in_legacy, stream=4, infect=beside),
    "torch-tar, pickle": partial(in_tar, member="pickle", stream=0, infect=inside),
    "torch-tar, system": partial(in_tar, member="sys_info", stream=0, infect=beside),
    "torch-tar, storages": partial(in_tar, member="storages", stream=0, infect=beside),
    "torch-tar, tensors": partial(in_tar, member="tensors", stream=0, infect=beside),
    "torch-sharded": partial(in_zip, writer=samples.pickled_shards, member="data.pkl", infect=beside),
    "torchscript, data": partial(in_zip, writer=samples.torchscript, member="data.pkl", infect=beside),
    "torchscript, constants": partial(in_zip, writer=samples.torchscript, member="constants.pkl", infect=beside),
    "torch-export, weights": partial(in_export, member="state_dict.pt"),
    "torch-export, constants": partial(in_export, member="constants.pt"),
    "torch-zip, policy": in_policy,
    "npz": in_array,
    "npy-objects": partial(in_pickle, writer=samples.objects, infect=beside),
    "pickle": partial(in_pickle, writer=samples.pickled, infect=inside),
    "pickle, beside": partial(in_pickle, writer=samples.pickled, infect=beside),
    "deepspeed, model": partial(in_states, of="model"),
    "deepspeed, optimizer": partial(in_states, of="optim"),
    "dcp, metadata": in_metadata,
    "dcp, object": in_item,
}
"""By format and place."""
