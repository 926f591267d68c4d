"""The payloads are live: what people load such files with runs them. So the corpus' tests can fail."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.hostile.carriers import CARRIERS
from tests.hostile.harness import REPOSITORY
from tests.hostile.routes import DEAD, ROUTES
from tests.hostile.running import MARKS, marker, scripted

NOT_RUN = {"torchscript, data", "torchscript, constants", "torch-tar, system", "deepspeed, optimizer"}
"""Torch reads TorchScript's pickles as data, which run code in another way, and does not look at what wrote a tar; the
last needs the classes of DeepSpeed before it gets so far."""
LOADER = {"npz": "npz", "npy-objects": "npy", "dcp": "dcp"}
"""What loads a carrier that `torch.load` does not."""
INNER = {
    "torch-export, weights": "state_dict.pt",
    "torch-export, constants": "constants.pt",
    "torch-zip, policy": "policy.pth",
}
"""The member that is a file of `torch.save` itself; what reads the archive around it takes it out first."""


def loaded_one(name: str, path: Path, folder: Path) -> Path:
    """The file of a carrier that is loaded: a shard, a process's states, an archive's member that is a file itself."""
    if ending := INNER.get(name):
        with zipfile.ZipFile(path) as archive:
            member = next(member for member in archive.namelist() if member.endswith(ending))
            return Path(archive.extract(member, folder))
    if name.startswith("deepspeed"):
        return next(path.rglob(f"*{name.rpartition(' ')[2][:5]}*_states.pt"))
    return next(folder.glob("*.bin")) if name == "torch-sharded" else path


def victims(pairs: list[tuple[str, str]], folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(pairs))
    command = [sys.executable, "-m", "tests.hostile.victim", str(manifest)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=600)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / MARKS).mkdir()
    (tmp_path / "case").mkdir()
    return tmp_path / "case"


def marked(folder: Path, name: str) -> bool:
    mark = Path(marker(folder, name))
    return mark.exists() or any(mark.parent.glob("m*")) if name == "tempfile" else mark.exists()


@pytest.mark.slow
def test_every_route_makes_its_marker_when_it_is_unpickled(folder: Path) -> None:
    pairs = []
    for number, (name, route) in enumerate(ROUTES.items()):
        path = folder / str(number)
        path.write_bytes(route(marker(folder, name)) + b".")
        pairs.append(("pickle", str(path)))
    victims(pairs, folder)
    assert {name for name in ROUTES if not marked(folder, name)} == DEAD


@pytest.mark.slow
def test_every_carrier_makes_its_marker_when_it_is_loaded(folder: Path) -> None:
    pairs = []
    for number, (name, carrier) in enumerate(CARRIERS.items()):
        inner = folder / str(number)
        inner.mkdir()
        path = carrier(inner, ROUTES["GLOBAL and REDUCE"](marker(folder, name)))
        pairs.append((LOADER.get(name.partition(",")[0], "torch"), str(loaded_one(name, path, inner))))
    pairs.append(("torchscript", str(scripted(folder))))
    victims(pairs, folder)
    assert {name for name in CARRIERS if not marked(folder, name)} == NOT_RUN
    assert marked(folder, "torchscript: __setstate__")
