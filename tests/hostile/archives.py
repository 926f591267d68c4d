"""Zip archives that say one thing to one reader and another thing to the next, or lie about what they hold."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from tests.hostile import samples
from tests.hostile.carriers import STATE, rezip
from tests.hostile.case import DAMAGED, FITS, REFUSED, WEIGHT, Case

Change = Callable[[bytearray], bytes | bytearray]
END, ENTRY, LOCAL = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"
LIE = torch.tensor([[9.0, 9.0, 9.0]])


def honest(folder: Path) -> bytearray:
    """An honest file's bytes."""
    return bytearray(samples.torch_zip(folder, STATE).read_bytes())


def changed(change: Change) -> Callable[[Path], Path]:
    """An honest file with a change to its bytes."""

    def write(folder: Path) -> Path:
        path = folder / "a.pt"
        raw = honest(folder)
        path.write_bytes(change(raw))
        return path

    return write


def field(record: bytes, offset: int, form: str, value: int, *, which: int = 0) -> Change:
    """Writes a number into the record of a kind at a position in their order; -1 is the last."""

    def change(raw: bytearray) -> bytearray:
        places = [at for at in range(len(raw)) if raw.startswith(record, at)]
        struct.pack_into(form, raw, places[which] + offset, value)
        return raw

    return change


def two_ends(raw: bytearray) -> bytes:
    """An archive of lies in front, whose end is hidden in the comment of none."""
    return bytes(raw) + bytes(raw)


def commented(raw: bytearray) -> bytes:
    """A second end inside the comment: some readers take the first they meet from behind, some the longest."""
    end = raw.rindex(END)
    fake = bytes(raw[end : end + 22])
    struct.pack_into("<H", raw, end + 20, len(fake))
    return bytes(raw) + fake


def with_comment(raw: bytearray) -> bytes:
    """An honest comment."""
    struct.pack_into("<H", raw, raw.rindex(END) + 20, 5)
    return bytes(raw) + b"hello"


def renamed_locally(raw: bytearray) -> bytes:
    """The local header of the weights has another name than the table of contents."""
    at = raw.index(b"a/data/0")
    raw[at : at + 8] = b"a/data/9"
    return bytes(raw)


def swapped_places(raw: bytearray) -> bytes:
    """The table of contents points the weights to the byte order's record."""
    entries = [at for at in range(len(raw)) if raw.startswith(ENTRY, at)]
    places = [struct.unpack_from("<L", raw, at + 42)[0] for at in entries]
    struct.pack_into("<L", raw, entries[0] + 42, places[1])
    return bytes(raw)


def same_name(folder: Path) -> Path:
    """Two members of one name, the second with other weights."""
    path = samples.torch_zip(folder, STATE)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b/data/0", LIE.numpy().tobytes())
    path.write_bytes(path.read_bytes().replace(b"b/data/0", b"a/data/0"))
    return path


def no_checksums(folder: Path) -> Path:
    """All checksums 0, as writers do that compute none."""
    raw = bytearray(samples.torch_zip(folder, STATE).read_bytes())
    for at in range(len(raw)):
        if raw.startswith(ENTRY, at):
            struct.pack_into("<L", raw, at + 16, 0)
        if raw.startswith(LOCAL, at):
            struct.pack_into("<L", raw, at + 14, 0)
    path = folder / "a.pt"
    path.write_bytes(raw)
    return path


def wrong_weights(raw: bytearray) -> bytes:
    """Other weights under the old checksum."""
    return bytes(raw).replace(WEIGHT.numpy().tobytes(), LIE.numpy().tobytes())


def one_checksum_zero(raw: bytearray) -> bytes:
    """Other weights whose checksum says that none was computed, among others that have one."""
    raw = bytearray(wrong_weights(raw))
    checksum = struct.pack("<L", zlib.crc32(WEIGHT.numpy().tobytes()))
    return bytes(raw).replace(checksum, b"\x00\x00\x00\x00")


def deflated(folder: Path) -> Path:
    """An honest file, deflated."""
    return rezip(samples.torch_zip(folder, STATE), {}, zipfile.ZIP_DEFLATED)


def packed(method: int) -> Callable[[Path], Path]:
    """Members packed by another method."""
    return lambda folder: rezip(samples.torch_zip(folder, STATE), {}, method)


def overlapping(folder: Path) -> Path:
    """Storages that share one run of bytes: each a megabyte, the file too."""
    path = samples.torch_zip(folder, {**STATE, "a": torch.zeros(1000), "b": torch.zeros(1000)})
    raw = bytearray(path.read_bytes())
    entries = [at for at in range(len(raw)) if raw.startswith(ENTRY, at)]
    named = [at for at in entries if raw[at + 46 :].split(b"PK")[0].find(b"data/2") >= 0]
    other = [at for at in entries if raw[at + 46 :].split(b"PK")[0].find(b"data/1") >= 0]
    struct.pack_into("<L", raw, named[0] + 42, struct.unpack_from("<L", raw, other[0] + 42)[0])
    path.write_bytes(raw)
    return path


def two_roots(folder: Path, *, first: str, second: str) -> Path:
    """Two files of torch.save in one archive: one loader takes the first, another the second."""
    path = samples.torch_zip(folder, STATE)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for root in (first, second):
            for name, content in members.items():
                archive.writestr(root + name, content)
    return path


