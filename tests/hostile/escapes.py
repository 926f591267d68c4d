"""Index files that lead out of their folder, or lie about which shard holds what."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.formats.sharding import write_index, write_shards
from tests.hostile.case import BOUNDED, FITS, REFUSED, UNPROVEN, WEIGHT, Case
from tests.hostile.samples import torch_zip

INDEX = "model.safetensors.index.json"
OTHER = torch.tensor([[7.0, 7.0, 7.0]])
Write = Callable[[Path], Path]


def places(**where: Any) -> Write:
    """An index that says this; the weights lie outside of its folder, where a path could lead."""

    def write(folder: Path) -> Path:
        (folder / "inner").mkdir()
        save_file({"weight": WEIGHT}, folder / "secret.safetensors")
        save_file({"weight": WEIGHT}, folder / "inner" / "shard.safetensors")
        told = {key: name.format(folder=folder) if isinstance(name, str) else name for key, name in where.items()}
        return write_index(folder / "inner", told)

    return write


def text(raw: bytes) -> Write:
    """An index of these bytes, next to an honest shard."""

    def write(folder: Path) -> Path:
        save_file({"weight": WEIGHT}, folder / "shard.safetensors")
        path = folder / INDEX
        path.write_bytes(raw)
        return path

    return write


def with_entry(make: Callable[[Path], object], name: str = "shard.safetensors") -> Write:
    """An index whose one shard is whatever this makes."""

    def write(folder: Path) -> Path:
        (folder / "inner").mkdir()
        save_file({"weight": WEIGHT}, folder / "secret.safetensors")
        make(folder / "inner" / name)
        return write_index(folder / "inner", {"weight": name})

    return write


def linked_folder(folder: Path) -> Path:
    """A shard below a link to a folder outside."""
    (folder / "inner").mkdir()
    (folder / "out").mkdir()
    save_file({"weight": WEIGHT}, folder / "out" / "shard.safetensors")
    (folder / "inner" / "sub").symlink_to(folder / "out")
    return write_index(folder / "inner", {"weight": "sub/shard.safetensors"})


def pretended_cache(folder: Path) -> Path:
    """A folder that calls itself the Hub's cache, with a link out of it."""
    snapshot = folder / "models--a--b" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    save_file({"weight": WEIGHT}, folder / "secret.safetensors")
    (snapshot / "shard.safetensors").symlink_to(folder / "secret.safetensors")
    return write_index(snapshot, {"weight": "shard.safetensors"})


def cache(folder: Path) -> Path:
    """The same with the link where the Hub's cache has it."""
    snapshot, blobs = (folder / "models--a--b" / name for name in ("snapshots/main", "blobs"))
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_file({"weight": WEIGHT}, blobs / "0123")
    (snapshot / "shard.safetensors").symlink_to("../../blobs/0123")
    return write_index(snapshot, {"weight": "shard.safetensors"})


def index_linked_out(folder: Path) -> Path:
    """A folder whose index itself is a link to one outside."""
    (folder / "inner").mkdir()
    outside = write_shards(folder / "out", {"weight": WEIGHT})
    (folder / "inner" / INDEX).symlink_to(outside)
    return folder / "inner"


def lying(*states: dict[str, torch.Tensor], **where: str) -> Write:
    """Honest shards, and an index that says something else of them."""

    def write(folder: Path) -> Path:
        path = write_shards(folder, *states)
        names = sorted(file.name for file in folder.glob("*.safetensors"))
        told = {key: names[int(name)] if name.isdigit() else name for key, name in where.items()}
        return write_index(folder, told,
                           path.name)  # fmt: skip

    return write


def index_of(places: Any) -> bytes:
    """The JSON text of an index."""
    return json.dumps({"metadata": {}, "weight_map": places}).encode()


