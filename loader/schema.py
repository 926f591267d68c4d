"""The config as plain typed data: the names a user types, and their defaults.

Guarantees: these records know neither Hydra nor OmegaConf; once parsed (`loader.config.parse`), every field has its
declared type. A partial config laid over another replaces nodes whose content belongs together as a whole, so that no
argument of a default model is left over. `docs/config.md` is generated from the docstrings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar, Literal, get_args

from .text.redaction import spare
from .text.wording import safe_text

Mode = Literal["load", "plan", "inspect", "convert", "scaffold"]
"""What a job does."""
MODES: tuple[Mode, ...] = get_args(Mode)

Check = Literal["crc", "structure", "full"]
"""How much of a file's integrity is verified."""
CHECKS: tuple[Check, ...] = get_args(Check)

AUTO = "auto"
"""Instead of a nested key or of rules: find the right ones."""

Floating = Literal["float16", "bfloat16", "float32", "float64"]
"""The dtypes that a whole model can be put into."""

InputKind = Literal["randn", "uniform", "zeros", "ones", "randint"]
"""How an input's values are made; ``uniform`` is from 0 to 1."""

EMBEDDED = "embedded"
"""The `_target_` of a model whose config is in its checkpoint; without a dot, it cannot be an importable name."""


@dataclass(slots=True)
class CheckpointConfig:
    """Where weights come from, and how far the file is trusted."""

    path: str = ""
    """A file, a folder, an ``*.index.json``, ``pkg://PACKAGE/FILE``, or a URL (``https s3 gs hf``; ``[remote]``)."""
    key: str | None = None
    """The dotted nested key of the weights, such as ``state_dict``; ``auto`` finds and reports it."""
    format: str = "auto"
    """The file's format; ``auto`` recognizes it by content, never by the extension alone."""
    sha256: str | None = None
    """Refuses a file with another digest."""
    allow_globals: list[str] = field(default_factory=list)
    """Pickled names to admit, such as ``argparse.Namespace``; a refusal lists the required ones."""
    trust: bool = False
    """Unpickles everything, which runs code from the file; never a fallback."""
    mmap: bool = True
    """Maps the file; false reads it into private memory, for a file that may change while in use."""
    check: Check = "crc"
    """How much of the file is verified: ``crc``, ``structure``, or ``full`` (the whole file, and its sha256)."""


class Fate(Enum):
    """A rule's decision on a name that it does not change."""

    DROPPED = "dropped"
    KEPT = "kept"


Step = Callable[[str], str | Fate | None]
"""Maps one name to its next name or its fate; None if the rule does not hit it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(ABC):
    """One rule for the names in a file; its kinds are in `loader.keys.rules`.

    A kind is a subclass: its fields are the rule's settings in a config, and the first one names the kind.
    """

    enabled: bool = True
    """False switches the rule off."""
    optional: bool = False
    """True allows the rule to hit no key."""
    exclusive: ClassVar[bool] = False
    """Whether every name that no exclusive rule keeps is dropped."""
    example: ClassVar[Mapping[str, object]] = {"rename": "encoder.", "to": "backbone."}
    """A rule to offer when one of this kind is invalid."""

    @abstractmethod
    def step(self) -> Step:
        """Returns the rule's function for one name; raises ValueError with the reason if it cannot work."""

    def settings(self) -> dict[str, Any]:
        """Returns the rule as in a config: its own settings first, without defaults."""
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
    """One part: the settings of ``checkpoint``, from which unset ones come, and its own rules."""

    checkpoint: CheckpointConfig
    rules: dict[str, Rule] | None
    """The part's rules; None means that they must be found (``rules: auto``)."""

    @property
    def autos(self) -> list[str]:
        """Which of ``key`` and ``rules`` must be found."""
        return [*(["key"] if self.checkpoint.key == AUTO else []), *(["rules"] if self.rules is None else [])]


ROOT = "_root_"
"""The root among the parts on a command line, whose grammar has no empty key."""


def config_path(part: str, setting: str, *, listed: bool = False) -> str:
    """Returns the config path of a part's checkpoint setting.

    Args:
        part: The submodule; ``""`` is the root, whose settings are those of ``checkpoint`` itself.
        setting: The setting's name.
        listed: Whether `parts` itself names the root.
    """
    return f"parts.{part or ROOT}.{setting}" if part or listed else f"checkpoint.{setting}"


@dataclass(slots=True)
class AllowConfig:
    """Globs over full keys that need no partner; they never excuse a load of nothing."""

    missing: list[str] = field(default_factory=list)
    """Model keys that the file may lack; they keep their initial values."""
    unexpected: list[str] = field(default_factory=list)
    """File keys, after the rules, that the model may lack."""
    mismatched: list[str] = field(default_factory=list)
    """Model keys whose shape in the file may differ; they keep their initial values."""


