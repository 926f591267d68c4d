"""The parts of a job: which file, which nested key and which rules fill which place of the model.

Guarantees: one concept for every shape of job. A plain job is one part at the root (``""``); a file that two parts
name is opened once; every file entry is known under its full model key before anything is planned.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import CheckpointError, ConfigError, FitError
from ..files.path import shown_path
from ..formats import open_checkpoint
from ..formats.opened import Checkpoint
from ..formats.pickle.needed import dangerous_maker, dangers_among
from ..formats.tree import Container, TensorEntry
from ..keys.plan import Offered, Wanted
from ..keys.rules import Hits, rewrite, rewrite_metadata
from ..keys.select import find, only_optimizer, select, tree
from ..schema import AUTO, CheckpointConfig, JobConfig, PartConfig, RuleConfig, config_path
from ..text.lines import Fix, line
from ..text.wording import closest, did_you_mean, listing, matches, safe_text
from ..trust.dangerous import HOSTILE

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

_SHIPPED = "pkg://loader.examples/"
"""Where the checkpoint lies that nobody has to ask for."""
_WITHOUT_DATA = ("plan", "inspect")
"""Modes that read no tensor: of a remote file the header will do."""


@dataclass(slots=True)
class Part:
    """One opened part."""

    name: str
    """Where in the model: a submodule's dotted name, ``""`` for the root."""
    config: PartConfig
    checkpoint: Checkpoint
    selected: Container = field(default_factory=lambda: Container("dict", "dict"))
    hits: list[Hits] = field(default_factory=list)
    other: dict[str, str] = field(default_factory=dict)
    """Entries that are no tensors: key → type."""
    applied: list[str] = field(default_factory=list)
    """The overrides that `auto` stood for."""

    remark: str = ""
    """What was asked for beside the parts and is not done; at the first of them."""
    rest_is_open: bool = False
    """Whether nobody said which file fills what no part does; at the first of them."""
    listed: bool = False
    """Whether `parts` names it; the root of a plain job is in no list."""

    def full(self, key: str) -> str:
        """A key of this part as a key of the whole model."""
        return f"{self.name}.{key}" if self.name else key

    @property
    def label(self) -> str:
        """How messages name it: the file and the nested key."""
        key = self.config.checkpoint.key
        return shown_path(self.checkpoint.path) + (f" under '{safe_text(key)}'" if key else "")


@dataclass(slots=True)
class Offers:
    """Everything that the parts offer to the model."""

    entries: dict[str, Offered] = field(default_factory=dict)
    """By full model key, after the rules."""
    dropped: list[str] = field(default_factory=list)
    """Full keys that rules dropped."""
    metadata: dict[str, dict[str, object]] = field(default_factory=dict)
    """Full module prefix → version and the like."""


def part_configs(job: JobConfig) -> dict[str, PartConfig]:
    """The parts of a job by submodule; the root alone where none is named."""
    return job.parts or {"": PartConfig(job.checkpoint, job.rules)}


def open_parts(job: JobConfig, stack: ExitStack) -> list[Part]:
    """Opens the files of all parts, each file once.

    Args:
        job: The job.
        stack: Closes the files when it unwinds.

    Raises:
        CheckpointError: A file cannot be read, or is refused.
    """
    opened: dict[tuple[object, ...], Checkpoint] = {}
    parts = []
    for name, config in part_configs(job).items():
        settings = config.checkpoint
        identity = _identity(settings)
        if identity not in opened:
            override = config_path(name, "path", listed=bool(job.parts))
            opened[identity] = _open(settings, stack, override, data=job.mode not in _WITHOUT_DATA)
        parts.append(Part(name, config, opened[identity], listed=bool(job.parts)))
    return parts


