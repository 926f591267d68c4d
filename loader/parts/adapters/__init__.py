"""Adapters: weights that are added to what a part's checkpoint and rules give.

Guarantees: an adapter's files are opened with the job and closed with it; what they are is decided by their content
(`adapter_config.json` next to the weights, the names of low-rank products, anything else is a full difference).
Everything in them is data, every number is checked before anything is computed, and no result is larger than the
tensor that it is added to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, ConfigError, FitError
from ...files.file import CheckpointFile
from ...files.path import called, is_url, resolve_path, shown_path
from ...formats.boxes import computed
from ...formats.formulas.additions import Difference
from ...formats.opened import Checkpoint
from ...formats.tree import Container, TensorEntry
from ...keys.candidates import candidates
from ...keys.select import find, select
from ...schema import AUTO, AdapterConfig
from ...text.lines import NO_FIX, Fix, line, under
from ...text.wording import counted, safe_text
from .deltas import Delta, is_floating, is_low_rank, modules_of, of_products
from .header import remark, settings_of
from .merge import Applied, Changes, merged
from .operands import refuse_unlike
from .peft import CONFIG, WEIGHTS, Peft, folder_of, open_config, read_config, weights_in

__all__ = ["Adapter", "Applied", "Changes", "merged", "open_adapters"]

_MOST_KEYS = 4
_SETTING = re.compile(r"checkpoint\.(path|minus|format)(?![\w.])")

Opener = Callable[[str | Path, str], Checkpoint]
"""Opens a path in a format; the job closes it."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """One opened adapter."""

    name: str
    config: AdapterConfig
    where: str
    """Its config path; empty if its name cannot be typed in one."""
    checkpoint: Checkpoint
    minus: Checkpoint | None = None
    peft: Peft | None = None
    beside: tuple[CheckpointFile, ...] = ()
    """Other files that were read for it."""

    @property
    def label(self) -> str:
        """The adapter and its file, for messages."""
        return f"the adapter '{safe_text(self.name)}' ({shown_path(self.checkpoint.path)})"

    @property
    def rules_path(self) -> str:
        """The config path of its rules; empty if it cannot be typed."""
        return _below(self.where, "rules")

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Its checkpoints."""
        return (self.checkpoint,) if self.minus is None else (self.checkpoint, self.minus)

    @property
    def nbytes(self) -> int:
        """The size of its checkpoints."""
        return sum(one.nbytes for one in self.checkpoints)

    @property
    def kind(self) -> str:
        """``PEFT LORA, r=8, alpha=16``, ``low-rank products``, ``task vector`` or ``differences``."""
        if self.peft is not None:
            return f"PEFT {self.peft.said}"
        if self.minus is not None:
            return "task vector"
        return "low-rank products" if self._is_low_rank else "differences"

    @property
    def _is_low_rank(self) -> bool:
        return self.minus is None and is_low_rank(self.tensors())

    @property
    def key(self) -> str | None:
        """The nested key of its tensors; raises FitError if it is to be found, and there is not exactly one."""
        if self.config.key != AUTO:
            return self.config.key
        found = [one.key or None for one in candidates(self.checkpoint.root) if one.role != "optimizer"]
        if len(found) != 1:
            raise FitError(
                f"{self.label} has {counted(len(found), 'nested key')} with tensors; one was expected",
                *(line(_below(self.where, "key"), key) for key in found[:_MOST_KEYS]),
            )
        return found[0]

    def tensors(self) -> dict[str, TensorEntry]:
        """Its tensors, by key; raises FitError if its nested key is not there."""
        return self._selected().tensors()

    def _selected(self) -> Container:
        return _selected(self.checkpoint, self.key, _below(self.where, "key"))

    def changes(self) -> Changes:
        """Returns what it changes.

        Raises:
            CheckpointError: Its tensors contradict each other, or its config; or it is of an unsupported type.
            FitError: Its nested key is not there, or some of its tensors belong to no change.
        """
        flat = self.peft is None and self._is_low_rank
        tensors = self.tensors()
        networks = settings_of(self.checkpoint, modules_of(tensors)) if flat else {}
        low_rank = self.peft is not None or flat
        deltas = of_products(tensors, self.peft, self.label, networks) if low_rank else self._differences()
        return Changes(
            self.name,
            self.config.scale,
            deltas,
            self.config.rules,
            self.label,
            self.rules_path,
            self.checkpoint.root,
            self._selected(),
            flat,
            self.peft is not None and self.peft.ties,
            remark(self.checkpoint) if flat and not networks else "",
        )

    def _differences(self) -> dict[str, Delta]:
        tensors = self.tensors()
        if self.minus is None:
            return {key: Delta("sum", entry, (key,)) for key, entry in tensors.items()}
        key = self.key if find(self.minus.root, self.key) is not None else None
        origin = _selected(self.minus, key, "").tensors()
        refuse_unlike(tensors, origin, shown_path(self.checkpoint.path), shown_path(self.minus.path))
        return {
            key: Delta(
                "sum",
                computed(Difference(), [entry, origin[key]], entry.shape) if is_floating(entry) else entry,
                (key,),
            )
            for key, entry in tensors.items()
        }

    @property
    def files(self) -> list[tuple[Path, int, Callable[[], str]]]:
        """The path, size and digest of each file that is read for it; its weights are first."""
        found: list[tuple[Path, int, Callable[[], str]]] = [(c.path, c.nbytes, c.sha256) for c in self.checkpoints]
        found[1:1] = [(file.path, file.size, file.sha256) for file in self.beside]
        return found

    def recorded(self, name: Callable[[Path], str]) -> dict[str, Any]:
        """Describes it for the record of a conversion; takes what a file is called there."""
        digests = {name(path): digest() for path, _, digest in self.files}
        return {
            "name": self.name,
            "file": name(self.checkpoint.path),
            "sha256": next(iter(digests.values())),
            "files": digests,
            "kind": self.kind,
            "key": self.key,
            "scale": self.config.scale,
            "minus": None if self.minus is None else name(self.minus.path),
            "rules": {key: rule.settings() for key, rule in self.config.rules.items() if rule.enabled},
        }

    def described(self, *, digests: bool) -> dict[str, Any]:
        """Describes it for the report; takes whether its files are read for their digests."""
        listed = [
            {"path": called(path), "bytes": size, "sha256": sha256() if digests else None}
            for path, size, sha256 in self.files
        ]
        return {
            "name": self.name,
            "path": called(self.checkpoint.path),
            "format": self.checkpoint.format,
            "kind": self.kind,
            "key": self.key,
            "scale": self.config.scale,
            "minus": None if self.minus is None else called(self.minus.path),
            "sha256": listed[0]["sha256"],
            "files": listed,
        }


