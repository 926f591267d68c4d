"""Files whose code would run if they were unpickled, imported or scripted: every route, in every carrier."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from tests.hostile.carriers import CARRIERS, Carrier
from tests.hostile.case import BOUNDED, WEIGHT, Case
from tests.hostile.routes import ROUTES, Route, named
from tests.hostile.samples import save_script

MARKS = "marks"
"""The folder next to the cases' own in which the markers would appear."""
EVERYWHERE = ("torch-zip",)
"""The carriers that are tried with every route; the others are tried with some."""
SOME = (
    "GLOBAL and REDUCE",
    "STACK_GLOBAL",
    "INST",
    "OBJ",
    "NEWOBJ",
    "BUILD with __setstate__",
    "EXT registered by the file",
)


def marker(folder: Path, name: str) -> str:
    """Where the code of a case would make its marker."""
    return str(folder.parent / MARKS / f"{zlib.crc32(name.encode()):08x}")


def carried(name: str, carrier: Carrier, route: Route) -> Case:
    """A route in a carrier."""
    return Case(name, lambda folder: carrier(folder, route(marker(folder, name))))


class _Writes(torch.nn.Module):
    """Scripted, it writes a file when it is loaded: TorchScript runs `__setstate__`."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.training = False
        self.register_buffer("weight", WEIGHT)

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        self.weight = torch.ones(1, 3)
        torch.save(self.weight, self.path)


def scripted(folder: Path) -> Path:
    """A TorchScript archive that writes its marker when torch loads it."""
    return save_script(_Writes(marker(folder, "torchscript: __setstate__")), folder / "a.pt")


def importing(folder: Path, carrier: Carrier) -> Path:
    """Names a class of a module that makes a marker when it is imported."""
    (folder / "hostile_module.py").write_text(f"open({marker(folder, 'import')!r}, 'w').close()\nclass Net: pass\n")
    return carrier(folder, named("hostile_module", "Net") + b")\x81")


def cases() -> Iterator[Case]:
    """All of them."""
    for name in EVERYWHERE:
        for told, route in ROUTES.items():
            yield carried(f"{name}: {told}", CARRIERS[name], route)
    others: Mapping[str, Carrier] = {name: made for name, made in CARRIERS.items() if name not in EVERYWHERE}
    for name, carrier in others.items():
        for told in SOME:
            yield carried(f"{name}: {told}", carrier, ROUTES[told])
    for name in EVERYWHERE:
        yield Case(f"{name}: an import", lambda folder, name=name: importing(folder, CARRIERS[name]))  # type: ignore[misc]
    yield Case("torchscript: __setstate__", scripted, BOUNDED)