@dataclass(slots=True)
class ExpectConfig:
    """The expected output of the forward pass."""

    shape: list[int] | None = None
    """The output's shape; null accepts any."""
    finite: bool = True
    """Whether NaN and infinity in weights or outputs fail the verification."""


@dataclass(slots=True)
class VerifyConfig:
    """How a loaded model is verified."""

    input: Any = None
    """One input ``{shape, dtype, kind, high, value, path}``, a list (positional) or a mapping (by keyword or by part);
    null proposes one from the first layer if that is unambiguous. ``kind`` is ``randn``, ``uniform``, ``zeros``,
    ``ones`` or ``randint`` (below ``high``)."""
    forward: bool = True
    """Runs the model once, in eval mode and without gradients."""
    expect: ExpectConfig = field(default_factory=ExpectConfig)
    """The expected output of the forward pass."""
    golden: str | None = "auto"
    """Golden record to compare with: ``auto`` (``FILE.golden.safetensors``, if it exists), a path or null."""
    record: bool = False
    """Writes the golden record instead of comparing with it."""
    rtol: float | None = None
    """Relative tolerance; null suits the dtype."""
    atol: float | None = None
    """Absolute tolerance; null suits the dtype."""


@dataclass(slots=True)
class InspectConfig:
    """What ``mode=inspect`` shows."""

    depth: int | None = None
    """Number of levels of names; null shows as many as fit."""
    filter: list[str] = field(default_factory=list)
    """Globs over dotted keys; empty shows all."""


@dataclass(slots=True)
class ConvertConfig:
    """Where and how ``mode=convert`` writes."""

    path: str | None = None
    """The safetensors file to write."""
    embed: bool = True
    """Whether to write the model's resolved config into the file, for ``model=embedded``."""
    shard_size: str = "5GB"
    """The largest file; larger results are split into shards with an index."""


@dataclass(slots=True)
class ScaffoldConfig:
    """Where ``mode=scaffold`` writes."""

    path: str | None = None
    """The config file to write; null chooses one in ``conf/experiment/``, or in the folder of ``--config-dir``."""


OF_A_FILE = ("torch.nn.*", "loader.examples.*")
"""The `trusted_targets` for a model's config from a file, unless the user sets others."""


@dataclass(slots=True)
class JobConfig:
    """One job, fully resolved."""

    mode: Mode = "load"
    """``load``, ``plan`` (a dry run without tensor data), ``inspect``, ``convert`` or ``scaffold``."""
    model: Mapping[str, Any] | None = None
    """The architecture: a ``_target_`` and its arguments; null takes a pickled model from the file, ``embedded`` the
    config from a converted file. Also a config group."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """The weights: the part at the root of the model, and the defaults of the other parts. Also a config group."""
    rules: dict[str, Rule] | None = field(default_factory=dict)
    """Named key rules, applied in order; ``auto`` finds them. Also a config group: ``rules=[ddp,compile]``."""
    parts: dict[str, PartConfig] = field(default_factory=dict)
    """The parts by submodule, for several files or several places in one."""
    allow: AllowConfig = field(default_factory=AllowConfig)
    """Keys that need no partner."""
    device: str = "auto"
    """``auto`` (the first available of cuda, mps, xpu, cpu), ``cpu``, ``cuda:1``, ``meta``, …"""
    dtype: str | None = None
    """null keeps the model's dtypes; ``checkpoint`` takes the file's; or ``float16``, ``bfloat16``, …"""
    seed: int = 0
    """Seed of initial values and random inputs."""
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    """How the loaded model is verified."""
    inspect: InspectConfig = field(default_factory=InspectConfig)
    """What ``mode=inspect`` shows."""
    convert: ConvertConfig = field(default_factory=ConvertConfig)
    """Where and how ``mode=convert`` writes."""
    scaffold: ScaffoldConfig = field(default_factory=ScaffoldConfig)
    """Where ``mode=scaffold`` writes."""
    trusted_targets: list[str] | None = None
    """Patterns of admitted ``_target_`` names, such as ``my_pkg.*``; null admits all but known-dangerous ones."""
    of_a_file = False
    """Whether the model's config comes from a checkpoint; without an annotation, it is not a config key."""


@dataclass(slots=True)
class EmbeddedJob(JobConfig):
    """A job whose model's config comes from a checkpoint."""

    of_a_file = True


REPLACED = ("model", "rules", "parts", "verify.input", "trusted_targets")
"""Nodes that are replaced as a whole."""


def overlay(defaults: Mapping[str, Any], given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Lays a config over the defaults; unknown keys are kept for the parser to refuse."""
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
