"""The sections of the config as plain typed data, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..text.redaction import spare
from .rule import Rule

Mode = Literal["load", "plan", "inspect", "convert", "scaffold", "replay", "compare"]
"""What a job does."""
MODES: tuple[Mode, ...] = get_args(Mode)

Check = Literal["crc", "structure", "full"]
"""How much of a file's integrity is verified."""
CHECKS: tuple[Check, ...] = get_args(Check)

ConvertNames = Literal["model", "checkpoint"]
"""Whose names a converted file has."""

AUTO = "auto"
"""Instead of a nested key or of rules: find the right ones."""

MEAN = "mean"
"""The way to combine files that needs no weights."""

Floating = Literal["float16", "bfloat16", "float32", "float64"]
"""The dtypes that a whole model can be put into."""

InputKind = Literal["randn", "uniform", "zeros", "ones", "randint"]
"""How an input's values are made; ``uniform`` is from 0 to 1."""


@dataclass(slots=True)
class CheckpointConfig:
    """Where weights come from, and how far the file is trusted."""

    path: str | list[str] = ""
    """A file, a folder, an ``*.index.json``, ``pkg://PACKAGE/FILE``, or a URL (``https s3 gs hf``; ``[remote]``); or a
    list of them, for ``combine``."""
    key: str | None = None
    """The dotted nested key of the weights, such as ``state_dict``; ``auto`` finds and reports it."""
    format: str = "auto"
    """The file's format; ``auto`` recognizes it by content, never by the extension alone."""
    sha256: str | list[str] | None = None
    """Refuses a file with another digest; a list has one for each file."""
    allow_globals: list[str] = field(default_factory=list)
    """Pickled names to admit, such as ``argparse.Namespace``; a refusal lists the required ones."""
    trust: bool = False
    """Unpickles everything, which runs code from the file; never a fallback."""
    mmap: bool = True
    """Maps the file; false reads it into private memory, for a file that may change while in use."""
    check: Check = "crc"
    """How much of the file is verified: ``crc``, ``structure``, or ``full`` (the whole file, and its sha256)."""
    combine: str | list[float] | None = None
    """How the files of a list are combined: ``mean``, or a list of weights, as given and never normalised."""

    @property
    def paths(self) -> list[str]:
        """All of its files."""
        return [self.path] if isinstance(self.path, str) else self.path

    @property
    def named(self) -> str:
        """Its files, as one text."""
        return ", ".join(self.paths)


@dataclass(slots=True)
class AdapterConfig:
    """Weights that are added to those of a checkpoint."""

    path: str = ""
    """A PEFT adapter's folder, a kohya or diffusers file, or a file of full differences."""
    scale: float = 1.0
    """The factor of its differences."""
    minus: str | None = None
    """A file that is subtracted from it first; both then hold full weights: a task vector."""
    key: str | None = None
    """The dotted nested key of its tensors; ``auto`` finds and reports it."""
    rules: dict[str, Rule] = field(default_factory=dict)
    """Named rules for the modules that it changes, by the names that it has for them."""
    format: str = "auto"
    """The file's format; ``auto`` recognizes it by content."""


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
    fingerprint: str | None = None
    """Refuses weights with another ``verification.fingerprint``."""
    keep: str = "16MB"
    """The largest ``outputs.safetensors`` to write, with the inputs and outputs of the forward pass; 0 writes none."""


@dataclass(slots=True)
class InspectConfig:
    """What ``mode=inspect`` shows."""

    depth: int | None = None
    """Number of levels of names; null shows as many as fit."""
    filter: list[str] = field(default_factory=list)
    """Globs over dotted keys; empty shows all."""
    fingerprint: bool = False
    """Computes the fingerprint of each file's weights, which reads all of them."""


@dataclass(slots=True)
class ConvertConfig:
    """Where and how ``mode=convert`` writes."""

    path: str | None = None
    """The safetensors file to write."""
    names: ConvertNames = "model"
    """Whose names and layout to write: the ``model``'s, or those of the ``checkpoint``, by its rules backwards."""
    embed: bool = True
    """Whether to write the model's resolved config into the file, for ``model=embedded``."""
    shard_size: str = "5GB"
    """The largest file; larger results are split into shards with an index."""


