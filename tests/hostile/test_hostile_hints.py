"""A hint is pasted into a shell: nothing that a file says may act there."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from loader.errors import LoaderError
from loader.job import execute
from loader.report.data import Report
from tests.formats.hostile import torch_zip
from tests.formats.sharding import write_index
from tests.hostile.case import MODEL, WEIGHT
from tests.hostile.names import key
from tests.hostile.samples import torch_zip as honest

PAYLOADS = (
    *(
        "a'; mark; '",
        "$(mark)",
        "`mark`",
        'b"; mark; "',
        "c]' | mark #",
        "d\nmark\n",
        "e & mark",
        "f; mark",
        "g || mark",
    ),
    "> mark",
)
"""What runs the command `mark`, or makes a file of that name, where it is not quoted."""
Write = Callable[[Path, str], Path]


def short(text: str) -> bytes:
    raw = text.encode()
    return b"\x8c" + struct.pack("<B", len(raw)) + raw


def module(folder: Path, payload: str) -> Path:
    """A whole module of a class with such a name."""
    state = b"}(X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_buffers}X\x08\x00\x00\x00_modules}u"
    return torch_zip(folder / "a.pt", short("pkg") + short(payload) + b"\x93)\x81" + state + b"b.")


def other_key(folder: Path, payload: str) -> Path:
    """The weights under another key."""
    return torch_zip(folder / "a.pt", b"}" + key(payload) + b"K\x01s" + key(f"{payload}weight") + b"K\x01s.")


def renamed(folder: Path, payload: str) -> Path:
    """The weights under a prefix that a rule would take off."""
    return honest(folder, {f"{payload}.weight": WEIGHT})


def under(folder: Path, payload: str) -> Path:
    """The weights below a nested key."""
    path = folder / "a.pt"
    torch.save({payload: {"weight": WEIGHT}, f"{payload}2": {"weight": WEIGHT}}, path)
    return path


def in_header(folder: Path, payload: str) -> Path:
    """The weights under a prefix, as safetensors."""
    save_file({f"{payload}.weight": WEIGHT, f"{payload}.more": WEIGHT + 1}, folder / "a.safetensors")
    return folder / "a.safetensors"


def several(folder: Path, payload: str) -> Path:
    """A folder of several files with such names."""
    for ending in (".pt", ".ckpt"):
        honest(folder, {"weight": WEIGHT}).rename(folder / f"{payload}{ending}")
    return folder


def close_name(folder: Path, payload: str) -> Path:
    """A path that is not there, close to one with such a name."""
    honest(folder, {"weight": WEIGHT}).rename(folder / f"{payload}.pt")
    return folder / f"{payload}.pth"


def unreadable(folder: Path, payload: str) -> Path:
    """A file with such a name that is nothing."""
    path = folder / f"{payload}.pt"
    path.write_bytes(b"\x93NUMPY nothing")
    return path


def missing_shards(folder: Path, payload: str) -> Path:
    """An index in a folder with such a name, of shards with such names."""
    inner = folder / payload
    inner.mkdir()
    return write_index(inner, {"weight": f"{payload}.safetensors".replace("\n", "")})


def notes(folder: Path, payload: str) -> Path:
    """Metadata of a safetensors file."""
    save_file(
        {"wait": WEIGHT}, folder / "a.safetensors", {"config": json.dumps({"_target_": payload}), payload: payload}
    )
    return folder / "a.safetensors"


WRITERS: tuple[Write, ...] = (
    module, other_key, renamed, under, in_header, several, close_name, unreadable, missing_shards, notes,
)  # fmt: skip


def hints(path: Path) -> Iterator[str]:
    """What every mode says of a file."""
    plain: dict[str, Any] = {"checkpoint": {"path": str(path)}, "device": "cpu", "verify": {"forward": False}}
    for job in (
        {"model": MODEL}, {"model": MODEL, "mode": "plan"}, {"model": None}, {"mode": "inspect"},
        {"model": MODEL, "rules": "auto"}, {"model": MODEL, "checkpoint": {"path": str(path), "key": "auto"}},
        {"model": MODEL, "checkpoint": {"path": str(path), "key": "nothing"}},
    ):  # fmt: skip
        try:
            execute({**plain, **job}, Report())
        except LoaderError as error:
            yield error.hint


def pasted(hint: str, folder: Path) -> list[str]:
    """Pastes each line; gives those that the shell ran a part of as a command that the file chose."""
    acted = []
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    (commands / "mark").write_text("#!/bin/sh\n: > marked\n")
    (commands / "mark").chmod(0o755)
    place = folder / "place"
    place.mkdir(exist_ok=True)
    for line in hint.splitlines():
        subprocess.run(
            ["/bin/bash", "-c", line], env={"PATH": str(commands)}, cwd=place, capture_output=True, check=False
        )
        if any(file.name in {"marked", "mark"} for file in place.iterdir()):
            acted.append(line)
            for file in place.iterdir():
                file.unlink()
    return acted


@pytest.mark.parametrize("write", WRITERS)
def test_a_pasted_hint_runs_nothing_that_a_file_says(write: Write, tmp_path: Path) -> None:
    seen: set[str] = set()
    for number, payload in enumerate(PAYLOADS):
        folder = tmp_path / str(number)
        folder.mkdir()
        seen |= set(hints(write(folder, payload)))
    assert seen
    acted = pasted("\n".join(sorted(seen)), tmp_path)
    assert not acted


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_acts_where_it_is_not_quoted(payload: str, tmp_path: Path) -> None:
    assert pasted(f"checkpoint.path={payload}", tmp_path) or pasted(f"'checkpoint.path={payload}'", tmp_path) or (
        pasted(f'"checkpoint.path={payload}"', tmp_path)
    )  # fmt: skip
