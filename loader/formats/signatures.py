"""Names of the formats in configs and reports, and how their files begin.

Guarantees: a few bytes are compared and no reader is imported; no file that a tool writes begins like two of them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .zip import Member

TORCH_ZIP = "torch-zip"
TORCH_LEGACY = "torch-legacy"
TORCH_TAR = "torch-tar"
TORCHSCRIPT = "torchscript"
TORCH_EXPORT = "torch-export"
SAFETENSORS = "safetensors"
GGUF = "gguf"
NPZ = "npz"
NPY = "npy"
PICKLE = "pickle"

SAFETENSORS_SHARDED = "safetensors-sharded"
TORCH_SHARDED = "torch-sharded"
INDEXED = (SAFETENSORS_SHARDED, TORCH_SHARDED)
"""Several files with an index."""

DCP = "dcp"
DEEPSPEED = "deepspeed"
ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar", ".pt2", ".gguf", ".npz")
"""How names of checkpoint files end; their content decides what they are."""
GOLDEN = ".golden.safetensors"
"""The ending of a golden record's name, which is not a checkpoint."""

ZIP_MEMBER = b"PK\x03\x04"
"""The signature of a member of a zip archive, with which most archives begin."""
_EMPTY_ZIP = b"PK\x05\x06"
GGUF_MAGIC = b"GGUF"
NPY_MAGIC = b"\x93NUMPY"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle in a file of torch before 1.6."""
_LEGACY_BYTES = LEGACY_MAGIC.to_bytes(10, "little")
_LEGACY_TEXT = b"L%dL\n" % LEGACY_MAGIC
TAR_MAGIC, TAR_MAGIC_AT, _TAR_BLOCK = b"ustar", 257, 512
TORCH_TAR_MEMBERS = ("sys_info", "pickle", "tensors", "storages")
"""The members of an archive of torch before 0.1.10."""
# An empty container or a global, and the bytes that picklers write after them.
_OLD_PICKLE = re.compile(
    rb"\([dlt]p?\d*\n|\([dlt]q|c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n[pq()]|[\]}]q.[(XU]|\(i[A-Za-z_][\w.]*\n", re.DOTALL
)
_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_PLACE = re.compile(rb'"data_offsets":\s*\[\d')
_NEAR = 64
_LENGTH = struct.Struct("<Q")
_IMPLAUSIBLE = 1 << 48


INDEX, CONSTANTS_INDEX = "data.pkl", "constants.pkl"
"""The pickles of `torch.save`, and of `torch.jit.save` as well."""
POLICY, _BASELINES = "policy.pth", frozenset({"data", "_stable_baselines3_version"})
"""The weights in an archive of stable-baselines3, and the settings and version next to them."""
MODELS, OLD_WEIGHTS = "models/", "serialized_state_dict.pt"
"""The models of an exported program, and its weights in its first versions."""


def is_zip(head: bytes) -> bool:
    """Whether a file begins like a zip archive."""
    return head.startswith((ZIP_MEMBER, _EMPTY_ZIP))


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins with a length and a JSON object."""
    # A text whose ninth character is a brace would declare a header of exabytes; in GGUF it counts tensors.
    return head[8:9] == b"{" and not is_gguf(head) and _LENGTH.unpack_from(head)[0] < _IMPLAUSIBLE


def is_damaged_safetensors(head: bytes) -> bool:
    """Whether a file contains text of a safetensors header although it does not begin like one."""
    return b'{"__metadata__":' in head[:_NEAR] or _PLACE.search(head) is not None


def is_pickle(head: bytes) -> bool:
    """Whether a file begins like a pickle of any protocol."""
    return head.startswith(_PICKLE) or _OLD_PICKLE.match(head) is not None


def is_torch_legacy(head: bytes) -> bool:
    """Whether a file begins with torch's pickled magic number, in any protocol."""
    return head.startswith(_LEGACY_TEXT) or (head[:1] == b"\x80" and _LEGACY_BYTES in head[:32])


def is_torch_tar(head: bytes) -> bool:
    """Whether a file begins like the tar archives of old torch; an extended header may precede the first member."""
    names = (head[at:].partition(b"\0")[0] for at in range(0, len(head), _TAR_BLOCK))
    return head.startswith(TAR_MAGIC, TAR_MAGIC_AT) and any(
        name.decode("latin1") in TORCH_TAR_MEMBERS for name in names
    )


def is_gguf(head: bytes) -> bool:
    """Whether a file begins like llama.cpp's."""
    return head.startswith(GGUF_MAGIC)


def is_npy(head: bytes) -> bool:
    """Whether a file begins like an array of NumPy's."""
    return head.startswith(NPY_MAGIC)


def torch_folder(names: Collection[str], index: str = INDEX) -> str | None:
    """The folder inside an archive that holds a file, with its slash; None if there is none."""
    first = next(iter(names), "")
    folder = first[: first.find("/") + 1]
    return folder if f"{folder}{index}" in names else None


def is_torch_zip(members: Collection[str]) -> bool:
    """Whether an archive is one of `torch.save`."""
    folder = torch_folder(members)
    return folder is not None and f"{folder}{CONSTANTS_INDEX}" not in members


def is_policy_zip(members: Mapping[str, Member]) -> bool:
    """Whether an archive is one of stable-baselines3 whose policy is stored, not deflated."""
    policy = members.get(POLICY)
    return policy is not None and not policy.method and not _BASELINES.isdisjoint(members)


def is_torchscript(members: Collection[str]) -> bool:
    """Whether an archive is one of `torch.jit.save`."""
    folder = torch_folder(members)
    return folder is not None and f"{folder}{CONSTANTS_INDEX}" in members


def export_folder(members: Collection[str]) -> str | None:
    """The folder of an exported program inside an archive, with its slash; None if there is none."""
    first = next(iter(members), "")
    for folder in ("", first[: first.find("/") + 1]):
        models = any(name.startswith(f"{folder}{MODELS}") for name in members)
        if f"{folder}{OLD_WEIGHTS}" in members or (models and f"{folder}archive_format" in members):
            return folder
    return None


def is_export(members: Collection[str]) -> bool:
    """Whether an archive is one of `torch.export.save`."""
    return export_folder(members) is not None


def is_npz(members: Collection[str]) -> bool:
    """Whether an archive holds arrays and nothing else."""
    return bool(members) and all(name.endswith(".npy") for name in members)
