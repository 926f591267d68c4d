"""What is loaded: which file, which part of it, into which model, in which dtype."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.networks import MANY, SIZES, TRANSFORMER


@dataclass(frozen=True, slots=True)
class Case:
    """One job that every way is given."""

    name: str
    file: str
    """Relative to the folder of its size."""
    model: str = TRANSFORMER
    key: str = ""
    """Where the weights are nested."""
    prefix: str = ""
    """What the keys begin with."""
    dtype: str = ""
    """The dtype to end in; empty where it is the file's."""

    @property
    def container(self) -> str:
        """``pt``, ``safetensors`` or ``sharded``."""
        suffix = Path(self.file).suffix.removeprefix(".")
        return suffix or "sharded"

    def path(self, folder: Path, size: str) -> Path:
        """Its file or folder."""
        return folder / size / self.file

    def arguments(self, size: str) -> dict[str, Any]:
        """What the model's constructor takes."""
        return dict(SIZES[size][self.model])


CASES = {
    case.name: case
    for case in (
        Case("pt", "transformer.pt", key="state_dict", prefix="module."),
        Case("safetensors", "transformer.safetensors"),
        Case("sharded", "transformer"),
        Case("with-optimizer", "training.pt", key="model"),
        Case("bf16-pt", "transformer.pt", key="state_dict", prefix="module.", dtype="bfloat16"),
        Case("bf16-safetensors", "transformer.safetensors", dtype="bfloat16"),
        Case("many-pt", "many.pt", MANY),
        Case("many-safetensors", "many.safetensors", MANY),
    )
}
