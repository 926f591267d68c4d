"""Parts: where in the model ← from which file, under which nested key, by which rules.

Guarantees: one concept for every shape of job; a plain job is one part at the root (``""``). A part is frozen: opening,
settling ``auto``, selecting and planning return new values and fill nothing in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..formats.opened import Checkpoint
from ..formats.tree import Container
from ..keys.plan import Wanted
from ..keys.select import find
from ..schema import AUTO, CheckpointConfig, JobConfig, PartConfig, config_path
from ..text.lines import Fix, line
from ..text.wording import closest, did_you_mean, listing, safe_text

if TYPE_CHECKING:
    from torch import nn

    from .adapters import Adapter


@dataclass(frozen=True, slots=True)
class Part:
    """One opened part."""

    name: str
    """Where in the model: a submodule's dotted name, ``""`` for the root."""
    config: PartConfig
    checkpoint: Checkpoint
    listed: bool = False
    """Whether `parts` names it; the root of a plain job is in no list."""
    applied: tuple[str, ...] = ()
    """The overrides that ``auto`` was replaced by."""
    adapters: tuple[Adapter, ...] = ()
    """Opened, in order; `checkpoint` then reads their files too."""
    remark: str = ""
    """A setting of the job that has no effect, for the report; on the first part."""

    def full(self, key: str) -> str:
        """A key of this part as a key of the whole model."""
        return f"{self.name}.{key}" if self.name else key

    @property
    def rules_path(self) -> str:
        """The config path of its rules."""
        return config_path(self.name, "rules", listed=self.listed) if self.name or self.listed else "rules"

    @property
    def used_rules_path(self) -> str:
        """The config path of the rules that it uses, which may be those of the job."""
        return "rules" if self.config.shares_rules else self.rules_path

    @property
    def label(self) -> str:
        """The part in messages: the file and the nested key."""
        key = self.config.checkpoint.key
        return self.checkpoint.label + (f" under '{safe_text(key)}'" if key else "")


def part_configs(job: JobConfig) -> dict[str, PartConfig]:
    """The parts of a job by submodule; only the root if none is named."""
    return job.parts or {"": PartConfig(job.checkpoint, job.rules, job.adapters)}


def mounted(part: Part, parts: Sequence[Part]) -> tuple[str, ...]:
    """Returns the prefixes of the full keys below a part that belong to other parts."""
    within = f"{part.name}." if part.name else ""
    return tuple(f"{other.name}." for other in parts if other.name != part.name and other.name.startswith(within))


def below(name: str, wanted: Mapping[str, Wanted]) -> Iterator[tuple[str, Wanted]]:
    """The keys of a submodule, named from there."""
    prefix = f"{name}." if name else ""
    for key, want in wanted.items():
        if key.startswith(prefix):
            yield key[len(prefix) :], want


def check_mounts(model: nn.Module, parts: Sequence[Part], wanted: Mapping[str, Wanted]) -> None:
    """Raises ConfigError if a part names a submodule that the model does not have, or two parts overlap."""
    modules = dict(model.named_modules(remove_duplicate=False))
    unknown = [part.name for part in parts if part.name not in modules]
    if unknown:
        children = [name for name, _ in model.named_children()]
        near = {name: found for name in unknown for found in closest(name, filter(None, modules), most=1)}
        free = [child for child in children if child not in {*near.values(), *(part.name for part in parts)}]
        for part in parts:
            fitting = [child for child in free if _fits(part, dict(below(child, wanted)))]
            if part.name in unknown and len(fitting) == 1:
                near.setdefault(part.name, fitting[0])
        raise ConfigError(
            f"parts names {listing(unknown)}, which the model does not have"
            f"{did_you_mean(unknown[0], filter(None, modules))}; its submodules are {listing(children)}",
            _renamed(parts, {name: near.get(name, "SUBMODULE") for name in unknown}),
        )
    names = [part.name for part in parts]
    nested = [f"{inner} lies in {outer}" for outer in names for inner in names if inner.startswith(f"{outer}.")]
    if nested:
        raise ConfigError(f"parts overlap: {listing(nested)}", Fix(note="give each key of the model to one part alone"))


def _fits(part: Part, own: Mapping[str, Wanted]) -> bool:
    """Whether a part without rules holds exactly the keys of a submodule, in their shapes."""
    container = find(part.checkpoint.root, part.config.checkpoint.key)
    if part.config.autos or part.config.rules or not isinstance(container, Container):
        return False
    shapes = {name: tuple(entry.shape) for name, entry in container.tensors().items()}
    return bool(own) and shapes == {name: want.shape for name, want in own.items()}


def _renamed(parts: Sequence[Part], names: Mapping[str, str]) -> Fix:
    """The parts with their settings under other names, as one line to type."""
    renamed = {names.get(part.name, part.name): _settings(part.config) for part in parts if part.listed}
    return line("parts", renamed)


def _settings(part: PartConfig) -> dict[str, object]:
    """A part's settings that differ from the defaults; those inherited from the job may be repeated."""
    rules = AUTO if part.rules is None else {name: rule.settings() for name, rule in part.rules.items()}
    return {**_changed(part.checkpoint), **({"rules": rules} if rules else {})}


def _changed(record: CheckpointConfig) -> dict[str, object]:
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    default = type(record)()
    return {name: value for name, value in values.items() if value != getattr(default, name)}
