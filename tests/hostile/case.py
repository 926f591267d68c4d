"""One hostile file, and what has to come of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

REFUSED, DAMAGED, FITS, MISFIT, BOUNDED = "refused", "damaged", "fits", "misfit", "bounded"
"""It is refused when it is opened; refused when its data are read; the job loads `WEIGHT`; the reader reads it and the
job says that it does not fit; any of these."""
UNPROVEN = "unproven"
"""Data next to it is refused when the loaded model is verified with it."""

WEIGHT = torch.tensor([[1.0, -2.0, 0.5]])
"""What every file that loads has under the key ``weight``."""
MODEL = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 1, "bias": False}


@dataclass(frozen=True, slots=True)
class Case:
    """A file or folder that somebody made on purpose."""

    name: str
    write: Callable[[Path], Path]
    """Writes it into an empty folder; returns what `checkpoint.path` is to be."""
    outcome: str = BOUNDED

    def folder(self, parent: Path) -> Path:
        """A folder of its own, whose name says nothing that a file system could dislike."""
        return parent / f"case-{zlib.crc32(self.name.encode()):08x}"


def content(name: str, raw: bytes, outcome: str = REFUSED, file: str = "a.pt") -> Case:
    """A case that is one file with this content."""

    def write(folder: Path) -> Path:
        path = folder / file
        path.write_bytes(raw)
        return path

    return Case(name, write, outcome)


def unique(cases: Iterable[Case]) -> dict[str, Case]:
    """The cases by name."""
    listed = list(cases)
    found = {case.name: case for case in listed}
    assert len(found) == len(listed), "two cases have one name"
    return found
