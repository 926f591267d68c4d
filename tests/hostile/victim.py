"""Loads hostile files as people do, to prove that their code would run.

`python -m tests.hostile.victim MANIFEST` reads pairs of a loader's name and a path, and loads each in a process of its
own, which may do and end as it likes.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader

from tests.formats.saving import load_alone

SECONDS = 60


def distributed(path: str) -> None:
    """Metadata first, then every object that it names."""
    reader = FileSystemReader(path)
    items = reader.read_metadata().state_dict_metadata
    state: dict[str, Any] = {
        name: torch.zeros(item.size) if hasattr(item, "size") else None for name, item in items.items()
    }
    load_alone(state, storage_reader=reader)


LOADERS: dict[str, Callable[[str], object]] = {
    "pickle": lambda path: pickle.loads(Path(path).read_bytes()),
    "torch": lambda path: torch.load(path, weights_only=False),
    "torchscript": torch.jit.load,
    "npy": lambda path: np.load(path, allow_pickle=True),
    "npz": lambda path: [np.load(path, allow_pickle=True)[name] for name in np.load(path).files],
    "dcp": distributed,
}


def in_a_child(load: Callable[[str], object], path: str) -> None:
    """Loads in a process that ends whatever happens."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    signal.alarm(SECONDS)
    try:
        load(path)
    finally:
        os._exit(0)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name, path in json.loads(Path(sys.argv[1]).read_text()):
        in_a_child(LOADERS[name], path)
