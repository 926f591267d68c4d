"""Small files that ask for much: time, memory, stack or open files.

Each is as small as shows the difference: work that grows with the square of such a file's length would take minutes.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from tests.formats.hostile import torch_zip
from tests.hostile import samples
from tests.hostile.carriers import STATE, in_legacy, inside, rezip
from tests.hostile.case import BOUNDED, FITS, MISFIT, REFUSED, Case
from tests.hostile.routes import call, named, text

N = 12_000


def key(number: int) -> bytes:
    """A text of six digits."""
    return b"X\x06\x00\x00\x00%06d" % number


def doubled(levels: int) -> bytes:
    """A tuple of two references to a tuple of two references to …: 2 to the power of `levels` paths."""
    return b")" + b"2\x86" * levels


def memoised(levels: int) -> bytes:
    """The same through the memo, as a billion laughs is written."""
    return b"]q\x00" + b"".join(b"](" + b"h%c" % (n % 250) * 10 + b"eq%c" % ((n + 1) % 250) for n in range(levels))


DEEP = b"N" + b"\x85" * N

ARRAY = b"cnumpy.core.multiarray\n_reconstruct\nq\x010"
"""NumPy's constructor, put aside."""
WRAPPER = (
    b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_wrapper_subclass\n"
    b"ctorch.distributed.tensor\nDTensor\n(ctorch.distributed.tensor\nDTensor\nctorch\nfloat32\n"
)
"""The beginning of a tensor that wraps others, up to its size."""


def array_of(content: bytes) -> bytes:
    """An array of objects, or of numbers, with this state behind its version."""
    return b"h\x01)R(K\x01" + content + b"tb"


