"""What the tests of remote files ask of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from loader.errors import CheckpointError
from loader.parts.open import open_checkpoint


def value(url: str, **settings: Any) -> torch.Tensor:
    with open_checkpoint(url, **settings) as checkpoint:
        return checkpoint.read(checkpoint.root.tensors()["a"], mmap=False)


def refusal(url: str, **settings: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(url, **settings)
    return caught.value


def files_in(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "locks" not in path.parts
    )
