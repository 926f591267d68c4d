"""The config as plain typed data: the names a user types, and their defaults.

Guarantees: these records know neither Hydra nor OmegaConf; once parsed (`loader.config.parse`), every field has its
declared type. A partial config laid over another replaces nodes whose content belongs together as a whole, so that no
argument of a default model is left over. `docs/config.md` is generated from the docstrings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..text.redaction import spare
from .rule import Fate, KeyRule, Rule, Step, own_fields
from .sections import (
    AUTO,
    CHECKS,
    MEAN,
    MODES,
    AdapterConfig,
    AllowConfig,
    Check,
    CheckpointConfig,
    CompareConfig,
    ConvertConfig,
    EvaluateConfig,
    ExpectConfig,
    Floating,
    InputKind,
    InspectConfig,
    Mode,
    OtherConfig,
    OutputConfig,
    ReplayConfig,
    ScaffoldConfig,
    SweepConfig,
    TrackConfig,
    VerifyConfig,
)

__all__ = [
    "AUTO",
    "CHECKS",
    "EACH_REPLACED",
    "EMBEDDED",
    "MEAN",
    "MODES",
    "OF_A_FILE",
    "REPLACED",
    "ROOT",
    "AdapterConfig",
    "AllowConfig",
    "Check",
    "CheckpointConfig",
    "CompareConfig",
    "ConvertConfig",
    "EmbeddedJob",
    "EvaluateConfig",
    "ExpectConfig",
    "Fate",
    "Floating",
    "InputKind",
    "InspectConfig",
    "JobConfig",
    "KeyRule",
    "Mode",
    "OtherConfig",
    "OutputConfig",
    "PartConfig",
    "ReplayConfig",
    "Rule",
    "ScaffoldConfig",
    "Step",
    "SweepConfig",
    "TrackConfig",
    "VerifyConfig",
    "config_path",
    "overlay",
    "own_fields",
]

EMBEDDED = "embedded"
"""The `_target_` of a model whose config is in its checkpoint; without a dot, it cannot be an importable name."""


@dataclass(slots=True)
class PartConfig:
    """One part: the settings of ``checkpoint``, from which unset ones come, and its own rules."""

    checkpoint: CheckpointConfig
    rules: dict[str, Rule] | None
    """The part's rules; None means that they must be found (``rules: auto``)."""
    adapters: dict[str, AdapterConfig] = field(default_factory=dict)
    """The adapters that are added to what the rules made, in order."""
    shares_rules: bool = field(default=False, compare=False)
    """Whether its rules are those of the job."""

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


OF_A_FILE = ("torch.nn.*", "loader.examples.*")
"""The `trusted_targets` for a model's config from a file, unless the user sets others."""


@dataclass(slots=True)
class JobConfig:
    """One job, fully resolved."""

    mode: Mode = "load"
    """``load``, ``plan`` (a dry run without tensor data), ``inspect``, ``convert``, ``scaffold``, ``replay`` or
    ``compare``."""
    model: Mapping[str, Any] | None = None
    """The architecture: a ``_target_`` and its arguments; null takes a pickled model from the file, ``embedded`` the
    config from a converted file. Also a config group."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """The weights: the part at the root of the model, and the defaults of the other parts. Also a config group."""
    rules: dict[str, Rule] | None = field(default_factory=dict)
    """Named key rules, applied in order; ``auto`` finds them. Also a config group: ``rules=[ddp,compile]``."""
    adapters: dict[str, AdapterConfig] = field(default_factory=dict)
    """Named adapters, added in order to what the rules made; a part has its own."""
    parts: dict[str, PartConfig] = field(default_factory=dict)
    """The parts by submodule, for several files or several places in one."""
    allow: AllowConfig = field(default_factory=AllowConfig)
    """Keys that need no partner."""
    device: str = "auto"
    """``auto`` (the first available of cuda, mps, xpu, cpu), ``cpu``, ``cuda:1``, ``meta``, …; in a sweep, ``cuda:*``
    is every CUDA device."""
    dtype: str | dict[str, str | None] | None = None
    """null keeps the model's dtypes; ``checkpoint`` takes the file's; or ``float16``, ``bfloat16``, …; or globs over
    model keys to these, of which the last match wins: ``{'*': bfloat16, '*.norm.*': float32}``."""
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
    compare: OtherConfig = field(default_factory=OtherConfig)
    """The other file of ``mode=compare``."""
    evaluate: EvaluateConfig | None = None
    """How the verified model is measured; null measures nothing. Also a config group."""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    """How a sweep runs its jobs; set on the command line with ``-m``, or in a config that makes a sweep."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    """The run that ``mode=replay`` repeats."""
    report: OutputConfig = field(default_factory=OutputConfig)
    """What a run writes besides ``report.json``."""
    track: TrackConfig | None = None
    """Where results are logged; null logs nowhere. Also a config group: ``+track=mlflow``."""
    trusted_targets: list[str] | None = None
    """Patterns of admitted ``_target_`` names, such as ``my_pkg.*``; null admits all but known-dangerous ones."""
    of_a_file = False
    """Whether the model's config comes from a checkpoint; without an annotation, it is not a config key."""


@dataclass(slots=True)
class EmbeddedJob(JobConfig):
    """A job whose model's config comes from a checkpoint."""

    of_a_file = True


REPLACED = (
    *("model", "rules", "adapters", "parts", "compare.rules", "verify.input", "evaluate.data", "evaluate.step"),
    *("dtype", "trusted_targets"),
)
"""Nodes that are replaced as a whole."""

EACH_REPLACED = ("evaluate.metrics", "evaluate.expect")
"""Nodes of which each entry is replaced as a whole."""


def overlay(defaults: Mapping[str, Any], given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Lays a config over the defaults; unknown keys are kept for the parser to refuse."""
    result = dict(defaults)
    for key, value in given.items():
        place = f"{where}.{key}" if where else str(key)
        below = result.get(key)
        is_whole = place in REPLACED or where in EACH_REPLACED
        if isinstance(value, Mapping) and isinstance(below, Mapping) and not is_whole:
            result[key] = overlay(below, value, place)
        else:
            result[key] = value
    return result


spare(list(vars().values()))
