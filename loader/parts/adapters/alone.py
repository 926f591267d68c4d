"""The folder of an adapter, or the weights in it, where a checkpoint is expected.

Guarantees: what the folder's config says is text; of the base that it names nothing is opened.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CheckpointError
from ...files.path import called, shown_path
from ...text.lines import Fix, override, typed
from ...text.wording import safe_text
from .deltas import is_low_rank
from .peft import MERGED, Peft, folder_of, open_config, read_config, weights_in

if TYPE_CHECKING:
    from ...formats.opened import Checkpoint

_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
"""The name of a model on the Hub."""


def refuse_alone(checkpoint: Checkpoint, place: str, others: Sequence[str] = ()) -> None:
    """Refuses a PEFT adapter where a checkpoint is expected.

    Args:
        checkpoint: The opened one.
        place: The config path that names it.
        others: The overrides that name the other files of its list; they are its base.

    Raises:
        CheckpointError: It is a PEFT adapter, with a line that adds it to its base.
    """
    if found := alone(checkpoint, place, others):
        said, fix = found
        raise CheckpointError(
            f"{shown_path(checkpoint.path)} is a PEFT adapter ({said}) without the weights that it changes", fix
        )


def alone(checkpoint: Checkpoint, place: str, others: Sequence[str] = ()) -> tuple[str, Fix] | None:
    """Describes a checkpoint that is a PEFT adapter, with the line that adds it; None for any other.

    It is one by the folder that names it, or that its weights lie in.

    Raises:
        CheckpointError: Its config is invalid.
    """
    folder = folder_of(checkpoint.path)
    if folder is None or (checkpoint.path == folder and weights_in(folder) != checkpoint.place):
        return None
    with closing(open_config(folder)) as file:
        peft = read_config(file)
    said = f"{peft.said}, for {safe_text(peft.base, 300) or 'an unnamed base'}"
    if peft.type != "LORA" or peft.unsupported:
        return said, MERGED
    return said, _with_base(peft, called(checkpoint.path), place, others)


def by_names(names: Collection[str]) -> Iterator[Fix]:
    """Yields the line that adds an adapter to its base, if its tensors show its factor, or a config may."""
    wrapped = all(name.startswith("base_model.model.") for name in names)
    if not is_low_rank(names) or (not wrapped and any(".default" in name for name in names)):
        return
    path = "FOLDER" if wrapped else "FILE"
    note = "the folder with adapter_config.json and the weights" if wrapped else "this one"
    settings = override("checkpoint.path", "BASE"), override("adapters", {"lora": {"path": path}}, "+")
    yield typed(*settings, note=f"{path} is {note}, BASE the checkpoint that it changes")


def _with_base(peft: Peft, path: str, place: str, others: Sequence[str]) -> Fix:
    """The line that adds an adapter to its base."""
    note = "" if peft.base or others else "BASE is the checkpoint that it was trained on"
    adapters = place.removesuffix("path").removeprefix("checkpoint.") + "adapters"
    base = others or [override(place, _place_of(peft.base))]
    return typed(*base, override(adapters, {"lora": {"path": path}}, "+"), note=note)


def _place_of(base: str) -> str:
    """Where the model is that an adapter's config names; nothing outside the working directory is looked at."""
    if not base:
        return "BASE"
    inside = _ON_HUB.fullmatch(base) and ".." not in base.split("/")
    return f"hf://{base}" if inside and not Path(base).exists() else base
