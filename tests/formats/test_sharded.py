from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import loader
from loader.errors import CheckpointError, FitError
from loader.files.file import CheckpointFile
from loader.files.path import natural
from loader.formats.several import SeveralFiles
from loader.formats.tree import TensorEntry
from loader.parts.open import open_checkpoint
from loader.schema import Check
from tests.formats.comparing import assert_same
from tests.formats.sharding import shard_name, write_index, write_shards, write_sparse
from tests.hostile import samples

ONE, TWO = shard_name(1, 2), shard_name(2, 2)
A, B = {"a": torch.arange(4.0), "b": torch.ones(2, 3)}, {"c": torch.full((2,), 7)}
AGAIN = "download the index and all its shards again, from one and the same revision"


def refusal(path: Path, **settings: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, **settings)
    return caught.value


def entry(checkpoint: Any, key: str) -> TensorEntry:
    found = checkpoint.root.children[key]
    assert isinstance(found, TensorEntry)
    return found


class Reads:
    """Counts the bytes that are read by calls, and refuses any mapping."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls = self.nbytes = 0
        original = CheckpointFile.pread

        def pread(file: CheckpointFile, offset: int, length: int) -> bytes:
            self.calls, self.nbytes = self.calls + 1, self.nbytes + length
            return original(file, offset, length)

        def mapping(file: CheckpointFile) -> None:
            raise AssertionError(f"{file.path} was mapped")

        patch.setattr(CheckpointFile, "pread", pread)
        patch.setattr(CheckpointFile, "mapping", property(mapping))


@pytest.mark.parametrize(
    ("ending", "legacy", "format"),
    [
        ("safetensors", False, "safetensors-sharded"),
        ("bin", False, "torch-sharded"),
        ("bin", True, "torch-sharded"),
    ],
)
@pytest.mark.parametrize("by_folder", [True, False])
def test_all_shards_are_one_tree(ending: str, legacy: bool, format: str, by_folder: bool, tmp_path: Path) -> None:
    index = write_shards(tmp_path / "m", A, B, ending=ending, legacy=legacy)
    path = index.parent if by_folder else index
    with open_checkpoint(path, format=format) as checkpoint:
        assert checkpoint.path == path
        assert checkpoint.format == format
        assert list(checkpoint.root.children) == ["a", "b", "c"]
        assert checkpoint.nbytes == sum(file.stat().st_size for file in index.parent.iterdir())
        checkpoint.verify(checkpoint.root.tensors().values())
        checkpoint.will_need(list(checkpoint.root.tensors().values()))
        checkpoint.check_unchanged()
        for key, value in {**A, **B}.items():
            for mmap in (True, False):
                assert_same(checkpoint.read(entry(checkpoint, key), mmap=mmap), value)


def test_tensors_outlive_the_checkpoint(tmp_path: Path) -> None:
    with open_checkpoint(write_shards(tmp_path, A, B)) as checkpoint:
        value = checkpoint.read(entry(checkpoint, "c"))
    assert value.tolist() == [7, 7]


def test_notes_of_torch_stay_with_their_shard(tmp_path: Path) -> None:
    states = [nn.BatchNorm1d(2).state_dict(prefix=f"{name}.") for name in "ab"]
    folder = tmp_path / "m"
    folder.mkdir()
    for number, state in enumerate(states, 1):
        torch.save(state, folder / f"{number}.bin")
    index = write_index(folder, {key: f"{number}.bin" for number, state in enumerate(states, 1) for key in state})
    with open_checkpoint(index) as checkpoint:
        assert checkpoint.root.metadata["a"] == checkpoint.root.metadata["b"] == {"version": 2}


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_sharded_model_is_loaded(ending: str, tmp_path: Path) -> None:
    state = nn.Linear(3, 2).state_dict()
    folder = tmp_path / "m"
    write_shards(folder, {"weight": state["weight"]}, {"bias": state["bias"]}, ending=ending)
    model = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}
    loaded = loader.load({"model": model, "checkpoint": {"path": str(folder)}, "device": "cpu"})
    for key, value in state.items():
        assert torch.equal(loaded.model.state_dict()[key], value)
    part = loaded.report.parts[""]
    assert (part.path, part.tensors) == (str(folder), 2)
    assert part.format == ("torch-sharded" if ending == "bin" else "safetensors-sharded")


def test_the_golden_record_is_next_to_the_index(tmp_path: Path) -> None:
    state = nn.Linear(3, 2).state_dict()
    folder = tmp_path / "m"
    write_shards(folder, {"weight": state["weight"]}, {"bias": state["bias"]})
    job: dict[str, Any] = {
        "model": {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2},
        "checkpoint": {"path": str(folder)},
        "device": "cpu",
    }
    loader.load({**job, "verify": {"record": True}})
    assert (folder / "model.safetensors.index.json.golden.safetensors").is_file()
    assert any("golden" in check.name for check in loader.load(job).report.verification.checks)
    write_shards(folder, {"weight": state["weight"] + 1}, {"bias": state["bias"]})
    with pytest.raises(loader.LoaderError, match=r"^golden record: output 0 differs"):
        loader.load(job)


def test_the_digest_is_that_of_what_sha256sum_prints(tmp_path: Path) -> None:
    states = [{f"k{number}": torch.ones(number)} for number in range(1, 12)]
    folder = tmp_path / "m"
    folder.mkdir()
    for number, state in enumerate(states, 1):
        torch.save(state, folder / f"{number}.bin")
    index = write_index(folder, {f"k{number}": f"{number}.bin" for number in range(1, 12)}, "my.index.json")
    shown = f"sha256sum {index.name} {' '.join(f'{n}.bin' for n in range(1, 12))} | sha256sum"
    digest = subprocess.run(shown, shell=True, cwd=folder, check=True, capture_output=True, text=True).stdout[:64]
    with open_checkpoint(index, sha256=digest) as checkpoint:
        assert checkpoint.sha256() == digest
    torch.save({"k3": torch.zeros(3)}, folder / "3.bin")
    assert f"checkpoint.sha256 says {digest}" in refusal(index, sha256=digest).message


@given(st.lists(st.integers(0, 10**30), unique=True))
def test_numbered_names_sort_as_their_numbers_do(numbers: list[int]) -> None:
    assert sorted((f"model-{n}.bin" for n in numbers), key=natural) == [f"model-{n}.bin" for n in sorted(numbers)]


def test_a_shard_that_changes_is_reported(tmp_path: Path) -> None:
    index = write_shards(tmp_path, A, B)
    with open_checkpoint(index) as checkpoint:
        os.utime(tmp_path / TWO, (1, 1))
        with pytest.raises(CheckpointError, match=rf"{TWO} changed while it was being read"):
            checkpoint.check_unchanged()
    with open_checkpoint(index) as checkpoint:
        os.utime(index, (1, 1))
        with pytest.raises(CheckpointError, match=r"index\.json changed while it was being read"):
            checkpoint.check_unchanged()


@pytest.mark.parametrize("check", ["crc", "full"])
def test_all_damaged_shards_are_named(check: Check, tmp_path: Path) -> None:
    index = write_shards(tmp_path, A, B, ending="bin")
    for number, state in enumerate((A, B), 1):
        path = tmp_path / shard_name(number, 2, "bin")
        raw = bytearray(path.read_bytes())
        content = next(iter(state.values())).numpy().tobytes()
        raw[raw.index(content) + 4] ^= 1
        path.write_bytes(raw)

    def verified() -> None:
        with open_checkpoint(index, check=check) as checkpoint:
            checkpoint.verify(checkpoint.root.tensors().values())

    with pytest.raises(CheckpointError, match=r"^2 of 2 shards are refused: .*00001-of-00002.bin is damaged: .*00002"):
        verified()


# The index and its shards contradict each other.


def test_everything_that_an_index_gets_wrong_is_reported_at_once(tmp_path: Path) -> None:
    write_shards(tmp_path, {**A, "d": torch.ones(1)}, {**B, "d": torch.ones(1)})
    index = write_index(tmp_path, {"a": ONE, "b": TWO, "d": ONE, "e": TWO})
    refused = refusal(index)
    assert refused.message == (
        f"{index} and its shards contradict each other: "
        f"2 tensors are not where the index says: b (said to be in {TWO}; it is in {ONE}), "
        f"e (said to be in {TWO}; no shard has it); "
        f"1 name appears in more than one shard: d (in {ONE}, {TWO}); "
        f"the index does not list 1 name that the shards hold: c (in {TWO})"
    )
    assert refused.hint == AGAIN


def test_all_missing_shards_are_named(tmp_path: Path) -> None:
    index = write_index(tmp_path, {key: shard_name(number, 3) for number, key in enumerate("abc", 1)})
    (tmp_path / shard_name(2, 3)).touch()
    refused = refusal(index)
    names = shard_name(1, 3), shard_name(3, 3)
    assert refused.message == f"2 of the 3 shards of {index} are missing: {names[0]}, {names[1]}"
    assert refused.hint == (
        f"hf download ORGANIZATION/MODEL {names[0]} {names[1]} --local-dir {tmp_path}   # or copy them"
    )


def test_shards_that_were_not_downloaded_are_reported_at_once(tmp_path: Path) -> None:
    index = write_index(tmp_path, {"a": ONE, "b": TWO})
    for name in (ONE, TWO):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    error = refusal(index)
    assert error.message.startswith(f"2 of 2 shards are refused: {tmp_path / ONE} is a Git LFS pointer")
    assert error.hint == "git lfs pull"


@pytest.mark.parametrize("format", ["npz", "npy", "pickle", "torchscript"])
def test_shards_of_a_format_that_is_never_split_are_refused(format: str, tmp_path: Path) -> None:
    write_shards(tmp_path, A, B)
    (tmp_path / "other").mkdir()
    samples.SAMPLES[format](tmp_path / "other", {"x": torch.ones(1)}).replace(tmp_path / TWO)
    refused = refusal(tmp_path)
    assert refused.message == (
        f"{tmp_path / 'model.safetensors.index.json'} names shards of a format that no library splits: {TWO} ({format})"
    )
    assert refused.hint == "download the index and all its shards again, from one and the same revision"


def test_shards_of_different_formats_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, A, B)
    torch.save(B, tmp_path / TWO)
    refused = refusal(tmp_path)
    assert refused.message == (
        f"{tmp_path / 'model.safetensors.index.json'} names shards of different formats: "
        f"safetensors-sharded has {ONE}, torch-sharded has {TWO}"
    )


def test_an_index_is_no_shard(tmp_path: Path) -> None:
    index = write_index(tmp_path, {"a": "other.json"})
    write_index(tmp_path, {"a": "other.json"}, "other.json")
    assert "other.json is the index of a checkpoint in several files" in refusal(index).message


def test_another_format_is_reported(tmp_path: Path) -> None:
    write_shards(tmp_path, A, B)
    refused = refusal(tmp_path, format="safetensors")
    assert refused.message == f"{tmp_path} is a safetensors-sharded checkpoint; checkpoint.format says safetensors"
    assert refused.hint == "checkpoint.format=safetensors-sharded"


# Indexes that are none.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"error": "Unauthorized"}', "is not an index of shards: its 'weight_map' is missing"),
        ('{"weight_map": ["a"]}', "is not an index of shards: its 'weight_map' is missing or not a mapping"),
        ('{"weight_map": {}}', "is not an index of shards: its 'weight_map' is empty"),
        ('{"weight_map": {"a": 3}}', "the shard of 'a' in its 'weight_map' is not text"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "it names 'a' twice"),
        ('{"weight_map": {}, "weight_map": {}}', "it names 'weight_map' twice"),
        ('{"weight_map": {"a": "x"', "it is not JSON"),
        ('{"metadata": NaN, "weight_map": {"a": "x"}}', "it is not JSON (NaN is not JSON)"),
        ('{"weight_map": ' + "[" * 1001, "an index with more than 1,000 lists and mappings; two were expected"),
        ('{"weight_map": ' + "[" * 990, "it is not JSON"),
        ('{"weight_map": {"a": ' + "9" * 5000 + "}}", "it is not JSON"),
        ("{\udcff", "it is not JSON"),
    ],
)
def test_what_is_not_an_index_is_reported(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert expected in refusal(path).message


def test_a_huge_index_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text('{"weight_map": {')
    os.truncate(path, 64_000_001)
    reads = Reads(monkeypatch)
    assert "an index of 64,000,001 bytes; at most 64,000,000 are allowed" in refusal(path).message
    assert reads.nbytes <= 4096


def test_brackets_in_names_are_no_lists(tmp_path: Path) -> None:
    state = {f"layers[{number}]{{x}}": torch.ones(1) for number in range(1100)}
    with open_checkpoint(write_shards(tmp_path, state)) as checkpoint:
        assert list(checkpoint.root.children) == sorted(state, key=list(checkpoint.root.children).index)
        assert set(checkpoint.root.children) == set(state)


def test_an_index_is_known_by_its_content(tmp_path: Path) -> None:
    index = write_shards(tmp_path, A, B)
    with open_checkpoint(index.rename(tmp_path / "renamed")) as checkpoint:
        assert isinstance(checkpoint, SeveralFiles)


# Indexes that reach out of their folder.


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "is empty"),
        ("../outside.safetensors", "leads out of the folder"),
        ("a/../../outside.safetensors", "leads out of the folder"),
        ("/etc/passwd", "is absolute"),
        ("C:outside.safetensors", "is absolute"),
        ("c:/outside.safetensors", "is absolute"),
        ("..\\outside.safetensors", "contains a backslash"),
        ("\\\\server\\share", "contains a backslash"),
        ("a\0b", "contains unprintable characters"),
        ("a\nb", "contains unprintable characters"),
        ("a\u202eb", "contains unprintable characters"),
        ("a\ud800b", "contains unprintable characters"),
        (".", "has empty path segments"),
        ("./a", "has empty path segments"),
        ("a//b", "has empty path segments"),
        ("a/", "has empty path segments"),
    ],
)
def test_names_that_are_no_plain_paths_are_refused(name: str, fault: str, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    write_shards(folder, A)
    torch.save(A, tmp_path / "outside.safetensors")
    index = write_index(folder, {"a": shard_name(1, 1), "b": name})
    refused = refusal(index)
    assert refused.message.startswith(f"{index} names 1 shard that must not be opened: '")
    assert refused.message.endswith(f"' {fault}; names of files below its own folder were expected")
    assert refused.hint == "do not load this checkpoint; ask whoever made it for shards in one folder"


def test_a_name_too_long_for_any_file_is_missing(tmp_path: Path) -> None:
    assert "1 of the 1 shard" in refusal(write_index(tmp_path, {"a": "x9" * 400})).message


def test_a_path_beyond_any_file_system_is_not_looked_for(tmp_path: Path) -> None:
    error = refusal(write_index(tmp_path, {"a": "s/" * 100_000 + "b"}))
    assert "names 1 shard that must not be opened: " in error.message
    assert error.message.endswith("is 200,001 characters long; names of files below its own folder were expected")


def test_shards_in_folders_below_are_read(tmp_path: Path) -> None:
    write_shards(tmp_path / "below", A)
    index = write_index(tmp_path, dict.fromkeys(A, f"below/{shard_name(1, 1)}"))
    with open_checkpoint(index) as checkpoint:
        assert list(checkpoint.root.children) == ["a", "b"]


@pytest.mark.parametrize("through", ["file", "folder"])
def test_links_out_of_the_folder_are_not_followed(
    through: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "m"
    write_shards(outside, A)
    folder.mkdir()
    name = shard_name(1, 1)
    if through == "file":
        (folder / name).symlink_to(outside / name)
    else:
        (folder / "below").symlink_to(outside)
        name = f"below/{name}"
    index = write_index(folder, dict.fromkeys(A, name))
    opened: list[Path] = []
    original = CheckpointFile.__init__

    def init(file: CheckpointFile, path: Path) -> None:
        opened.append(path)
        original(file, path)

    monkeypatch.setattr(CheckpointFile, "__init__", init)
    refused = refusal(index)
    assert refused.message == (
        f"1 shard of {index} would be read from outside its folder: {name} → {outside / shard_name(1, 1)}"
    )
    assert refused.hint == "copy the shards into the folder, or move the index to where they are"
    assert opened == [index]


def test_links_inside_the_folder_are_followed(tmp_path: Path) -> None:
    index = write_shards(tmp_path, A, B)
    (tmp_path / TWO).rename(tmp_path / "blob")
    (tmp_path / TWO).symlink_to("blob")
    with open_checkpoint(index) as checkpoint:
        assert "c" in checkpoint.root.children


def cached(root: Path) -> tuple[Path, Path]:
    """A model as the hub's cache keeps it: the snapshot's folder, and that of what its links lead to."""
    cache = root / "models--org--name"
    snapshot, blobs = cache / "snapshots" / "0123", cache / "blobs"
    snapshot.mkdir(parents=True)
    write_shards(blobs, A, B)
    for number, file in enumerate(sorted(blobs.iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(number)))
    return snapshot, blobs


def test_the_cache_of_the_hub_is_read(tmp_path: Path) -> None:
    snapshot, _ = cached(tmp_path)
    for path in (snapshot, snapshot / "model.safetensors.index.json"):
        with open_checkpoint(path) as checkpoint:
            assert list(checkpoint.root.children) == ["a", "b", "c"]


def test_a_shard_that_the_cache_lost_is_missing(tmp_path: Path) -> None:
    snapshot, blobs = cached(tmp_path)
    (blobs / "0").unlink()
    refused = refusal(snapshot)
    assert refused.message.endswith(f"is missing: {ONE}")
    assert refused.hint == "hf download org/name"


def test_links_out_of_the_cache_are_not_followed(tmp_path: Path) -> None:
    snapshot, _ = cached(tmp_path)
    other, _ = cached(tmp_path / "other")
    (snapshot / ONE).unlink()
    (snapshot / ONE).symlink_to(other / ONE)
    assert "would be read from outside its folder" in refusal(snapshot).message


def test_a_pipe_is_no_shard(tmp_path: Path) -> None:
    index = write_shards(tmp_path, A, B)
    (tmp_path / TWO).unlink()
    os.mkfifo(tmp_path / TWO)
    assert f"{TWO} is a named pipe; a checkpoint file was expected" in refusal(index).message


def test_a_shard_that_links_in_a_circle_is_reported(tmp_path: Path) -> None:
    index = write_shards(tmp_path, A, B)
    (tmp_path / TWO).unlink()
    (tmp_path / TWO).symlink_to(TWO)
    assert refusal(index).message == f"{tmp_path / TWO} is a symbolic link that leads in a circle"


def test_a_shard_that_may_not_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write_shards(tmp_path, A, B)
    original = os.open

    def denied(path: Path, flags: int) -> int:
        if Path(path).name == TWO:
            raise PermissionError(13, "Permission denied")
        return original(path, flags)

    monkeypatch.setattr(os, "open", denied)
    assert refusal(index).message == f"{tmp_path / TWO} is not readable by this user"


def test_tied_names_in_shards_of_the_same_layout_are_compared(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2, bias=False), "b": torch.nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    write_shards(tmp_path, {"a.weight": torch.ones(2, 2)}, {"b.weight": torch.zeros(2, 2)}, ending="bin")
    with pytest.raises(FitError, match=r"ties names that hold different values in the file: a\.weight and b\.weight"):
        loader.load_into(model, tmp_path)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux lists a process's open files")
def test_refused_checkpoints_leave_no_file_open(tmp_path: Path) -> None:
    write_shards(tmp_path, A, B)
    index = write_index(tmp_path, {"a": ONE, "z": TWO})
    before = open_files()
    refused = refusal(index)
    assert open_files() == before
    assert refused.hint == AGAIN


# What is huge.


def header_length(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def test_planning_a_terabyte_reads_headers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, width = 40, 57_000  # two tensors of 13 GB in each
    folder = write_sparse(tmp_path / "m", shards, 2, width)
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size > 10**12
    reads = Reads(monkeypatch)
    layer = {"_target_": "torch.nn.Linear", "in_features": width, "out_features": width, "bias": False}
    model = {"_target_": "torch.nn.Sequential", "_args_": [layer] * 2 * shards}
    loaded = loader.load({"model": model, "checkpoint": {"path": str(folder)}, "device": "cpu", "mode": "plan"})
    assert loaded.report.parts[""].bytes == size
    assert loaded.report.parts[""].tensors == 2 * shards
    headers = sum(8 + header_length(file) for file in folder.glob("*.safetensors"))
    index = (folder / "model.safetensors.index.json").stat().st_size
    assert reads.nbytes <= headers + index + (shards + 1) * (4096 + 8)


def test_a_plan_of_shards_that_do_not_fit_is_refused(tmp_path: Path) -> None:
    folder = write_sparse(tmp_path / "m", 2, 2, 8)
    layer = {"_target_": "torch.nn.Linear", "in_features": 8, "out_features": 8, "bias": False}
    model = {"_target_": "torch.nn.Sequential", "_args_": [layer] * 5}
    with pytest.raises(FitError, match=r"does not fit the model: 4 of 5 keys would be loaded"):
        loader.load({"model": model, "checkpoint": {"path": str(folder)}, "device": "cpu", "mode": "plan"})