def open_adapters(
    configs: Mapping[str, AdapterConfig], where: str, stack: ExitStack, opener: Opener
) -> tuple[Adapter, ...]:
    """Opens adapters.

    Args:
        configs: By name, in order.
        where: Their config path.
        stack: Closes the files that are read besides checkpoints when it unwinds.
        opener: Opens a checkpoint.

    Raises:
        CheckpointError: A file cannot be read, or is refused; an adapter is of an unsupported type.
        ConfigError: An adapter has no path.
    """
    return tuple(_open(name, one, where, stack, opener) for name, one in configs.items())


def _open(name: str, config: AdapterConfig, adapters: str, stack: ExitStack, opener: Opener) -> Adapter:
    where, shown = under(adapters, name), safe_text(f"{adapters}.{name}")
    if not config.path:
        raise ConfigError(f"'{shown}.path' is required", line(_below(where, "path"), "FOLDER"))
    try:
        folder = None if is_url(config.path) else folder_of(resolve_path(config.path))
        weights = None if folder is None else weights_in(folder)
        checkpoint = opener(weights or config.path, config.format)
        file = open_config(folder) if folder is not None else _config_next_to(checkpoint)
        if file is None:
            return Adapter(name, config, where, checkpoint, _origin(config.minus, opener) if config.minus else None)
        stack.callback(file.close)
        if config.minus:
            raise ConfigError(
                f"'{shown}.minus' is set, and {shown_path(folder or checkpoint.path)} is a PEFT adapter: it "
                "is a difference already",
                line(_below(where, "minus"), None),
            )
        peft = read_config(file)
        peft.refuse_unsupported()
        return Adapter(name, config, where, checkpoint, None, peft, (file,))
    except (CheckpointError, ConfigError) as error:
        fixes = [_moved(fix, where) for fix in error.fixes]
        message = _SETTING.sub(lambda found: f"{shown}.{found[1]}", error.message)
        raise type(error)(f"adapter '{safe_text(name)}': {message}", *fixes) from error


def _origin(path: str, opener: Opener) -> Checkpoint:
    """Opens the file that is subtracted; what is refused of it is called ``checkpoint.minus``."""
    try:
        return opener(path, AUTO)
    except CheckpointError as error:
        named = [Fix(fix.line.replace("checkpoint.path", "checkpoint.minus"), fix.note) for fix in error.fixes]
        fixes = [fix for fix in named if not fix.line or "checkpoint.minus" in fix.line]
        raise CheckpointError(error.message.replace("checkpoint.path", "checkpoint.minus"), *fixes) from error


def _config_next_to(checkpoint: Checkpoint) -> CheckpointFile | None:
    """Opens the config next to the tensors of a PEFT adapter, which has their factor; None for any other file.

    Raises:
        CheckpointError: There is none.
    """
    if not any(key.startswith("base_model.model.") and ".lora_" in key for key in checkpoint.root.tensors()):
        return None
    remote = is_url(called(checkpoint.path))
    if remote and checkpoint.files and checkpoint.files[0].path.name in WEIGHTS:
        return checkpoint.files[0].sibling(CONFIG)
    raise CheckpointError(
        f"{shown_path(checkpoint.path)} holds the tensors of a PEFT adapter, and {CONFIG}, which has their factor, is "
        "not next to it",
        Fix(note=f"give the folder with {CONFIG} and the weights"),
    )


def _moved(fix: Fix, where: str) -> Fix:
    """A line about the checkpoint as one about the adapter."""
    if "checkpoint." not in fix.line:
        return fix
    return Fix(fix.line.replace("checkpoint.", f"{where}.", 1), fix.note) if where else NO_FIX


def _below(where: str, setting: str) -> str:
    """The config path of a setting; empty if the adapter's name cannot be typed in one."""
    return f"{where}.{setting}" if where else ""


def _selected(checkpoint: Checkpoint, key: str | None, override_: str) -> Container:
    try:
        return select(checkpoint.root, key, (), shown_path(checkpoint.path))
    except FitError as error:
        named = [one.key for one in candidates(checkpoint.root) if one.key != key] if override_ else []
        raise FitError(error.message, *(line(override_, one or None) for one in named[:_MOST_KEYS])) from error
