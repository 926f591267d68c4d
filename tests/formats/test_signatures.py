"""How files begin."""

from __future__ import annotations

import struct

import pytest

from loader.formats import signatures

KINDS = ("is_zip", "is_safetensors", "is_torch_legacy", "is_torch_tar", "is_gguf", "is_npy")
TAR = bytearray(1024)
TAR[:6], TAR[257:262] = b"pickle", b"ustar"
HEADS = {
    "is_zip": [b"PK\x03\x04" + bytes(30), b"PK\x05\x06" + bytes(18)],
    "is_safetensors": [struct.pack("<Q", length) + b'{"a":' for length in (2, 123, 100_000_000)],
    "is_torch_legacy": [
        *(bytes([0x80, protocol]) + b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M" for protocol in (2, 3, 4)),
        b"L119547037146038801333356L\n.",
    ],
    "is_torch_tar": [bytes(TAR)],
    # With 123 tensors, or 379, the ninth byte is a brace.
    "is_gguf": [b"GGUF" + struct.pack("<IQQ", version, count, 0) for version in (2, 3) for count in (0, 123, 379)],
    "is_npy": [b"\x93NUMPY\x01\x00v\x00{'descr'", b"\x93NUMPY\x02\x00{\x00\x00\x00{'descr'"],
}


@pytest.mark.parametrize(("kind", "head"), [(kind, head) for kind, heads in HEADS.items() for head in heads])
def test_a_file_begins_like_its_own_format_and_like_no_other(kind: str, head: bytes) -> None:
    assert [name for name in KINDS if getattr(signatures, name)(head)] == [kind]


@pytest.mark.parametrize("head", [b"", b"{", b"12345678", b'not so {"a": 1}', b'{"error": "not found"}'])
def test_other_files_begin_like_none(head: bytes) -> None:
    assert not [name for name in KINDS if getattr(signatures, name)(head)]