def quine(folder: Path) -> Path:
    """A member that contains the archive's own table of contents."""
    path = samples.torch_zip(folder, STATE)
    inner = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", inner)
        archive.writestr("a/data/0", inner)
    return path


def in_zip64(size: int, packed: int) -> Change:
    """A member whose sizes are in the 64-bit field and are huge."""

    def change(raw: bytearray) -> bytes:
        at = raw.index(ENTRY)
        name, extra = struct.unpack_from("<2H", raw, at + 28)
        struct.pack_into("<2L", raw, at + 20, 0xFFFFFFFF, 0xFFFFFFFF)
        struct.pack_into("<H", raw, at + 30, extra + 20)
        wide = struct.pack("<2H2Q", 1, 16, size, packed)
        raw[at + 46 + name : at + 46 + name] = wide
        end = raw.rindex(END)
        struct.pack_into("<L", raw, end + 12, struct.unpack_from("<L", raw, end + 12)[0] + len(wide))
        return bytes(raw)

    return change


def prefixed(raw: bytearray) -> bytes:
    """Something in front of the archive, as self-extracting ones have."""
    return b"#!/bin/sh\ntouch marker\n" + bytes(raw)


def as_script(raw: bytearray) -> bytes:
    """A local header in front, then something else: a polyglot that is recognized and then is none."""
    return LOCAL + b"\n" * 100 + bytes(raw)


CHANGES: dict[str, tuple[Change, str]] = {
    "two archives in a row": (two_ends, REFUSED),
    "an end in the comment": (commented, REFUSED),
    "a comment": (with_comment, FITS),
    "a script in front": (prefixed, REFUSED),
    "a local header in front": (as_script, REFUSED),
    "something behind": (lambda raw: bytes(raw) + b"\x00" * 70_000, REFUSED),
    "another name in the local header": (renamed_locally, REFUSED),
    "places swapped": (swapped_places, REFUSED),
    "wrong weights under a checksum": (wrong_weights, DAMAGED),
    "wrong weights and one checksum of 0": (one_checksum_zero, DAMAGED),
    "count of members": (field(END, 10, "<H", 9), REFUSED),
    "count of members in the zip64 record": (field(END, 10, "<H", 0xFFFF), FITS),
    "size of the table of contents": (field(END, 12, "<L", 0x7FFFFFFF), REFUSED),
    "place of the table of contents": (field(END, 16, "<L", 5), REFUSED),
    "place in the zip64 record": (field(END, 16, "<L", 0xFFFFFFFF), FITS),
    "several disks": (field(END, 4, "<H", 3), REFUSED),
    "encrypted": (field(ENTRY, 8, "<H", 1), REFUSED),
    "an unknown method": (field(ENTRY, 10, "<H", 99), REFUSED),
    "deflated by the table alone": (field(ENTRY, 10, "<H", 8), REFUSED),
    "stored size": (field(ENTRY, 20, "<L", 3), REFUSED),
    "real size": (field(ENTRY, 24, "<L", 0x7FFFFFFF), REFUSED),
    "both sizes": (in_zip64(1 << 42, 1 << 42), REFUSED),
    "zip64 sizes of exabytes": (in_zip64((1 << 64) - 1, (1 << 64) - 1), REFUSED),
    "zip64 size of a terabyte, packed honestly": (in_zip64(1 << 40, 100), REFUSED),
    "place of a member": (field(ENTRY, 42, "<L", 0x7FFFFFF0), REFUSED),
    "place of a member, 0": (field(ENTRY, 42, "<L", 0, which=-1), REFUSED),
    "length of a name": (field(ENTRY, 28, "<H", 0xFFFF), REFUSED),
    "length of an extra field": (field(ENTRY, 30, "<H", 0xFFFF), REFUSED),
    "length of a comment": (field(ENTRY, 32, "<H", 0xFFFF, which=-1), REFUSED),
    "length of the local name": (field(LOCAL, 26, "<H", 0xFFFF), REFUSED),
    "length of the local extra field": (field(LOCAL, 28, "<H", 0xFFFF), REFUSED),
    "method in the local header": (field(LOCAL, 8, "<H", 8), REFUSED),
    "signature of the local header": (field(LOCAL, 0, "<L", 0), REFUSED),
}
"""What is changed, and what has to come of it."""


def cases() -> Iterator[Case]:
    """All of them."""
    for name, (change, outcome) in CHANGES.items():
        yield Case(f"zip: {name}", changed(change), outcome)
    yield Case("zip: one name twice", same_name, REFUSED)
    yield Case("zip: no checksums at all", no_checksums, FITS)
    yield Case("zip: deflated", deflated, FITS)
    for first, second in (("a/", "b/"), ("a/", ""), ("a/", "./"), ("a/", "./a/"), ("a/", "a//"), ("b/", "a/./")):
        name = f"zip: two roots, {first!r} and {second!r}"
        yield Case(name, partial(two_roots, first=first, second=second), REFUSED)
    yield Case("zip: packed by bzip2", packed(zipfile.ZIP_BZIP2), REFUSED)
    yield Case("zip: packed by lzma", packed(zipfile.ZIP_LZMA), REFUSED)
    yield Case("zip: members that overlap", overlapping, REFUSED)
    yield Case("zip: an archive in itself", quine, REFUSED)