def with_root(parts: Sequence[Part], job: JobConfig, keys: Iterable[str], stack: ExitStack) -> Sequence[Part]:
    """Adds the root to parts that leave keys of the model uncovered, where ``checkpoint.path`` says what fills it.

    Args:
        parts: The opened parts.
        job: The job.
        keys: The model's keys.
        stack: Closes the file when it unwinds.

    Returns:
        The parts; the root is the first of them where it was added.

    Raises:
        CheckpointError: The root's file cannot be read, or is refused.
    """
    settings = job.checkpoint
    if not job.parts or "" in job.parts:
        return parts
    if not settings.path or settings.path.startswith(_SHIPPED):
        parts[0].rest_is_open = True
        return parts
    reading = [part for part in parts if part.config.checkpoint.path == settings.path]
    prefixes = tuple(f"{part.name}." for part in parts)
    uncovered = [key for key in keys if not key.startswith(prefixes)]
    if not uncovered:
        if not reading:
            told = f"checkpoint.path={shown_path(settings.path)} is not read: the parts fill the whole model"
            parts[0].remark = told
        return parts
    if reading and all(matches(key, job.allow.missing) for key in uncovered):
        return parts  # what they leave is meant to be missing, and the file is there for them
    same = (part.checkpoint for part in reading if _identity(part.config.checkpoint) == _identity(settings))
    file = next(same, None) or _open(settings, stack, "checkpoint.path", data=job.mode not in _WITHOUT_DATA)
    if reading and settings.key is None and not file.root.tensors():
        return parts  # the file holds a state dict for each part, and none for the root
    return [Part("", PartConfig(settings, job.rules), file), *parts]


def mounted(part: Part, parts: Sequence[Part]) -> tuple[str, ...]:
    """Returns the prefixes of the full keys below a part that belong to other parts."""
    within = f"{part.name}." if part.name else ""
    return tuple(f"{other.name}." for other in parts if other.name != part.name and other.name.startswith(within))


def _identity(settings: CheckpointConfig) -> tuple[object, ...]:
    return settings.path, settings.format, settings.sha256, settings.check


def offers(parts: Sequence[Part], wanted: Mapping[str, Wanted]) -> Offers:
    """Selects every part's entries, applies its rules, and names the results by full model key.

    Raises:
        FitError: A nested key is not there, a rule hits nothing, or two keys become one.
    """
    result = Offers()
    for part in parts:
        _refuse_dangerous(part)
        others = mounted(part, parts)
        own = [key for key, _ in below(part.name, wanted) if not part.full(key).startswith(others)]
        key = part.config.checkpoint.key
        part.selected = select(part.checkpoint.root, key, own, shown_path(part.checkpoint.path))
        _offer(part, others, wanted, result)
    return result


def _refuse_dangerous(part: Part) -> None:
    """Raises CheckpointError where what is to be loaded would be made by a call that no model needs."""
    root, names = part.checkpoint.root, (part.config.checkpoint.key or "").split(".")
    for level in range(len(names) + 1):
        found = find(root, ".".join(names[:level])) if level else root
        maker = dangerous_maker(getattr(found, "record", None))
        if maker:
            place = f"under '{safe_text('.'.join(names[:level]))}'" if level else "at its top level"
            raise CheckpointError(
                f"{shown_path(part.checkpoint.path)} holds {place} the result of calling {safe_text(maker)}, {HOSTILE}",
                Fix(note="do not load this file; ask whoever made it for a safetensors file"),
            )


def check_weights(parts: Sequence[Part]) -> None:
    """Raises CheckpointError where a file holds the state of an optimizer alone, and no nested key says to take it."""
    for part in parts:
        root = part.checkpoint.root
        named = part.config.checkpoint.key is not None and "key" not in part.config.autos
        if not named and only_optimizer(root):
            raise CheckpointError(
                f"{part.checkpoint.path} holds the state of an optimizer and no weights. In the file:\n{tree(root)}",
                Fix("checkpoint.path=FILE", "the file of the model's weights, often next to it"),
            )


