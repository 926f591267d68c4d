"""The folder of an adapter where a checkpoint is expected.

Guarantees: what the folder's config says is text; of the base that it names nothing is opened.
"""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

from ...errors import CheckpointError
from ...files.path import called, shown_path
from ...formats.opened import Checkpoint
from ...text.lines import Fix, override, typed
from ...text.wording import safe_text
from .peft import MERGED, Peft, folder_of, open_config, read_config, weights_in

_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
"""The name of a model on the Hub."""


def refuse_alone(checkpoint: Checkpoint, place: str) -> None:
    """Refuses an adapter's folder where a checkpoint is expected.

    Args:
        checkpoint: The opened one.
        place: The config path that names it.

    Raises:
        CheckpointError: It is the folder of a PEFT adapter, with a line that adds it to its base.
    """
    if found := alone(checkpoint, place):
        said, fix = found
        raise CheckpointError(
            f"{shown_path(checkpoint.path)} is a PEFT adapter ({said}) without the weights that it changes", fix
        )


def alone(checkpoint: Checkpoint, place: str) -> tuple[str, Fix] | None:
    """Describes a checkpoint that is the folder of a PEFT adapter, with the line that adds it; None for any other.

    Raises:
        CheckpointError: Its config is invalid.
    """
    folder = checkpoint.path
    if not folder.is_dir() or folder_of(folder) is None or weights_in(folder) != checkpoint.place:
        return None
    with closing(open_config(folder)) as file:
        peft = read_config(file)
    said = f"{peft.said}, for {safe_text(peft.base, 300) or 'an unnamed base'}"
    return said, MERGED if peft.type != "LORA" or peft.unsupported else _with_base(peft, called(folder), place)


def _with_base(peft: Peft, folder: str, place: str) -> Fix:
    """The line that adds an adapter to its base."""
    note = "" if peft.base else "BASE is the checkpoint that it was trained on"
    adapters = place.removesuffix("path").removeprefix("checkpoint.") + "adapters"
    return typed(override(place, _place_of(peft.base)), override(adapters, {"lora": {"path": folder}}, "+"), note=note)


def _place_of(base: str) -> str:
    """Where the model is that an adapter's config names; nothing outside the working directory is looked at."""
    if not base:
        return "BASE"
    inside = _ON_HUB.fullmatch(base) and ".." not in base.split("/")
    return f"hf://{base}" if inside and not Path(base).exists() else base