NAMES: dict[str, Any] = {
    "one step out": "../secret.safetensors",
    "out and in again": "../inner/shard.safetensors",
    "out behind a folder": "sub/../../secret.safetensors",
    "absolute": "{folder}/secret.safetensors",
    "absolute with two slashes": "/{folder}/secret.safetensors",
    "a device": "/dev/zero",
    "the process": "/proc/self/mem",
    "passwords": "../../../../../../../../etc/passwd",
    "a drive": "C:\\secret.safetensors",
    "a drive with a slash": "C:/secret.safetensors",
    "a drive, relative": "C:secret.safetensors",
    "a share": "\\\\server\\share\\secret.safetensors",
    "backslashes": "..\\secret.safetensors",
    "home": "~/secret.safetensors",
    "a variable": "$HOME/secret.safetensors",
    "a URL": "https://example.com/secret.safetensors",
    "a file URL": "file://{folder}/secret.safetensors",
    "a package": "pkg://loader.examples/weights/simple_net.safetensors",
    "a zero byte": "shard.safetensors\0.txt",
    "a newline": "shard.safetensors\n",
    "an escape sequence": "\x1b[2Jshard.safetensors",
    "text that runs backwards": "\u202eshard.safetensors",
    "half a surrogate": "\ud800.safetensors",
    "nothing": "",
    "a dot": ".",
    "two dots": "..",
    "a folder": "./",
    "empty steps": "sub//shard.safetensors",
    "a step that stays": "./shard.safetensors",
    "the index itself": INDEX,
    "a name of a megabyte": "a" * 1_000_000,
    "a path of many steps": "a/" * 100_000 + "b",
    "a number": 7,
    "a list": ["shard.safetensors"],
    "a mapping": {"file": "shard.safetensors"},
    "null": None,
    "a boolean": True,
}  # fmt: skip
"""What the index says the weights are in."""

TEXTS: dict[str, bytes] = {
    "no JSON": b'{"weight_map": {"weight": "shard.safetensors"}',
    "nested": b'{"weight_map":' * 30_000 + b"{}" + b"}" * 30_000,
    "nested lists": b'{"weight_map": ' + b"[" * 100_000,
    "brackets in text": b'{"weight_map": {"weight": "' + b"[" * 100_000 + b'"}}',
    "a shard twice": b'{"weight_map": {"weight": "a.safetensors", "weight": "shard.safetensors"}}',
    "two maps": b'{"weight_map": {"weight": "shard.safetensors"}, "weight_map": {}}',
    "an empty map": b'{"weight_map": {}}',
    "a map that is a list": b'{"weight_map": ["weight"]}',
    "NaN": b'{"weight_map": {"weight": NaN}}',
    "a number of many digits": b'{"weight_map": {"weight": ' + b"9" * 100_000 + b"}}",
    "not UTF-8": b'{"weight_map": {"weight": "\xff.safetensors"}}',
    "UTF-16": b"\xff\xfe" + '{"weight_map": {"weight": "shard.safetensors"}}'.encode("utf-16-le"),
    "many shards that are not there": index_of({f"{n:05}": f"{n:05}.safetensors" for n in range(3000)}),
    "many keys of one shard": index_of({f"{n:06}": "shard.safetensors" for n in range(30_000)}),
    "keys that act on a terminal": index_of({"\x1b]0;x\x07\u202e\n": "shard.safetensors"}),
}

SHARDS: dict[str, tuple[Write, str]] = {
    "a link out": (with_entry(lambda path: path.symlink_to(path.parent.parent / "secret.safetensors")), REFUSED),
    "a relative link out": (with_entry(lambda path: path.symlink_to("../secret.safetensors")), REFUSED),
    "a link to a device": (with_entry(lambda path: path.symlink_to("/dev/zero")), REFUSED),
    "a link to itself": (with_entry(lambda path: path.symlink_to(path.name)), REFUSED),
    "a link to nothing": (with_entry(lambda path: path.symlink_to("nothing")), REFUSED),
    "a pipe": (with_entry(os.mkfifo), REFUSED),
    "a folder": (with_entry(Path.mkdir), REFUSED),
    "an empty file": (with_entry(Path.touch), REFUSED),
    "a pickle": (with_entry(lambda path: path.write_bytes(b"cos\nsystem\n(Vtrue\ntR.")), REFUSED),
    "an index again": (with_entry(lambda path: path.write_bytes(index_of({"weight": path.name}))), REFUSED),
    "below a link out": (linked_folder, REFUSED),
    "in what calls itself the Hub's cache": (pretended_cache, REFUSED),
    "in the Hub's cache": (cache, FITS),
    "behind an index that is a link out": (index_linked_out, REFUSED),
}

