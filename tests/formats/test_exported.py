from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader.errors import CheckpointError
from loader.formats.torch_programs import DTYPES
from loader.formats.tree import Container, Leaf
from loader.parts.open import open_checkpoint
from tests.formats.comparing import assert_same
from tests.formats.rewriting import rewritten
from tests.jobs import carry_out

pytestmark = pytest.mark.skipif(
    find_spec("torch.export.pt2_archive") is None, reason="torch writes this kind of archive since 2.8"
)


class Net(nn.Module):
    """Parameters that are tied and views, buffers of both kinds, tensors that are neither, several types."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.again = nn.Linear(4, 3)
        self.again.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)
        self.small = nn.Linear(3, 3).to(torch.bfloat16)
        self.turned = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
        self.transient: torch.Tensor
        self.register_buffer("transient", torch.ones(3), persistent=False)
        self.plain = torch.tensor([1.0, 2.0, 3.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x)) + self.again(x) + self.small.weight.float().sum() + self.turned.sum()
        return x + self.transient + self.plain + torch.tensor([0.5, 0.25, 0.125])


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("exported") / "a.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of a tensor that is a view of no other
        torch.export.save(torch.export.export(Net().eval(), (torch.randn(2, 4),)), path)
    return path.read_bytes()


@pytest.fixture
def path(content: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "a.pt2"
    path.write_bytes(content)
    return path


def assert_holds(container: Container, theirs: dict[str, Any], checkpoint: Any) -> None:
    ours = container.tensors()
    assert list(ours) == list(theirs)
    checkpoint.verify(ours.values())
    for key, entry in ours.items():
        for mmap in (True, False):
            assert_same(checkpoint.read(entry, mmap=mmap), theirs[key].detach())


def test_weights_and_constants_are_those_that_torch_gives(path: Path) -> None:
    program = torch.export.load(path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "torch-export"
        constants = checkpoint.root.children["CONSTANTS"]
        assert isinstance(constants, Container)
        assert_holds(checkpoint.root, program.state_dict, checkpoint)
        assert_holds(constants, program.constants, checkpoint)
    assert {"transient", "plain"} < set(constants.children)
    tensors = checkpoint.root.tensors()
    assert tensors["first.weight"].storage == tensors["again.weight"].storage


def test_its_weights_load_into_a_declared_model(path: Path) -> None:
    node = {"_target_": f"{__name__}.Net"}
    loaded = carry_out(node, path, verify={"input": {"shape": [2, 4]}})
    assert torch.equal(loaded.model.first.weight, torch.export.load(path).state_dict["first.weight"])  # type: ignore[union-attr, arg-type]
    assert loaded.report.parts[""].format == "torch-export"


def test_deflated_archives_are_read(path: Path) -> None:
    theirs = torch.export.load(path).state_dict
    with open_checkpoint(rewritten(path, {}, packing=zipfile.ZIP_DEFLATED), check="full") as checkpoint:
        assert_holds(checkpoint.root, theirs, checkpoint)


def test_every_type_has_torchs_own_number() -> None:
    schema = torch._export.serde.serialize._TORCH_TO_SERIALIZE_DTYPE
    theirs = {int(number): str(dtype).removeprefix("torch.") for dtype, number in schema.items()}
    assert theirs == DTYPES


def saved(found: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(found, stream)
    return stream.getvalue()


STATE = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.ones(2, dtype=torch.float16)}


def archive(path: Path, members: dict[str, bytes], packing: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as written:
        for name, member in members.items():
            written.writestr(name, member)
    return path


def test_the_archives_of_older_torch_are_read(tmp_path: Path) -> None:
    graph = {"version": b"8.0", "serialized_exported_program.json": b"{}"}
    old = {**graph, "serialized_state_dict.pt": saved(STATE), "serialized_constants.pt": saved({"c": torch.ones(1)})}
    with open_checkpoint(archive(tmp_path / "a.pt2", old)) as checkpoint:
        assert checkpoint.format == "torch-export"
        assert_holds(checkpoint.root, STATE, checkpoint)
        assert "CONSTANTS" in checkpoint.root.children
    models = {"p/models/model.json": b"{}", "p/archive_format": b"pt2", "p/data/constants/model.pt": b""}
    between = {**models, "p/data/weights/model.pt": saved(STATE)}
    with open_checkpoint(archive(tmp_path / "b.pt2", between)) as checkpoint:
        assert_holds(checkpoint.root, STATE, checkpoint)


def test_several_programs_are_kept_apart(tmp_path: Path) -> None:
    members = {"p/archive_format": b"pt2"}
    for name in ("one", "two"):
        members |= {f"p/models/{name}.json": b"{}", f"p/data/weights/{name}.pt": saved({name: torch.ones(1)})}
        members |= {f"p/data/constants/{name}.pt": b""}
    with open_checkpoint(archive(tmp_path / "a.pt2", members)) as checkpoint:
        assert {name: list(child.children) for name, child in checkpoint.root.walk() if name} == {
            "one": ["one"],
            "two": ["two"],
        }


def described(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """An archive with another description of the tensor `turned`."""

    def changed(raw: bytes) -> bytes:
        config = json.loads(raw)
        entry = config["config"]["turned"]
        config["config"]["turned"] = change(entry) or entry
        return json.dumps(config).encode()

    return rewritten(path, {"weights_config.json": changed})


def test_what_is_no_plain_tensor_is_shown_as_such(path: Path) -> None:
    with open_checkpoint(described(path, lambda entry: entry["tensor_meta"].update(layout=1))) as checkpoint:
        assert checkpoint.root.children["turned"] == Leaf("tensor", "of type 7 and layout 1")
    with open_checkpoint(described(path, lambda entry: entry.update(tensor_meta=None))) as checkpoint:
        found = checkpoint.root.children["turned"]
        assert isinstance(found, Leaf)
        assert found.type == "custom object"


def test_a_pickled_tensor_is_read_inertly(path: Path) -> None:
    with open_checkpoint(path) as checkpoint:
        record = checkpoint.root.tensors()["turned"].storage
        assert record is not None
    rewritten(path, {record.key: lambda _: saved(STATE["a"])})
    with open_checkpoint(described(path, lambda entry: entry.update(use_pickle=True))) as checkpoint:
        assert_same(checkpoint.read(checkpoint.root.tensors()["turned"]), STATE["a"])


INT = {"as_int": 1 << 62}
LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "shape": (lambda e: e["tensor_meta"].update(sizes=[INT, INT]), "its shape is too large for any memory"),
    "more": (lambda e: e["tensor_meta"].update(sizes=[{"as_int": 4}, {"as_int": 2}]), "exceeds its storage"),
    "offset": (lambda e: e["tensor_meta"].update(storage_offset={"as_int": -1}), "shape and stride do not match"),
    "text": (lambda e: e["tensor_meta"].update(sizes=[{"as_int": "3"}, {"as_int": 2}]), "non-negative integers"),
    "name": (lambda e: e["tensor_meta"].update(sizes=[{"as_name": "s0"}]), "invalid tensor_meta for 'turned'"),
    "list": (lambda e: e.update(tensor_meta=[]), "invalid tensor_meta for 'turned'"),
    "type": (lambda e: e["tensor_meta"].update(dtype=[]), "invalid tensor_meta for 'turned'"),
    "path": (lambda e: e.update(path_name="../../etc/passwd"), "invalid path_name for 'turned'"),
    "absent": (lambda e: e.update(path_name="weight_99"), "the record 'a/data/weights/weight_99' is missing"),
    "none": (lambda _: ["x"], "invalid path_name for 'turned'"),
    "pickle": (lambda e: e.update(use_pickle=True), "is cut off"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_descriptions_that_lie_are_refused(case: str, path: Path) -> None:
    change, fault = LIES[case]
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(described(path, change))
    assert fault in refusal.value.message


TEXTS = {
    "twice": (b'{"config": {"a": 1, "a": 2}}', "the list of its weights names 'a' twice"),
    "deep": (b'{"config": ' + b"[" * 200_000, "the list of its weights is not JSON"),
    "nothing": (b"[]", "the list of its weights is not a mapping"),
    "empty": (b"{}", "the list of its weights has no 'config'"),
    "none": (None, "the record 'data/weights/model_weights_config.json' is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_lists_that_are_none_are_refused(case: str, path: Path) -> None:
    text, fault = TEXTS[case]
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(rewritten(path, {"weights_config.json": lambda _: text}))
    assert fault in refusal.value.message


def test_a_damaged_list_is_reported(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"is_param": true', b'"is_param": tRue', 1))
    with pytest.raises(CheckpointError, match=r"its list of weights .* does not match its checksum"):
        open_checkpoint(path)


def test_what_was_packed_twice_is_refused(tmp_path: Path) -> None:
    inner = archive(tmp_path / "inner", {"archive/data.pkl": b"N." * 1000}, zipfile.ZIP_DEFLATED).read_bytes()
    for path in (
        archive(tmp_path / "a.pt2", {"serialized_state_dict.pt": inner}),
        archive(tmp_path / "b.pt2", {"serialized_state_dict.pt": saved(STATE)}, zipfile.ZIP_DEFLATED),
    ):
        with pytest.raises(CheckpointError, match=r"\(serialized_state_dict.pt\) is deflated"):
            open_checkpoint(path)
    empty = archive(tmp_path / "inner", {"archive/x": b"1"}).read_bytes()
    with pytest.raises(CheckpointError, match=r"the record .serialized_state_dict.pt. has no data.pkl"):
        open_checkpoint(archive(tmp_path / "c.pt2", {"serialized_state_dict.pt": empty}))
