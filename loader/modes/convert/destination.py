"""Where a conversion writes.

Guarantees: everything that is wrong with the place is told at once, before a checkpoint is opened; nothing is made or
changed here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError
from ...files.path import shown_path
from ...schema import ConvertConfig
from ...text import lines
from ...text.lines import Fix
from ...text.wording import safe_text
from ...verify import golden

ENDING = ".safetensors"
_IN_A_FOLDER = "model"
"""What a file in a folder is called, as Hugging Face's libraries do."""
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?([kmgt]?b?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Destination:
    """A checkpoint to be written, as one file or several."""

    folder: Path
    stem: str
    """What its files are called, without what stands behind."""
    shard_size: int
    """The most bytes of tensors in one file, unless a single tensor is larger."""
    shown_folder: str
    """The folder as the user wrote it, for the line to type next; empty for the current one."""

    @property
    def single(self) -> Path:
        """The file, where one is enough."""
        return self.folder / f"{self.stem}{ENDING}"

    @property
    def index(self) -> Path:
        """The index, where there are several files."""
        return self.folder / f"{self.stem}{ENDING}.index.json"

    def shard(self, number: int, count: int) -> Path:
        """One of several files, counted from 1."""
        return self.folder / f"{self.stem}-{number:05}-of-{count:05}{ENDING}"

    def shards(self) -> list[Path]:
        """Files that stand there already under the name of a shard of this checkpoint, whatever the number of shards.

        Where the file system takes small and capital letters for the same, they may be listed otherwise than asked for.
        """
        name = re.compile(rf"{re.escape(self.stem)}-(\d+)-of-(\d+){re.escape(ENDING)}", re.DOTALL | re.IGNORECASE)
        found = (name.fullmatch(path.name) for path in self.folder.iterdir())
        ours = {self.folder / f"{self.stem}-{shard[1]}-of-{shard[2]}{ENDING}" for shard in found if shard}
        return sorted(path for path in ours if os.path.lexists(path))

    def typed(self, path: Path) -> str:
        """A file of the checkpoint, written as the user wrote the folder."""
        return str(Path(self.shown_folder) / path.name)


def destination(settings: ConvertConfig) -> Destination:
    """Finds out where a conversion is to write.

    Args:
        settings: The `convert` section. A path that ends in a slash, or that is a folder, takes `model.safetensors`.

    Raises:
        ConfigError: The place or the size of a shard is none; all that is wrong is told.
    """
    problems: list[tuple[str, Fix]] = []
    size = _bytes(settings.shard_size, problems)
    typed = settings.path or ""
    if not typed or "\0" in typed or "://" in typed:
        told = f"is {shown_path(typed)}, expected a file on this machine" if typed else "is required in mode=convert"
        problems.append((f"'convert.path' {told}", Fix("convert.path=model.safetensors")))
        raise _refusal(problems)
    path = Path(os.path.abspath(os.path.expanduser(typed)))  # noqa: PTH100, PTH111  # pathlib raises on an unknown user
    inside = typed.endswith(("/", os.sep)) or os.path.isdir(path)  # noqa: PTH112  # False for a name that is too long
    folder = path if inside else path.parent
    stem = _IN_A_FOLDER if inside else path.name.removesuffix(ENDING)
    if not inside and (stem == path.name or not stem):
        fixed = f"{path.name.partition('.')[0] or _IN_A_FOLDER}{ENDING}"
        told = f"'convert.path' is {shown_path(typed)}, expected a file called *{ENDING}, or a folder"
        problems.append((told, lines.line("convert.path", str(Path(typed).parent / fixed))))
    elif path.name.lower().endswith(golden.SUFFIX):
        told = f"'convert.path' is {shown_path(typed)}, a name that the golden record of another file has"
        better = f"{path.name[: -len(golden.SUFFIX)] or _IN_A_FOLDER}-converted{ENDING}"
        problems.append((told, lines.line("convert.path", str(Path(typed).parent / better))))
    problems += _unusable(folder)
    if problems:
        raise _refusal(problems)
    return Destination(folder, stem, size, typed if inside else str(Path(typed).parent))


def _bytes(text: str, problems: list[tuple[str, Fix]]) -> int:
    """Reads `5GB`; units are decimal, as in Hugging Face's libraries."""
    found = _SIZE.fullmatch(text.strip())
    unit = found[2].upper() if found else ""
    size = int(float(found[1]) * _UNITS[unit if unit in _UNITS else f"{unit}B"]) if found else 0
    if size < 1:
        told = f"'convert.shard_size' is '{safe_text(text)}', expected a size such as 5GB, 500MB or a number of bytes"
        problems.append((told, Fix("convert.shard_size=5GB")))
    return size


def _unusable(folder: Path) -> list[tuple[str, Fix]]:
    shown = shown_path(folder)
    if not os.path.exists(folder):  # noqa: PTH110  # False for a name that is too long
        return [(f"the folder to write to, {shown}, does not exist", lines.typed("mkdir", "-p", str(folder)))]
    if not folder.is_dir():
        return [(f"convert.path leads through {shown}, which is no folder", Fix("convert.path=model.safetensors"))]
    if not os.access(folder, os.W_OK | os.X_OK):
        return [
            (
                f"this user may not write to the folder {shown}",
                lines.typed("chmod", "u+wx", str(folder), note="or another one"),
            )
        ]
    return []


def _refusal(problems: list[tuple[str, Fix]]) -> ConfigError:
    return ConfigError("; ".join(told for told, _ in problems), *(fix for _, fix in problems))