PICKLES: dict[str, bytes] = {
    "nested arrays of objects": ARRAY + b"N" + (b"q\x020" + array_of(b")N\x89]h\x02a")) * (N // 6),
    "array of objects in itself": ARRAY + b"h\x01)Rq\x03(K\x01)N\x89]h\x03atb",
    "list of an array in itself": ARRAY + b"h\x01)Rq\x03(K\x01K\x02\x85N\x89]h\x03ah\x03atb",
    "array of exabytes": ARRAY + array_of(
        b"\x8a\x08\0\0\0\0\0\0\0\x40\x85cnumpy\ndtype\n(X\x02\0\0\0f4K\0K\x01tR\x89U\x01x"),
    "array of many dimensions": ARRAY
    + array_of(
        b"(" + b"K\x01" * N + b"tcnumpy\ndtype\n(X\x02\0\0\0f4tR\x89C\x04abcd"
    ),
    "share of exabytes": WRAPPER + b"\x8a\x08\0\0\0\0\0\0\0\x40\x85K\x01\x85K\0NN\x89t}tR",
    "share of many dimensions": WRAPPER + b"(" + b"K\x01" * N + b"t)K\0NN\x89t}tR",
    "share of itself": WRAPPER + b"K\x01\x85K\x01\x85K\0NN\x89t}q\x04X\x0d\0\0\0_local_tensorh\x04stR",
    "nested tuples": DEEP,
    "nested lists": b"]" * N + b"a" * (N - 1),
    "nested dicts": b"}" + b"K\x01}" * N + b"s" * N,
    "nested calls": b"cm\nf\n" * (N // 3) + b"N" + b"\x85R" * (N // 3),
    "nested objects": b"cm\nN\n)\x81" * (N // 6) + b"b" * (N // 6 - 1),
    "nested sets": b"\x8f(" * (N // 6) + b"\x90" * (N // 6),
    "doubled tuples": doubled(5000),
    "laughs": memoised(200),
    "key of nested tuples": b"}" + DEEP + b"K\x01s",
    "key of doubled tuples": b"}" + doubled(5000) + b"K\x01s",
    "key of a number of many digits": b"}\x8b" + struct.pack("<i", N) + b"\x7f" * N + b"Ns",
    "set of doubled tuples": b"\x8f(" + doubled(5000) + b"\x90",
    "frozenset of doubled tuples": b"(" + doubled(5000) + b"\x91",
    "keys that collide": b"}(" + b"".join(
        b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(N // 3)) + b"u",
    "set of numbers that collide": b"\x8f(" + b"".join(
        b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") for i in range(N // 3)) + b"\x90",
    "list in itself": b"]q\x00h\x00a",
    "dict in itself": b"}q\x00X\x01\x00\x00\x00ah\x00s",
    "dict as its own key": b"}q\x00h\x00Ns",
    "object in itself": b"cm\nN\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb",
    "two that hold each other": b"]q\x00]q\x01h\x00ah\x01h\x00h\x01a0",
    "marks": b"(" * N,
    "empty lists": b"]" * N,
    "empty dicts": b"}" * N,
    "far places in the memo": b"N" + b"".join(b"r" + struct.pack("<I", 2**32 - 1 - i) for i in range(N)),
    "long places in the memo": b"N" + b"".join(b"p%019d\n" % i for i in range(N // 3)),
    "text that is not there": b"X\xff\xff\xff\xff",
    "text of exabytes": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
    "bytes that are not there": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    "negative length": b"T\xff\xff\xff\xff",
    "byte array of a terabyte": b"\x96\x00\x00\x00\x00\xff\x00\x00\x00",
    "number that is not there": b"\x8b\xff\xff\xff\x7f",
    "number of a million bits": b"\x8b" + struct.pack("<i", N) + b"\x7f" * N,
    "digits": b"I" + b"9" * N + b"\n",
    "digits of a long": b"L" + b"9" * N + b"L\n",
    "float of many digits": b"F" + b"9" * N + b"\n",
    "escapes": b"S'" + b"\\x41" * N + b"'\n",
    "frame of exabytes": b"\x95\xff\xff\xff\xff\xff\xff\xff\x7fN",
    "frame that ends in an opcode": b"\x95\x02\x00\x00\x00\x00\x00\x00\x00X\x05\x00\x00\x00abcde",
    "frames in frames": (b"\x95" + struct.pack("<Q", 1)) * (N // 3) + b"N",
    "many protocols": b"\x80\x02" * N + b"N",
    "one key many times": b"}(" + b"X\x01\x00\x00\x00aN" * N + b"u",
    "long path of keys": b"}(X\x40\x42\x0f\x00" + b"k" * 1_000_000 + b"}(" + b"".join(
        b"X\x06\x00\x00\x00%06d}" % i for i in range(N // 3)) + b"uu",
    "stray keys": b"}(" + b"".join(key(i) + b"K\x01" for i in range(N)) + b"u",
    "names without end": b"".join(b"cm%d\nf\n0" % i for i in range(N // 3)) + b"N",
    "a name of a megabyte": b"c" + b"m" * 1_000_000 + b"\nf\n",
    "a name of a megabyte, short": b"X\x40\x42\x0f\x00" + b"m" * 1_000_000 + b"X\x01\x00\x00\x00f\x93",
    "counter of a huge number": call(named("collections", "Counter"), b"J\xff\xff\xff\x7f"),
    "counter of bytes": call(
        named("collections", "Counter"), call(named("builtins", "bytearray"), b"J\xff\xff\xff\x7f")),
    "bytes of a huge size": call(named("builtins", "bytes"), b"J\xff\xff\xff\x7f"),
    "byte array of a huge size": call(named("builtins", "bytearray"), b"J\xff\xff\xff\x7f"),
    "list of a range": call(named("builtins", "list"), call(named("builtins", "range"), b"J\xff\xff\xff\x7f")),
    "encoded again and again": b"".join(b"c_codecs\nencode\n(" for _ in range(5000)) + text("x") + b"tR" * (N // 6),
    "deque of a range": call(named("collections", "deque"), call(named("builtins", "range"), b"J\xff\xff\xff\x7f")),
    "a shape of a million sizes": call(named("torch", "Size"), b"(" + b"K\x01" * N + b"t"),
    "many objects": b"](" + b"cm\nN\n)\x81}b" * (N // 3) + b"e",
    "many objects by name": b"](" + b"(im\nN\n" * (N // 3) + b"e",
    "one state after the other": b"cm\nN\n)\x81" + b"}b" * N,
    "appended one by one": b"cm\nN\n)R" + b"K\x01a" * N,
    "stored one by one": b"cm\nN\n)R" + b"K\x01K\x02s" * N,
    "stored in one dict one by one": b"}" + b"".join(key(i) + b"Ns" for i in range(N)),
    "persistent ids": b"](" + (b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
                              b"K\x03tQ") * (N // 6) + b"e",
    "module in itself": (
        b"cm\nN\n)\x81q\x00}(X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_buffers}X\x08\x00\x00\x00_modules}"
        b"X\x01\x00\x00\x00ah\x00sub"),
}  # fmt: skip
"""Opcodes that leave one value, by what they ask for."""


ALONE = (
    *(
        "nested tuples",
        "nested lists",
        "nested dicts",
        "nested objects",
        "doubled tuples",
        "laughs",
        "keys that collide",
    ),
    *("list in itself", "dict in itself", "object in itself", "module in itself", "marks", "stored one by one"),
    *("nested arrays of objects", "array of objects in itself", "list of an array in itself", "array of exabytes"),
    *("many objects", "long path of keys", "counter of bytes", "bytes that are not there"),
)
"""Those that are also the whole of a file."""


def module_of(children: bytes) -> bytes:
    """A module without tensors of its own."""
    return (
        b"cm\nN\n)\x81}(X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_buffers}X\x08\x00\x00\x00_modules}("
        + children + b"uub"
    )  # fmt: skip


def shared_modules(levels: int) -> bytes:
    """Modules of which each is contained twice in the next: 2 to the power of `levels` paths."""
    opcodes = module_of(b"") + b"q\x00"
    for _ in range(levels):
        opcodes += b"0" + module_of(b"X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00") + b"q\x00"
    return opcodes


def alone(opcodes: bytes) -> Callable[[Path], Path]:
    """A file that holds nothing else."""
    return lambda folder: torch_zip(folder / "a.pt", opcodes + b".")


def beside_weights(opcodes: bytes) -> Callable[[Path], Path]:
    """A file that holds it next to the weights."""

    def write(folder: Path) -> Path:
        return rezip(samples.torch_zip(folder, STATE), {"data.pkl": lambda raw: inside(raw, opcodes)})

    return write


def in_old_file(opcodes: bytes) -> Callable[[Path], Path]:
    """The same in the old format."""
    return lambda folder: in_legacy(folder, opcodes, stream=3, infect=inside)


def deflated(opcodes: bytes, megabytes: int) -> Callable[[Path], Path]:
    """An index of so many megabytes that takes a thousandth of it in the file."""

    def write(folder: Path) -> Path:
        path = folder / "a.pt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data.pkl", "w") as member:
            for _ in range(megabytes):
                member.write(opcodes * ((1 << 20) // len(opcodes)))
            member.write(b".")
        return path

    return write


def deflated_side_record(folder: Path) -> Path:
    """A record of one word that unpacks to a hundred megabytes."""
    path = folder / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/byteorder", b" " * (100 << 20))
    return path


def deflated_stranger(folder: Path) -> Path:
    """Beside honest weights a member that nothing refers to."""
    path = samples.torch_zip(folder, STATE)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/stranger", b" " * (100 << 20))
    return path


def deflated_storage(folder: Path) -> Path:
    """Weights that nobody asks for, of a hundred megabytes that deflate to a hundred kilobytes."""
    path = samples.torch_zip(folder, {**STATE, "huge": torch.zeros(1)})
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, b"\x00" * (100 << 20) if name.endswith("data/1") else content)
    return path


def many_members(folder: Path) -> Path:
    """An archive of tens of thousands of empty members."""
    path = samples.torch_zip(folder, STATE)
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(N // 3):
            archive.writestr(f"a/other/{number}", b"")
    return path


def packed_zeros(pack: Callable[[bytes], bytes], name: str, before: bytes = b"") -> Callable[[Path], Path]:
    """A packed file that is many times as large once unpacked."""

    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(pack(before + bytes(200 << 20)))
        return path

    return write


def full_tar(_: bytes) -> bytes:
    """A tar archive of very many empty members."""
    return tarfile.TarInfo("a.pt").tobuf() * 10_000 + bytes(1024)


PACKED: dict[str, tuple[Callable[[bytes], bytes], str, bytes]] = {
    "gzip": (lambda raw: gzip.compress(raw, 1), "a.pt.gz", b"PK\3\4"),
    "bzip2": (lambda raw: bz2.compress(raw, 1), "a.pt.bz2", b"PK\3\4"),
    "xz": (lambda raw: lzma.compress(raw, preset=0), "a.pt.xz", b"PK\3\4"),
    "zlib": (lambda raw: zlib.compress(raw, 1), "a.pt", b"\x80\x02"),
    "tar.gz": (lambda raw: gzip.compress(raw, 1), "a.tgz", tarfile.TarInfo("a.pt").tobuf()),
    "many members": (full_tar, "a.tar", b""),
}
"""What packs, the file's name, and what the file begins with once unpacked."""


def cases() -> Iterator[Case]:
    """All of them."""
    for name, opcodes in PICKLES.items():
        yield Case(f"bomb beside weights: {name}", beside_weights(opcodes))
    for name in ALONE:
        yield Case(f"bomb: {name}", alone(PICKLES[name]))
    for name in ("nested lists", "marks", "text that is not there", "number of a million bits", "laughs"):
        yield Case(f"bomb in an old file: {name}", in_old_file(PICKLES[name]))
    yield Case("bomb: modules shared twice at every level", alone(shared_modules(60)), REFUSED)
    for name, (pack, file, before) in PACKED.items():
        yield Case(f"bomb: packed, {name}", packed_zeros(pack, file, before), REFUSED)
    yield Case("bomb: deflated index", deflated(b"]", 300), REFUSED)
    yield Case("bomb: smaller deflated index", deflated(b"]", 20), REFUSED)
    yield Case("bomb: deflated text", deflated(b"X\x06\x00\x00\x00aaaaaa0", 20), REFUSED)
    yield Case("bomb: deflated side record", deflated_side_record, REFUSED)
    yield Case("bomb: deflated stranger", deflated_stranger, FITS)
    yield Case("bomb: deflated storage", deflated_storage, BOUNDED)
    yield Case("bomb: many members", many_members, FITS)
    yield Case("bomb: nothing but stray keys", alone(PICKLES["stray keys"]), MISFIT)
