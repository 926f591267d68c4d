"""The config as plain typed data: the names a user types, and their defaults.

Guarantees: these records know neither Hydra nor OmegaConf; once parsed (`loader.config.parse`), every field has the
type written here. A partial config laid over another replaces as a whole the nodes whose content belongs together, so
that nothing of a default model drags along.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar

from .text.redaction import spare
from .text.wording import safe_text

AUTO = "auto"
"""In the place of a nested key or of rules: find out which."""

EMBEDDED = "embedded"
"""The `_target_` of a model whose config stands in its checkpoint; without a dot, it can be imported by nobody."""


@dataclass(slots=True)
class CheckpointConfig:
    """Where weights come from, and how far the file is trusted."""

    path: str = ""
    key: str | None = None
    format: str = "auto"
    sha256: str | None = None
    allow_globals: list[str] = field(default_factory=list)
    trust: bool = False
    mmap: bool = True
    check: str = "crc"


class Fate(Enum):
    """What a rule decides of a name that it does not change."""

    DROPPED = "dropped"
    KEPT = "kept"


Step = Callable[[str], str | Fate | None]
"""What a rule does with one name: its next name, or its fate; None where the rule does not hit it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(ABC):
    """One rule for the names in a file, of one of the kinds in `loader.keys.rules`.

    A kind is a subclass: its fields are the rule's settings in a config, and the first one names the kind.
    """

    enabled: bool = True
    optional: bool = False
    exclusive: ClassVar[bool] = False
    """Whether names that no exclusive rule keeps are left out."""
    example: ClassVar[Mapping[str, object]] = {"rename": "encoder.", "to": "backbone."}
    """A rule to offer where one of this kind is invalid."""

    @abstractmethod
    def step(self) -> Step:
        """Returns what the rule does with each name; raises ValueError, which says why, where it cannot work."""

    def settings(self) -> dict[str, Any]:
        """The rule as a config has it: its own settings first, none that is as by default."""
        own = [one for one in fields(self) if not one.kw_only]
        values = {one.name: getattr(self, one.name) for one in own if getattr(self, one.name) != one.default}
        flags = {"optional": True} if self.optional else {}
        return {**values, **flags} if self.enabled else {**values, **flags, "enabled": False}

    def __str__(self) -> str:
        """Writes the rule as in a config, without its flags: ``strip: module.``."""
        own = [(one.name, getattr(self, one.name)) for one in fields(self) if not one.kw_only]
        texts = ((name, str(value).lower() if isinstance(value, bool) else safe_text(value)) for name, value in own)
        return ", ".join(f"{name}: {text}" for name, text in texts if text != "false")


@dataclass(slots=True)
class PartConfig:
    """One part: its checkpoint settings (what it leaves unset comes from `checkpoint`) and its own rules."""

    checkpoint: CheckpointConfig
    rules: dict[str, Rule] | None
    """None where they are to be found (``rules: auto``)."""

    @property
    def autos(self) -> list[str]:
        """Which of ``key`` and ``rules`` are to be found."""
        return [*(["key"] if self.checkpoint.key == AUTO else []), *(["rules"] if self.rules is None else [])]


ROOT = "_root_"
"""The root among the parts, on a command line, which takes no empty key without quotes."""


def config_path(part: str, setting: str, *, listed: bool = False) -> str:
    """Where a checkpoint setting of a part stands in the config.

    Args:
        part: The submodule; ``""`` is the root, whose settings are those of ``checkpoint`` itself.
        setting: The setting's name.
        listed: Whether `parts` itself names the root.
    """
    return f"parts.{part or ROOT}.{setting}" if part or listed else f"checkpoint.{setting}"


@dataclass(slots=True)
class AllowConfig:
    """Globs over full model and file keys that may stay without a partner."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ExpectConfig:
    """What the dummy forward pass must give."""

    shape: list[int] | None = None
    finite: bool = True


@dataclass(slots=True)
class VerifyConfig:
    """How a loaded model is verified."""

    input: Any = None
    forward: bool = True
    expect: ExpectConfig = field(default_factory=ExpectConfig)
    golden: str | None = "auto"
    record: bool = False
    rtol: float | None = None
    atol: float | None = None


@dataclass(slots=True)
class InspectConfig:
    """What `mode=inspect` shows."""

    depth: int | None = None
    """How many levels of names; None for all."""
    filter: list[str] = field(default_factory=list)
    """Globs over dotted keys; empty for everything."""


@dataclass(slots=True)
class ConvertConfig:
    """Where and how `mode=convert` writes."""

    path: str | None = None
    embed: bool = True
    """Whether the model's resolved config goes into the file."""
    shard_size: str = "5GB"
    """The largest file; what is larger is written as several, with an index."""


@dataclass(slots=True)
class ScaffoldConfig:
    """Where `mode=scaffold` writes."""

    path: str | None = None


OF_A_FILE = ("torch.nn.*", "loader.*")
"""Where the modules are that a model's config out of a file may name, if the user says nothing else."""


@dataclass(slots=True)
class JobConfig:
    """One job, fully resolved."""

    mode: str = "load"
    model: Mapping[str, Any] | None = None
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    rules: dict[str, Rule] | None = field(default_factory=dict)
    """None where they are to be found (``rules: auto``)."""
    parts: dict[str, PartConfig] = field(default_factory=dict)
    allow: AllowConfig = field(default_factory=AllowConfig)
    device: str = "auto"
    dtype: str | None = None
    seed: int = 0
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    inspect: InspectConfig = field(default_factory=InspectConfig)
    convert: ConvertConfig = field(default_factory=ConvertConfig)
    scaffold: ScaffoldConfig = field(default_factory=ScaffoldConfig)
    trusted_targets: list[str] | None = None
    of_a_file = False
    """Whether the model's config comes out of a checkpoint; without an annotation it is no key of the config."""


@dataclass(slots=True)
class EmbeddedJob(JobConfig):
    """A job whose model's config comes out of a checkpoint."""

    of_a_file = True


REPLACED = ("model", "rules", "parts", "verify.input", "trusted_targets")
"""Nodes that are taken as they are given."""


def overlay(defaults: Mapping[str, Any], given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Returns the defaults with what is given over them; unknown keys are kept for the parser to refuse."""
    result = dict(defaults)
    for key, value in given.items():
        place = f"{where}.{key}" if where else str(key)
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and place not in REPLACED:
            result[key] = overlay(below, value, place)
        else:
            result[key] = value
    return result


spare(list(vars().values()))