def check_mounts(model: nn.Module, parts: Sequence[Part]) -> None:
    """Raises ConfigError where a part names a submodule that the model does not have, or two parts overlap."""
    modules = dict(model.named_modules(remove_duplicate=False))
    unknown = [part.name for part in parts if part.name not in modules]
    if unknown:
        children = [name for name, _ in model.named_children()]
        near = {name: found for name in unknown for found in closest(name, filter(None, modules), most=1)}
        free = (child for child in children if child not in {*near.values(), *(part.name for part in parts)})
        raise ConfigError(
            f"parts names {listing(unknown)}, which the model does not have"
            f"{did_you_mean(unknown[0], filter(None, modules))}; its submodules are {listing(children)}",
            _renamed(parts, {name: near.get(name) or next(free, "SUBMODULE") for name in unknown}),
        )
    names = [part.name for part in parts]
    nested = [f"{inner} lies in {outer}" for outer in names for inner in names if inner.startswith(f"{outer}.")]
    if nested:
        raise ConfigError(f"parts overlap: {listing(nested)}", Fix(note="give each key of the model to one part alone"))


def _renamed(parts: Sequence[Part], names: Mapping[str, str]) -> Fix:
    """The parts with their settings under other names, as one line to type."""
    told = {names.get(part.name, part.name): _settings(part.config) for part in parts if part.listed}
    return line("parts", told)


def _settings(part: PartConfig) -> dict[str, object]:
    """What of a part is not as by default; a job's own settings, which it inherits, may be said again."""
    rules = AUTO if part.rules is None else {name: _changed(rule) for name, rule in part.rules.items()}
    return {**_changed(part.checkpoint), **({"rules": rules} if rules else {})}


def _changed(record: CheckpointConfig | RuleConfig) -> dict[str, object]:
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    default = type(record)()
    return {name: value for name, value in values.items() if value != getattr(default, name)}


def _open(settings: CheckpointConfig, stack: ExitStack, override: str, *, data: bool) -> Checkpoint:
    if not settings.path:
        raise ConfigError(f"'{override}' is required", line(override, "FILE"))
    checkpoint = open_checkpoint(
        settings.path, format=settings.format, sha256=settings.sha256, check=settings.check, data=data
    )
    stack.callback(checkpoint.close)
    if found := dangers_among(checkpoint.named.values()):
        log.warning("%s names %s, %s", shown_path(checkpoint.path), listing(found), HOSTILE)
    return checkpoint


def _offer(part: Part, others: tuple[str, ...], wanted: Mapping[str, Wanted], result: Offers) -> None:
    """Offers what a part has under its own keys; those of a part below it are that part's, and are dropped."""
    children = part.selected.children
    rules = part.config.rules or {}
    rewriting = rewrite(children, rules, part.label)
    part.hits = rewriting.hits
    result.dropped += [part.full(name) for name in rewriting.dropped.values()]
    for key, name in rewriting.names.items():
        entry, full = children[key], part.full(name)
        if full.startswith(others):
            result.dropped.append(full)
        elif not isinstance(entry, TensorEntry) and full not in wanted:
            part.other[key] = entry.type
        elif full in result.entries:
            raise FitError(
                f"{safe_text(full)} is offered by two parts", Fix(note="give each key of the model to one part alone")
            )
        else:
            result.entries[full] = Offered(part.name, key, entry)
    for prefix, values in rewrite_metadata(part.selected.metadata, rules).items():
        if f"{part.full(prefix).removesuffix('.')}.".startswith(others):
            continue
        result.metadata[part.full(prefix).removesuffix(".")] = values


def below(name: str, wanted: Mapping[str, Wanted]) -> Iterator[tuple[str, Wanted]]:
    """The keys of a submodule, named from there."""
    prefix = f"{name}." if name else ""
    for key, want in wanted.items():
        if key.startswith(prefix):
            yield key[len(prefix) :], want
