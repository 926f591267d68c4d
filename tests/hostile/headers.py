"""Safetensors headers that lie."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from tests.hostile.case import BOUNDED, FITS, MISFIT, REFUSED, WEIGHT, Case, content

RAW = WEIGHT.numpy().tobytes()
ENTRY = {"dtype": "F32", "shape": [1, 3], "data_offsets": [0, 12]}


def headed(header: Any, data: bytes = RAW, *, length: int | None = None) -> bytes:
    """A file with this header: an object, or its very bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def weight(**changes: Any) -> dict[str, Any]:
    """A header whose one entry says something else."""
    return {"weight": {**ENTRY, **changes}}


def more(entry: Any) -> dict[str, Any]:
    """A header with an entry next to the weights."""
    return {"weight": ENTRY, "more": entry}


LIES: dict[str, bytes] = {
    "length 0": headed(b"{}", length=0),
    "length of a byte less": headed(weight(), length=69),
    "length beyond the file": headed(weight(), length=10_000),
    "length beyond what is allowed": headed(weight(), length=100_000_001),
    "length of terabytes": headed(weight(), length=1 << 42),
    "length of all bits": headed(weight(), length=(1 << 64) - 1),
    "length of 2 to the power of 63": headed(weight(), length=1 << 63),
    "a list": headed(b"[]"),
    "nothing but a brace": headed(b"{"),
    "not UTF-8": headed(b'{"\xff\xfe": {}}'),
    "half a surrogate": headed(b'{"\xed\xa0\x80": {}}'),
    "a byte order mark": headed(b"\xef\xbb\xbf" + json.dumps(weight()).encode()),
    "something behind the JSON": headed(json.dumps(weight()).encode() + b"x"),
    "a zero behind the JSON": headed(json.dumps(weight()).encode() + b"\x00"),
    "NaN": headed(b'{"weight": NaN}'),
    "infinity": headed(b'{"weight": {"dtype": "F32", "shape": [1, 3], "data_offsets": [0, Infinity]}}'),
    "a name twice": headed(b'{"weight": %s, "weight": %s}' % ((json.dumps(ENTRY).encode(),) * 2)),
    "a name twice, once escaped": headed(b'{"weight": %s, "\\u0077eight": %s}' % ((json.dumps(ENTRY).encode(),) * 2)),
    "a field twice": headed(b'{"weight": {"dtype": "F32", "dtype": "I32", "shape": [1, 3], "data_offsets": [0, 12]}}'),
    "metadata twice": headed(
        b'{"__metadata__": {}, "__metadata__": {"a": "b"}, "weight": %s}' % json.dumps(ENTRY).encode()),
    "metadata that is no mapping": headed({"__metadata__": [], **weight()}),
    "metadata that is no text": headed({"__metadata__": {"format": 1}, **weight()}),
    "metadata that is nested": headed({"__metadata__": {"a": {"b": "c"}}, **weight()}),
    "no type": headed({"weight": {"shape": [1, 3], "data_offsets": [0, 12]}}),
    "no shape": headed({"weight": {"dtype": "F32", "data_offsets": [0, 12]}}),
    "no place": headed({"weight": {"dtype": "F32", "shape": [1, 3]}}),
    "an entry that is a text": headed({"weight": "F32"}),
    "an entry that is null": headed({"weight": None}),
    "a type that is a number": headed(weight(dtype=32)),
    "a type that is a list": headed(weight(dtype=["F32"])),
    "a shape that is a number": headed(weight(shape=3)),
    "a shape that is a text": headed(weight(shape="13")),
    "a shape of text": headed(weight(shape=["1", "3"])),
    "a shape of fractions": headed(weight(shape=[1.0, 3.0])),
    "a shape of booleans": headed(weight(shape=[True, 3])),
    "a negative shape": headed(weight(shape=[-1, -3])),
    "a shape whose product overflows": headed(weight(shape=[1 << 32, 1 << 32])),
    "a shape whose product overflows to what is there": headed(weight(shape=[(1 << 64) // 4 + 1, 12])),
    "a huge shape with a 0 in it": headed(weight(shape=[1 << 62, 1 << 62, 0])),
    "a shape beyond numbers": headed(weight(shape=[10**400, 1])),
    "digits that take long": headed(
        b'{"weight": {"dtype": "F32", "shape": [1, %s], "data_offsets": [0, 12]}}' % (b"9" * 100_000)),
    "too many dimensions": headed(weight(shape=[1] * 100 + [3])),
    "a hundred thousand dimensions": headed(weight(shape=[1] * 100_000 + [3])),
    "places that are three": headed(weight(data_offsets=[0, 6, 12])),
    "places that are a text": headed(weight(data_offsets="ab")),
    "places that are fractions": headed(weight(data_offsets=[0.0, 12.0])),
    "places that are booleans": headed(weight(data_offsets=[False, 12])),
    "negative places": headed(weight(data_offsets=[-12, 0])),
    "places the wrong way round": headed(weight(data_offsets=[12, 0])),
    "places beyond the file": headed(weight(data_offsets=[0, 1 << 62], shape=[1 << 60])),
    "a terabyte": headed(weight(data_offsets=[0, 1 << 40], shape=[1 << 38])),
    "places too short for the shape": headed(weight(data_offsets=[0, 8]), RAW[:8]),
    "places too long for the shape": headed(weight(data_offsets=[0, 16]), RAW + RAW[:4]),
    "a gap at the start": headed(weight(data_offsets=[4, 16]), b"abcd" + RAW),
    "a gap between": headed(more({"dtype": "U8", "shape": [1], "data_offsets": [13, 14]}), RAW + b"xy"),
    "an overlap": headed(more({"dtype": "U8", "shape": [4], "data_offsets": [8, 12]})),
    "the same place twice": headed(more(ENTRY)),
    "bytes behind": headed(weight(), RAW + b"x"),
    "bytes missing": headed(weight(), RAW[:-1]),
    "no bytes": headed(weight(), b""),
    "nested mappings": headed(b'{"a":' * 30_000 + b"1" + b"}" * 30_000),
    "nested lists": headed(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "nested metadata": headed(b'{"__metadata__":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "open brackets": headed(b'{"a":' + b"[" * 100_000),
    "many empty entries": headed(b"{" + b",".join(b'"%d":[]' % i for i in range(50_000)) + b"}"),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them, and some that are honest."""
    for name, raw in LIES.items():
        yield content(f"safetensors: {name}", raw, REFUSED, "a.safetensors")
    yield content("safetensors: honest", headed(weight()), FITS, "a.safetensors")
    padded = headed(json.dumps(weight()).encode() + b" " * 1000)
    yield content("safetensors: padded", padded, FITS, "a.safetensors")
    instructions = {
        "__metadata__": {"_target_": "os.system", "format": "pt", "${oc.env:HOME}": "{0.__class__}"},
        **weight(),
    }
    yield content("safetensors: metadata with a target", headed(instructions), FITS, "a.safetensors")
    empty = more({"dtype": "F32", "shape": [0, 1 << 20], "data_offsets": [12, 12]})
    yield content("safetensors: an empty tensor beside", headed(empty), BOUNDED, "a.safetensors")
    yield content("safetensors: an unknown type", headed(weight(dtype="F6_E2M3")), BOUNDED, "a.safetensors")
    yield content("safetensors: nothing in it", headed({}, b""), BOUNDED, "a.safetensors")
    many = {f"{i:06}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(5000)}
    yield content("safetensors: many stray keys", headed(many, b""), MISFIT, "a.safetensors")
    yield content("safetensors: named as a pickle", headed(weight()), FITS, "a.pt")
    yield content("safetensors: a pickle in its place", b"cos\nsystem\n(Vtrue\ntR.", REFUSED, "a.safetensors")