@dataclass(slots=True)
class ScaffoldConfig:
    """Where ``mode=scaffold`` writes."""

    path: str | None = None
    """The config file to write; null chooses one in ``conf/experiment/``, or in the folder of ``--config-dir``."""


@dataclass(slots=True)
class EvaluateConfig:
    """How a loaded model is measured."""

    data: Any = None
    """A ``_target_`` of an iterable of batches, or of a map-style torch Dataset; every measurement needs it."""
    batch_size: int = 64
    """Samples per batch of a map-style Dataset; halved if the memory does not hold them."""
    batches: int | None = None
    """The largest number of batches; null takes all."""
    step: Any = None
    """A ``_target_`` of a callable ``(model, batch) -> (prediction, target)``; null takes ``(input, target)`` batches,
    or mappings with ``labels`` or ``target``."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Metrics by name, each a ``_target_`` with its arguments: an object with ``update`` and ``compute``, or a
    function of ``(prediction, target)``."""
    expect: dict[str, Any] = field(default_factory=dict)
    """Bounds by metric: ``{min}``, ``{max}``, ``{value, within}`` (1e-6); a metric outside fails the job."""
    objective: str | None = None
    """The metric that a job returns to a sweeper that optimizes, such as Optuna's."""


@dataclass(slots=True)
class OtherConfig(CheckpointConfig):
    """The file that ``mode=compare`` compares with ``checkpoint``."""

    rules: dict[str, Rule] | None = field(default_factory=dict)
    """Named rules for its keys; those of ``checkpoint`` are in ``rules``. ``auto`` finds those that give it the names
    of ``checkpoint``."""
    atol: float | None = None
    """The largest absolute difference of any element. Beyond it the job fails, as it does for a tensor that only one
    file has, or that has another shape. Null sets no limit."""


@dataclass(slots=True)
class CompareConfig:
    """What a sweep's page compares between jobs."""

    outputs: bool = True
    """Whether to compare the outputs of the jobs where their inputs are equal."""
    weights: bool = False
    """Whether to compare the weights, module by module, with those of the reference."""
    reference: int = 0
    """The number of the job that the others are compared with."""


@dataclass(slots=True)
class SweepConfig:
    """How a sweep runs its jobs."""

    resume: str | None = None
    """The folder of an earlier sweep, whose jobs are not run again if they ended well and are the same."""
    timeout: float | None = None
    """Seconds for one job; null sets no limit."""
    stop_after: int | None = None
    """Starts no more jobs after this many did not end well; null starts all."""
    skip: list[str] = field(default_factory=list)
    """Globs over devices that may be absent, as in ``[cuda*, mps]``."""
    dry_run: bool = False
    """Prints the jobs, each with the command that runs it alone, and runs none."""
    page: bool = True
    """Whether to write ``summary.html``."""
    compare: CompareConfig = field(default_factory=CompareConfig)
    """What the page compares."""


@dataclass(slots=True)
class ReplayConfig:
    """The run that ``mode=replay`` repeats."""

    path: str | None = None
    """A run's folder, or its ``report.json``."""


@dataclass(slots=True)
class OutputConfig:
    """What a run writes besides ``report.json``."""

    page: bool = False
    """Whether to write ``report.html``."""


spare(list(vars().values()))


@dataclass(slots=True)
class TrackConfig:
    """Where a tracker logs runs and sweeps: ``+track=mlflow``."""

    experiment: str = "hydra-loader"
    """The experiment that runs are logged to; created if absent."""
    uri: str | None = None
    """The tracker's server or store, as in ``http://host:5000`` and ``sqlite:///mlflow.db``; null leaves it to the
    tracker (``MLFLOW_TRACKING_URI``)."""
    run: str | None = None
    """The name of the run, or of the sweep's; null takes that of its folder."""