LIES: dict[str, tuple[Write, str]] = {
    "nothing": (lying({"weight": WEIGHT}, {"more": OTHER}, weight="0", more="1"), BOUNDED),
    "a key in another shard": (lying({"weight": WEIGHT}, {"more": OTHER}, weight="1", more="0"), REFUSED),
    "a key that is nowhere": (lying({"weight": WEIGHT}, {"more": OTHER}, weight="0", more="1", most="1"), REFUSED),
    "a key less": (lying({"weight": WEIGHT}, {"more": OTHER}, weight="0"), BOUNDED),
    "a key less of a shard that is read": (lying({"weight": WEIGHT, "more": OTHER}, weight="0"), REFUSED),
    "a key in two shards": (
        lying({"weight": WEIGHT}, {"weight": OTHER, "more": WEIGHT}, weight="0", more="1"),
        REFUSED,
    ),
    "a shard that is not there": (lying({"weight": WEIGHT}, weight="0", more="absent.safetensors"), REFUSED),
}


def golden(make: Callable[[Path], object]) -> Write:
    """Honest weights, and whatever this makes where a golden record would be."""

    def write(folder: Path) -> Path:
        (folder / "inner").mkdir()
        save_file({"input.0": torch.zeros(1, 3), "output.0": torch.zeros(1, 1)}, folder / "secret.safetensors")
        path = torch_zip(folder / "inner", {"weight": WEIGHT})
        make(path.with_name(f"{path.name}.golden.safetensors"))
        return path

    return write


def recorded(path: Path, name: str, width: int) -> None:
    """A golden record that does not fit."""
    save_file({name: torch.ones(1, width), "output.0": OTHER}, path)


def beside_configs(folder: Path) -> Path:
    """Honest weights next to configs that hang any reader."""
    (folder / ".hydra").mkdir()
    for name in ("config.yaml", "config.json", ".hydra/config.yaml", "hparams.yaml", "conf.py", "__init__.py"):
        os.mkfifo(folder / name)
    save_file({"weight": WEIGHT}, folder / "model.safetensors")
    return folder


GOLDEN: dict[str, tuple[Write, str]] = {
    "a link out": (golden(lambda path: path.symlink_to(path.parent.parent / "secret.safetensors")), UNPROVEN),
    "a link to passwords": (golden(lambda path: path.symlink_to("/etc/passwd")), UNPROVEN),
    "a link to itself": (golden(lambda path: path.symlink_to(path.name)), FITS),
    "a pipe": (golden(os.mkfifo), FITS),
    "a folder": (golden(Path.mkdir), FITS),
    "empty": (golden(Path.touch), UNPROVEN),
    "a pickle": (golden(lambda path: path.write_bytes(b"cos\nsystem\n(Vtrue\ntR.")), UNPROVEN),
    "of another model": (golden(partial(recorded, name="input.0", width=9)), UNPROVEN),
    "of other names": (golden(partial(recorded, name="\x1b[2J", width=3)), UNPROVEN),
    "of wrong answers": (golden(partial(recorded, name="input.0", width=3)), UNPROVEN),
}  # fmt: skip
"""A file next to an honest checkpoint under the name of its golden record, which is read without being named."""


def cases() -> Iterator[Case]:
    """All of them."""
    yield Case("beside configs that are pipes", beside_configs, FITS)
    for name, (write, outcome) in GOLDEN.items():
        yield Case(f"golden record: {name}", write, outcome)
    for name, shard in NAMES.items():
        yield Case(f"index names {name}", places(weight=shard), REFUSED)
    yield Case(
        "index names a shard and one outside", places(weight="shard.safetensors", more="../secret.safetensors"), REFUSED
    )
    yield Case("index names a shard below", places(weight="shard.safetensors"), FITS)
    for name, raw in TEXTS.items():
        yield Case(f"index text: {name}", text(raw), REFUSED)
    for name, (write, outcome) in SHARDS.items():
        yield Case(f"shard: {name}", write, outcome)
    for name, (write, outcome) in LIES.items():
        yield Case(f"index lies about {name}", write, outcome)
