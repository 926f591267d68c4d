from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest
import torch

from loader.errors import CheckpointError
from loader.files.file import CheckpointFile


def refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        CheckpointFile(path)
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(256)) * 100)
    return path


def test_reads_are_exact_and_bounded(path: Path) -> None:
    file = CheckpointFile(path)
    assert file.pread(3, 5) == bytes([3, 4, 5, 6, 7])
    assert file.pread(25_600, 0) == b""
    for offset, length in [(25_599, 2), (-1, 1), (0, -1), (1 << 70, 1)]:
        with pytest.raises(CheckpointError, match="is cut off: 25,600 bytes are there"):
            file.pread(offset, length)


def test_bytes_are_read_straight_into_a_tensor(path: Path) -> None:
    file = CheckpointFile(path)
    tensor = torch.empty(100, dtype=torch.int16)
    file.read_into(tensor, 256)
    assert bytes(tensor.view(torch.uint8).tolist()) == path.read_bytes()[256:456]
    with pytest.raises(CheckpointError, match="is cut off"):
        file.read_into(tensor, 25_500)


def test_the_mapping_is_private(path: Path) -> None:
    file = CheckpointFile(path)
    file.mapping[0] = 99
    assert path.read_bytes()[0] == 0
    assert file.mapping is file.mapping


def test_a_closed_file_is_not_read(path: Path) -> None:
    file = CheckpointFile(path)
    file.close()
    with pytest.raises(CheckpointError, match="was closed before it was read"):
        _ = file.mapping
    with pytest.raises(CheckpointError, match="was closed before it was read"):
        file.pread(0, 1)
    with pytest.raises(CheckpointError, match="was closed before it was read"):
        file.read_into(torch.empty(1), 0)


def test_the_digest_is_the_files(path: Path) -> None:
    assert CheckpointFile(path).sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_grew_or_was_written_is_reported(path: Path) -> None:
    file = CheckpointFile(path)
    file.check_unchanged()
    with path.open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(CheckpointError, match=r"changed while it was being read \(25,600 bytes then, 25,601 now\)"):
        file.check_unchanged()
    again = CheckpointFile(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(CheckpointError, match="same size, written since"):
        again.check_unchanged()


def test_a_file_that_shrinks_under_a_read_is_reported(path: Path) -> None:
    file = CheckpointFile(path)
    os.truncate(path, 10)
    with pytest.raises(CheckpointError, match="it is shorter now"):
        file.pread(0, 100)
    with pytest.raises(CheckpointError, match="it is shorter now"):
        file.read_into(torch.empty(100, dtype=torch.uint8), 0)


def test_replacing_a_file_leaves_the_opened_one_alone(path: Path) -> None:
    file = CheckpointFile(path)
    other = path.with_name("other")
    other.write_bytes(b"new")
    other.rename(path)
    file.check_unchanged()
    assert file.pread(0, 3) == b"\0\1\2"


def test_a_stream_reads_the_opened_file_whatever_has_its_name_by_then(path: Path) -> None:
    file, content = CheckpointFile(path), path.read_bytes()
    other = path.with_name("other")
    other.write_bytes(b"new")
    other.rename(path)
    for _ in range(2):
        with file.stream() as stream:
            assert stream.read() == content
    assert file.pread(0, 3) == b"\0\1\2"


def test_a_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe").message == f"{tmp_path}/pipe is a named pipe; a checkpoint file was expected"


def test_a_socket_is_refused(tmp_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    server.close()
    assert "is a socket; a checkpoint file was expected" in refusal(tmp_path / "socket").message


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(device: str) -> None:
    assert refusal(Path(device)).message == f"{device} is a device; a checkpoint file was expected"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "is a folder; a checkpoint file was expected" in refusal(tmp_path).message


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert refusal(tmp_path / "a").message == f"{tmp_path}/a is a symbolic link that leads in a circle"


def test_a_link_into_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "gone")
    assert refusal(tmp_path / "a").message == (
        f"{tmp_path}/a is a symbolic link to {tmp_path}/gone, which does not exist"
    )


def test_a_link_to_a_file_is_followed(tmp_path: Path, path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    assert CheckpointFile(tmp_path / "link").size == 25_600


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_an_unreadable_file_is_refused(path: Path) -> None:
    path.chmod(0)
    assert refusal(path).message == f"{path} is not readable by this user"


def test_a_refused_open_differs_from_a_missing_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    error = refusal(path)
    assert error.message == f"{path} is not readable by this user"
    assert error.hint.startswith(f"chmod u+r {path}")


def test_descriptors_are_closed(path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    file = CheckpointFile(path)
    file.close()
    file.close()
    dropped = CheckpointFile(path)
    del dropped
    assert len(list(Path("/proc/self/fd").iterdir())) == before
