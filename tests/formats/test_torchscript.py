from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader.errors import CheckpointError
from loader.formats.tree import Container
from loader.parts.open import open_checkpoint
from tests.formats.comparing import assert_same
from tests.formats.rewriting import Change, rewritten

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


class Inner(nn.Module):
    """Parameters, buffers of both kinds, and a tensor that is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.kept: torch.Tensor
        self.register_buffer("kept", torch.ones(3, dtype=torch.float64))
        self.transient: torch.Tensor
        self.register_buffer("transient", torch.ones(3), persistent=False)
        self.register_parameter("absent", None)
        self.scale = 2.5
        self.names = ["a", "b"]
        self.plain = torch.tensor([1.0, 2.0, 3.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w.t() * self.scale + self.kept.sum() + self.transient.sum() + self.plain.sum()


class Outer(nn.Module):
    """Nested, shared and listed modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.inner = Inner()
        self.again = self.first
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.BatchNorm1d(2)])
        self.alone = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(self.again(x))
        for layer in self.layers:
            x = layer(x)
        return x * self.alone + torch.tensor([0.5, 0.25])


def scripted(path: Path, model: nn.Module | None = None, extra: dict[str, str] | None = None) -> Path:
    torch.jit.save(torch.jit.script(model or Outer()), path, _extra_files=extra)
    return path


def assert_reads_like_torch(path: Path) -> dict[str, Any]:
    theirs = torch.jit.load(path).state_dict()  # type: ignore[no-untyped-call]
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "torchscript"
        assert checkpoint.root.kind == "module"
        ours = checkpoint.root.tensors()
        assert list(ours) == list(theirs)
        checkpoint.verify(ours.values())
        for key, entry in ours.items():
            for mmap in (True, False):
                assert_same(checkpoint.read(entry, mmap=mmap), theirs[key].detach())
    return dict(theirs)


def test_the_state_dict_is_the_one_that_torch_gives(tmp_path: Path) -> None:
    found = assert_reads_like_torch(scripted(tmp_path / "a.pt"))
    assert {"alone", "first.weight", "again.weight", "inner.w", "inner.kept", "layers.1.num_batches_tracked"} <= set(
        found
    )
    assert "inner.transient" in found  # the format does not keep whether a buffer was persistent
    assert "inner.plain" not in found


def test_a_traced_module_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.jit.save(torch.jit.trace(Outer().eval(), torch.randn(2, 4)), path)  # type: ignore[no-untyped-call]
    assert_reads_like_torch(path)


def test_what_is_next_to_the_module_is_passed_over(tmp_path: Path) -> None:
    assert_reads_like_torch(scripted(tmp_path / "a.pt", extra={"labels.json": "{}"}))


def test_shared_tensors_share_a_storage(tmp_path: Path) -> None:
    with open_checkpoint(scripted(tmp_path / "a.pt")) as checkpoint:
        tensors = checkpoint.root.tensors()
    assert tensors["first.weight"].storage == tensors["again.weight"].storage


def test_a_frozen_modules_weights_are_constants(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.jit.save(torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Linear(4, 3)).eval())), path)
    with open_checkpoint(path) as checkpoint:
        constants = checkpoint.root.children["CONSTANTS"]
        assert isinstance(constants, Container)
        assert checkpoint.root.tensors() == {}
        assert sorted(entry.shape for entry in constants.tensors().values()) == [(3,), (3, 4)]
        assert set(constants.children) == {"c0", "c1"}


def test_quantised_modules_keep_their_packed_weights_to_themselves(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), {nn.Linear})  # type: ignore[no-untyped-call]
        path = scripted(tmp_path / "a.pt", model)
        assert_reads_like_torch(path)


def test_code_that_lists_no_buffers_means_every_other_tensor(tmp_path: Path) -> None:
    def without(code: bytes) -> bytes:
        return b"\n".join(line for line in code.split(b"\n") if not line.startswith(b"  __buffers__"))

    path = rewritten(scripted(tmp_path / "a.pt", Inner()), {".py": without})
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.root.tensors()) == ["w", "kept", "transient", "plain"]


def test_names_are_read_as_torch_writes_them(tmp_path: Path) -> None:
    model = nn.Module()
    for name in ("größe", "a:b", "two words"):
        model.register_buffer(name, torch.ones(1))
    path = tmp_path / "a.pt"
    torch.jit.save(torch.jit.script(model), path)
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.root.tensors()) == list(model.state_dict())


def test_deflated_archives_are_read(tmp_path: Path) -> None:
    assert_reads_like_torch(rewritten(scripted(tmp_path / "a.pt"), {}, packing=zipfile.ZIP_DEFLATED))


LIES: dict[str, tuple[dict[str, Change], str]] = {
    "no code": ({".py": lambda _: None}, "it holds no module, or its module's code is missing"),
    "no class": ({".py": lambda _: b"x"}, "it holds no module, or its module's code is missing"),
    "no names": ({".py": lambda code: code.replace(b'"w"', b'"\xff"')}, "lists names that are not valid UTF-8"),
    "bomb": ({".py": lambda code: code + bytes(300 << 20)}, "its code declares 314,57"),
    "long": ({".py": lambda code: code + b"x" * (5 << 20)}, "is longer than 4,194,304 bytes"),
    "tensor": ({"data.pkl": lambda _: b"N."}, "it holds no module, or its module's code is missing"),
    "constant": ({"constants.pkl": lambda _: b"cos\nsystem\n"}, "unexpected end of data"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_archives_that_lie_are_refused(case: str, tmp_path: Path) -> None:
    changes, fault = LIES[case]
    path = rewritten(scripted(tmp_path / "a.pt", Inner()), changes)
    with pytest.raises(CheckpointError, match="is damaged: ") as refusal:
        open_checkpoint(path)
    assert fault in refusal.value.message


def test_damaged_code_is_reported(tmp_path: Path) -> None:
    path = rewritten(scripted(tmp_path / "a.pt", Inner()), {}, packing=zipfile.ZIP_STORED)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'__parameters__ = ["w"', b'__parameters__ = ["v"', 1))
    with pytest.raises(CheckpointError, match=r"its code \(code/__torch__.*\.py\) does not match its checksum"):
        open_checkpoint(path)
    with open_checkpoint(path, check="structure") as checkpoint:
        assert "w" not in checkpoint.root.tensors()


def test_a_full_check_compares_every_record(tmp_path: Path) -> None:
    path = scripted(tmp_path / "a.pt", Inner())
    open_checkpoint(path, check="full").close()
    with zipfile.ZipFile(path) as archive:
        code = next(entry for entry in archive.infolist() if entry.filename.endswith(".debug_pkl"))
    content = bytearray(path.read_bytes())
    content[code.header_offset + 30 + len(code.filename) + code.compress_size // 2] ^= 0xFF
    path.write_bytes(content)
    with open_checkpoint(path) as checkpoint:
        checkpoint.verify(checkpoint.root.tensors().values())
    with pytest.raises(CheckpointError, match="is damaged: "):
        open_checkpoint(path, check="full")
