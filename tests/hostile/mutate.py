"""Changes to files, as damage and malice make them; each depends on the bytes and a source of randomness alone."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable

Mutator = Callable[[bytes, random.Random], bytes]
NUMBERS = (
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    1 << 62,
    (1 << 63) - 1,
)
OPCODES = b"().0123FIJKLMNPQRSTUVX]acbdeghijlopqrstu}\x80\x81\x82\x85\x86\x87\x88\x8a\x8b\x8c\x8e\x90\x93\x94\x95"
LONGEST = 1 << 20


def place(raw: bytes, source: random.Random) -> int:
    """A place in a file; its beginning and its end, where indexes are, more often than its middle."""
    kind = source.random()
    if kind < 0.3:
        return source.randrange(min(len(raw), 300))
    return len(raw) - 1 - source.randrange(min(len(raw), 300)) if kind < 0.5 else source.randrange(len(raw))


def bits(raw: bytes, source: random.Random) -> bytes:
    """Flips up to five bits."""
    made = bytearray(raw)
    for _ in range(source.randint(1, 5)):
        made[place(raw, source)] ^= 1 << source.randrange(8)
    return bytes(made)


def set_bytes(raw: bytes, source: random.Random) -> bytes:
    """Writes a few bytes, among them opcodes of pickles."""
    made = bytearray(raw)
    for _ in range(source.randint(1, 4)):
        made[place(raw, source)] = source.choice(OPCODES) if source.random() < 0.5 else source.randrange(256)
    return bytes(made)


def number(raw: bytes, source: random.Random) -> bytes:
    """Writes a number that is often wrong, in some width and order."""
    form = source.choice(["<B", "<H", "<I", "<Q", ">I", ">Q"])
    value = source.choice(NUMBERS) & ((1 << (8 * struct.calcsize(form))) - 1)
    at = place(raw, source)
    return (raw[:at] + struct.pack(form, value) + raw[at + struct.calcsize(form) :])[: max(len(raw), at)]


def cut(raw: bytes, source: random.Random) -> bytes:
    """Loses its end."""
    return raw[: place(raw, source)]


def without(raw: bytes, source: random.Random) -> bytes:
    """Loses a piece."""
    at = place(raw, source)
    return raw[:at] + raw[at + source.randint(1, 64) :]


def again(raw: bytes, source: random.Random) -> bytes:
    """Has a piece twice, or many times."""
    at, length = place(raw, source), source.randint(1, 64)
    return (raw[:at] + raw[at : at + length] * source.choice([2, 2, 3, 500]) + raw[at + length :])[:LONGEST]


def swapped(raw: bytes, source: random.Random) -> bytes:
    """Has two pieces in each other's place."""
    first, second = sorted((place(raw, source), place(raw, source)))
    length = min(source.randint(1, 64), second - first)
    a, b = raw[first : first + length], raw[second : second + length]
    return raw[:first] + b + raw[first + length : second] + a + raw[second + length :]


def copied(raw: bytes, source: random.Random) -> bytes:
    """Has a piece over another one: names, lengths and places get those of others."""
    at, to, length = place(raw, source), place(raw, source), source.randint(1, 32)
    return raw[:to] + raw[at : at + length] + raw[to + length :]


def inserted(raw: bytes, source: random.Random) -> bytes:
    """Has something more in it."""
    at = place(raw, source)
    return raw[:at] + source.randbytes(source.randint(1, 32)) + raw[at:]


BLIND: tuple[Mutator, ...] = (bits, set_bytes, number, cut, without, again, swapped, copied, inserted)
"""What damages any file."""


def in_zip(raw: bytes, source: random.Random) -> bytes:
    """Changes one member of an archive, and packs it again with its right checksum."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = source.choice([name for name, content in members.items() if content])
    members[name] = blind(members[name], source)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", source.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return stream.getvalue()


def in_json(raw: bytes, source: random.Random) -> bytes:
    """Changes one value in a JSON text."""
    values = json.loads(raw)
    spots = [(values, key) for key in values]
    for holder, key in spots:
        found = holder[key]
        if isinstance(found, dict | list):
            spots += [(found, inner) for inner in (found if isinstance(found, dict) else range(len(found)))]
    holder, key = source.choice(spots)
    some = source.choice(NUMBERS)
    holder[key] = source.choice([None, True, -1, 0.5, "", "..", [], {}, some, str(some), holder[key], [holder[key]]])
    return json.dumps(values).encode()


def in_header(raw: bytes, source: random.Random) -> bytes:
    """Changes one value of a safetensors header, and writes its right length."""
    length = struct.unpack_from("<Q", raw)[0]
    header = in_json(raw[8 : 8 + length], source)
    return struct.pack("<Q", len(header)) + header + raw[8 + length :]


def blind(raw: bytes, source: random.Random) -> bytes:
    """One or two changes of any kind."""
    for _ in range(source.choice([1, 1, 2])):
        raw = source.choice(BLIND)(raw, source) or b"\0"
    return raw


def knowing(raw: bytes) -> tuple[Mutator, ...]:
    """The changes that keep a file of this kind whole."""
    if raw.startswith(b"PK"):
        return (in_zip,)
    if raw[8:9] == b"{":
        return (in_header,)
    return (in_json,) if raw.startswith(b"{") else ()
