from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader.errors import CheckpointError
from loader.files.file import CheckpointFile
from loader.formats.zip import Archive
from tests.laws import examples

NAMES = {"a/data.pkl": b"pickle", "a/data/0": bytes(range(200)), "a/empty": b""}


def packed(members: dict[str, bytes], method: int = zipfile.ZIP_STORED, *, wide: bool = False) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            with archive.open(name, "w", force_zip64=wide) as member:
                member.write(content)
    return stream.getvalue()


def opened(tmp_path: Path, content: bytes) -> Archive:
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    return Archive(CheckpointFile(path))


def refusal(tmp_path: Path, content: bytes) -> str:
    """What is said of an archive when everything in it is read."""
    with pytest.raises(CheckpointError) as caught:
        read_all(tmp_path, content)
    return caught.value.message


def read_all(tmp_path: Path, content: bytes) -> dict[str, bytes]:
    archive = opened(tmp_path, content)
    return {name: archive.read(name, 1 << 20) for name in archive.members}


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    members=st.dictionaries(st.text("ab/é.0", min_size=1, max_size=8), st.binary(max_size=300), max_size=5),
    method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    wide=st.booleans(),
)
def test_members_are_what_zipfile_wrote(tmp_path: Path, members: dict[str, bytes], method: int, wide: bool) -> None:
    archive = opened(tmp_path, packed(members, method, wide=wide))
    assert list(archive.members) == list(members)
    for name, content in members.items():
        assert archive.read(name, 1 << 20) == content


def test_a_cut_archive_is_refused_at_every_place(tmp_path: Path) -> None:
    whole = packed(NAMES)
    for length in range(len(whole)):
        message = refusal(tmp_path, whole[:length])
        assert f"is cut off: {length:,} bytes are there" in message
        assert "the table of contents at the end of the zip file is missing" in message


def test_an_archive_that_something_follows_is_refused(tmp_path: Path) -> None:
    assert "data follows the end of the zip archive" in refusal(tmp_path, packed(NAMES) + b"x")


def test_an_archive_that_something_precedes_is_refused(tmp_path: Path) -> None:
    assert "its table of contents is declared at bytes" in refusal(tmp_path, b"x" * 10 + packed(NAMES))


def test_a_comment_is_no_harm(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.comment = b"PK\x05\x06 within, " * 3
        archive.writestr("a", b"1")
    assert opened(tmp_path, stream.getvalue()).read("a", 1) == b"1"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    assert "two members have the name 'a'" in refusal(tmp_path, stream.getvalue())


def central(content: bytes, name: bytes) -> int:
    """Where a member's entry in the table of contents begins."""
    return content.rfind(b"PK\x01\x02", 0, content.rfind(name))


def patched(content: bytes, offset: int, form: str, value: int) -> bytes:
    raw = struct.pack(form, value)
    return content[:offset] + raw + content[offset + len(raw) :]


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    content = packed(NAMES)
    overlapping = patched(content, central(content, b"a/data/0") + 42, "<L", 0)
    assert "overlaps the member after it" in refusal(tmp_path, overlapping)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (24, 1 << 31, "declares 2,147,483,648 bytes, its 200 cannot hold them"),
        (20, 100, "declares 200 bytes, its 100 cannot hold them"),
        (10, 99, "packed by method 99; stored or deflated members were expected"),
        (8, 1, "encrypted"),
        (42, 1 << 30, "overlaps the member after it"),
    ],
)
def test_a_lying_table_of_contents_is_refused(tmp_path: Path, field: int, value: int, reason: str) -> None:
    content = packed(NAMES)
    form = "<L" if field in {20, 24, 42} else "<H"
    assert reason in refusal(tmp_path, patched(content, central(content, b"a/data/0") + field, form, value))


@pytest.mark.parametrize(
    ("field", "form", "value"), [(8, "<H", 8), (18, "<L", 7), (26, "<H", 3), (30, "<H", 0x7A7A), (0, "<L", 1)]
)
def test_a_lying_local_header_is_refused(tmp_path: Path, field: int, form: str, value: int) -> None:
    content = packed(NAMES)
    header = content.find(b"a/data/0") - 30
    assert "the header of 'a/data/0' contradicts the archive's table of contents" in refusal(
        tmp_path, patched(content, header + field, form, value)
    )


def test_a_local_header_that_pushes_its_content_into_the_next_is_refused(tmp_path: Path) -> None:
    content = packed(NAMES)
    header = content.find(b"a/data/0") - 30
    assert "'a/data/0' overlaps the member after it" in refusal(tmp_path, patched(content, header + 28, "<H", 40))


def test_the_number_of_members_must_be_right(tmp_path: Path) -> None:
    content = packed(NAMES)
    end = content.rfind(b"PK\x05\x06")
    assert "declares 2 members; 3 can be read" in refusal(tmp_path, patched(content, end + 10, "<H", 2))


def test_what_unpacks_to_another_size_is_refused(tmp_path: Path) -> None:
    content = packed({"a": bytes(100_000)}, zipfile.ZIP_DEFLATED)
    for size in (99_999, 100_001):
        lying = patched(content, central(content, b"a") + 24, "<L", size)
        lying = patched(lying, 22, "<L", size)
        assert f"'a' does not unpack to the {size:,} bytes it declares" in refusal(tmp_path, lying)


def test_what_cannot_be_unpacked_is_refused(tmp_path: Path) -> None:
    content = packed({"a": bytes(range(256)) * 50}, zipfile.ZIP_DEFLATED)
    broken = content[:40] + b"\xff" * 20 + content[60:]
    assert "'a' cannot be unpacked" in refusal(tmp_path, broken)


def test_a_member_is_not_read_beyond_what_is_sane(tmp_path: Path) -> None:
    archive = opened(tmp_path, packed({"byteorder": bytes(5000)}))
    with pytest.raises(CheckpointError, match="'byteorder' declares 5,000 bytes; at most 1,000 were expected"):
        archive.read("byteorder", 1000)


def test_large_archives_have_their_own_table_of_contents(tmp_path: Path) -> None:
    members = {f"{index}": b"" for index in range(70_000)}
    content = packed(members)
    assert len(opened(tmp_path, content).members) == 70_000
    short = content[:-22] + struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, 7, 7, *struct.unpack("<2L", content[-10:-2]), 0
    )
    assert refusal(tmp_path, short).endswith("the two halves of its table of contents contradict each other")


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(packed(NAMES, data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = read_all(tmp_path, bytes(content))
    except CheckpointError:
        return
    assert sum(map(len, read.values())) <= 1032 * len(content)
