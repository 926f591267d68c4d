"""Names and texts in files that would act on a terminal, a log, a path or a format string."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.formats.hostile import torch_zip
from tests.hostile import samples
from tests.hostile.carriers import STATE, in_legacy, inside, rezip
from tests.hostile.case import FITS, MISFIT, REFUSED, WEIGHT, Case
from tests.hostile.headers import ENTRY, headed

Write = Callable[[Path], Path]

TEXTS: dict[str, str] = {
    "colours": "\x1b[31mweight\x1b[0m",
    "a cleared screen": "\x1b[2J\x1b[H",
    "a window title": "\x1b]0;owned\x07",
    "a link": "\x1b]8;;https://example.com\x1b\\click\x1b]8;;\x1b\\",
    "newlines": "weight\nok   everything: is well",
    "returns": "weight\rok   everything is well",
    "backspaces": "weight\b\b\b\b\b\b",
    "a bell and a zero": "\x07\0",
    "text that runs backwards": "\u202ethgiew\u2066",
    "zero-width characters": "wei\u200bght\ufeff",
    "line separators": "weight\u2028\u2029\x85",
    "half a surrogate": "\ud800",
    "private characters": "\ue000\U000f0000",
    "combining characters": "w" + "\u0301" * 500,
    "markup": "[bold red]weight[/] [link=file:///etc/passwd]x[/link]",
    "unbalanced markup": "[/] [weight",
    "a format": "{0.__class__.__mro__} {weight!r:>99999999} %s %(a)s %99999999d",
    "an interpolation": "${oc.env:HOME} ${weight} ${",
    "a target": "_target_",
    "a path": "../../../../etc/passwd",
    "dots": "....weight..",
    "a dunder": "__class__.__init__.__globals__",
    "a glob": "*[!a]?{a,b}" * 20,
    "an expression": "(a+)+$" * 20,
    "HTML": "<script>alert(1)</script>",
    "a formula": "=cmd|' /C calc'!A0",
    "a megabyte": "w" * 1_000_000,
    "nothing": "",
}
"""What a key is called."""


def key(name: str) -> bytes:
    """A text of protocol 2; it contains a half surrogate as picklers write it."""
    raw = name.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def beside(name: str) -> Write:
    """The weights, and a number under this name."""

    def write(folder: Path) -> Path:
        path = samples.torch_zip(folder, STATE)
        return rezip(path, {"data.pkl": lambda raw: raw[:-1] + key(name) + b"K\x01s."})

    return write


def for_weights(name: str) -> Write:
    """The weights under this name."""

    def write(folder: Path) -> Path:
        path = samples.torch_zip(folder, STATE)
        return rezip(path, {"data.pkl": lambda raw: raw.replace(b"X\x06\x00\x00\x00weight", key(name), 1)})

    return write


def in_legacy_file(name: str) -> Write:
    """The same in the old format, as a class's name and as a value."""
    line = name.encode("utf-8", "surrogatepass").replace(b"\n", b" ")[:900]
    opcodes = key(name) + b"0c" + line + b"\n" + line + b"\n)R"
    return lambda folder: in_legacy(folder, opcodes, stream=3, infect=inside)


def in_header(name: str) -> Write:
    """A safetensors file with the weights under this name, and in its metadata."""

    def write(folder: Path) -> Path:
        path = folder / "a.safetensors"
        path.write_bytes(headed(json.dumps({"__metadata__": {name: name}, name: ENTRY}).encode()))
        return path

    return write


def file_named(name: str) -> Write:
    """Honest weights in a file of this name."""

    def write(folder: Path) -> Path:
        return samples.torch_zip(folder, STATE).rename(folder / name)

    return write


def broken_file_named(name: str) -> Write:
    """A damaged file of this name."""

    def write(folder: Path) -> Path:
        return torch_zip(folder / name, b"\xff.")

    return write


def cases() -> Iterator[Case]:
    """All of them."""
    for told, name in TEXTS.items():
        yield Case(f"key beside weights: {told}", beside(name), FITS)
        yield Case(f"key of weights: {told}", for_weights(name), MISFIT)
        yield Case(f"class name: {told}", in_legacy_file(name))
        yield Case(f"safetensors key: {told}", in_header(name))
        fits_a_folder = name and "/" not in name and "\0" not in name and len(name.encode("utf-8", "replace")) < 250
        if fits_a_folder and told != "half a surrogate":
            yield Case(f"file name: {told}", file_named(name + ".pt"), FITS)
            yield Case(f"damaged file's name: {told}", broken_file_named(name + ".pt"), REFUSED)
    nested = {"a.b": WEIGHT, "a": WEIGHT.clone()}
    yield Case("keys that hold each other", lambda folder: samples.torch_zip(folder, nested), MISFIT)
