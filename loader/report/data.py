"""The report of one job as plain data.

Guarantees: contains only numbers, strings, lists and mappings of these, so that it can be written as JSON, sent between
processes and kept after the model is gone. It is filled step by step: a refused job has the fields known by then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from ..schema import Mode
from ..text.lines import Fix
from ..text.redaction import spare

SCHEMA = 1
"""Version of the report's format."""

REPORT = "report.json"
"""The report's name in a run's folder."""


@dataclass(slots=True)
class ErrorReport:
    """Why a job was refused or failed."""

    type: str
    """The exception's class, such as ``FitError``."""
    message: str
    """What was found, where, and what was expected."""
    hint: str = ""
    """The fixes as text, one per line."""
    fixes: list[dict[str, str]] = field(default_factory=list)
    """``{line, note}`` each: a line to paste and its effect; without a line, the note is advice."""

    @classmethod
    def of(cls, kind: str, message: str, fixes: Iterable[Fix] = ()) -> ErrorReport:
        """Makes the record of a refusal with these fixes."""
        fixes = list(fixes)
        return cls(kind, message, "\n".join(map(str, fixes)), [dataclasses.asdict(fix) for fix in fixes])


@dataclass(slots=True)
class ModelReport:
    """The model at the end of the job."""

    target: str
    """Its ``_target_``, or the class of a live module."""
    parameters: int = 0
    """Number of elements of all parameters, tied ones counted once."""
    bytes: int = 0
    """Size of all parameters."""
    device: str = ""
    """The device it is on."""
    dtypes: list[str] = field(default_factory=list)
    """The dtypes of its tensors."""
    build: str = ""
    """``hollow`` (without initial weights), ``plain: REASON``, or ``live`` (built by the caller)."""
    trust: dict[str, Any] = field(default_factory=dict)
    """The ``trusted_targets`` that limited the code called to build it; empty if nothing did."""


@dataclass(slots=True)
class PartReport:
    """One part of a job: a file and the submodule that it was loaded into."""

    path: str
    """The absolute path, or the URL."""
    format: str
    """The file's format, found from its content."""
    key: str | None
    """The nested key of the weights; null for the top level."""
    sha256: str | None
    """The file's digest; null unless ``checkpoint.sha256`` or ``check=full`` asks for it."""
    bytes: int
    """Size of the file, or of all files of a folder."""
    tensors: int
    """Number of tensors under the nested key."""
    rules: list[dict[str, Any]] = field(default_factory=list)
    """``{name, hits}`` of each rule, in order."""
    note: str = ""
    """The decision taken for an ambiguous file, such as which of two sets of weights was used."""
    other: dict[str, str] = field(default_factory=dict)
    """Entries under the nested key that are not tensors: key → type."""
    beside: dict[str, str] = field(default_factory=dict)
    """Entries of the file other than its weights, such as ``hyper_parameters.lr``: key → value, or type."""
    step: float | None = None
    """The file's ``global_step``, else its ``step``, else its ``epoch``; null if it has no such number."""
    applied: list[str] = field(default_factory=list)
    """The overrides that ``auto`` was replaced by; with them, the job is the same."""
    dangers: list[str] = field(default_factory=list)
    """Dangerous names in the file's pickles, which no model needs; none of them was called."""
    trust: dict[str, Any] = field(default_factory=dict)
    """The permissions in use, ``allow_globals`` and ``trust``; empty if there are none."""
    mtime: float | None = None
    """When the file, or the index of several, was last changed, in seconds since 1970; null for what is not on this
    machine."""
    combined: dict[str, Any] | None = None
    """Only for several files: ``{how, files, last}``, with ``{path, bytes, sha256, weight}`` of each file, and the keys
    whose values are the last file's, since they are not floats."""
    adapters: list[dict[str, Any]] = field(default_factory=list)
    """``{name, path, format, kind, key, scale, minus, sha256, files, hits, rules, note}`` of each adapter, in order:
    ``hits`` is the number of its changes, ``sha256`` the digest of its weights, null where no tensor is read, ``files``
    the ``{path, bytes, sha256}`` of everything that was read for it."""


@dataclass(slots=True)
class KeysReport:
    """The number of loaded keys, and every key with another outcome."""

    loaded: int = 0
    """Number of model keys loaded, or to be loaded with ``mode=plan``."""
    missing: list[str] = field(default_factory=list)
    """Model keys that the files do not have, also if allowed."""
    unexpected: list[str] = field(default_factory=list)
    """File keys, as rewritten, that the model does not have, also if allowed."""
    mismatched: list[dict[str, Any]] = field(default_factory=list)
    """``{key, model, checkpoint}`` of each key whose shapes differ, also if allowed."""
    dropped: list[str] = field(default_factory=list)
    """File keys that a rule dropped."""
    cast: list[dict[str, Any]] = field(default_factory=list)
    """``{key, checkpoint, model, loss}`` of each tensor whose dtype changed; ``loss`` describes changed values."""
    tied: list[list[str]] = field(default_factory=list)
    """Groups of model keys that are one tensor."""
    derived: list[dict[str, Any]] = field(default_factory=list)
    """``{key, sources, rules}`` of each tensor that rules or adapters made: its keys in the file, and their names."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a loaded model."""

    name: str
    """What was checked."""
    ok: bool | None
    """Whether it passed; null if it was not done."""
    detail: str
    """The result, or why it was not done."""


@dataclass(slots=True)
class VerificationReport:
    """The verification of the loaded model."""

    checks: list[Check] = field(default_factory=list)
    """All checks, in order."""
    inputs: list[dict[str, Any]] = field(default_factory=list)
    """``{name, shape, dtype, …}`` of each input of the forward pass."""
    outputs: list[dict[str, Any]] = field(default_factory=list)
    """``{name, shape, dtype, device, min, max, mean, std, finite, sha256}`` of each output."""
    fingerprint: str | None = None
    """The identity of the loaded weights, as the file and the rules give them: equal on every machine and in every
    container. Null without a verification, and on the meta device, which reads none."""
    golden_diff: float | None = None
    """Largest absolute difference to the golden record's outputs; null if nothing was compared."""
    kept: dict[str, Any] | None = None
    """``{path, bytes}`` of ``outputs.safetensors``, the inputs and outputs of the forward pass; null if none was
    written."""


@dataclass(slots=True)
class EvaluationReport:
    """The measurement of the verified model."""

    samples: int = 0
    """Number of samples."""
    batches: int = 0
    """Number of batches."""
    batch_size: int | None = None
    """Samples per batch that worked; null where the data comes in batches."""
    seconds: float = 0.0
    """Time of the whole evaluation."""
    samples_per_second: float | None = None
    """Speed, reading the data included."""
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """``{value, stderr, n}`` of each metric; ``stderr`` is null unless there is a value per sample."""
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    """Whether higher values are better, for each metric whose direction is known."""
    objective: float | None = None
    """The value of the metric that ``evaluate.objective`` names."""


@dataclass(slots=True)
class Difference:
    """A part of the result, or of the environment, that is not as recorded."""

    name: str
    """What differs, such as ``fingerprint`` or ``torch``."""
    recorded: Any
    """Its recorded value."""
    found: Any
    """Its value now."""


@dataclass(slots=True)
class ReplayReport:
    """The comparison of a repeated run with the recorded one."""

    path: str
    """The recorded run's ``report.json``."""
    status: Literal["reproduced", "different", "not compared"] = "not compared"
    """``reproduced``, ``different``, or ``not compared``, where the repeated run came to no result."""
    overrides: list[str] = field(default_factory=list)
    """The overrides that were laid over the recorded config."""
    folder: str | None = None
    """The folder that the recorded config's relative paths start at."""
    compared: list[Check] = field(default_factory=list)
    """What was compared, in order; the first that failed is the refusal's."""
    differences: list[Difference] = field(default_factory=list)
    """What differs of the results."""
    environment: list[Difference] = field(default_factory=list)
    """What differs of the environment, which decides nothing."""
    left_out: dict[str, Any] = field(default_factory=dict)
    """Permissions of the recorded run that this one does not have, since they come from the command line alone."""


@dataclass(slots=True)
class Report:
    """The outcome of one job."""

    status: Literal["ok", "failed", "error"] = "ok"
    """``ok``, ``failed`` (refused) or ``error`` (a bug of the loader)."""
    exit_code: int = 0
    """The exit code of the job."""
    error: ErrorReport | None = None
    """Why the job was refused or failed; null if it succeeded."""
    mode: Mode = "load"
    """The job's ``mode``."""
    model: ModelReport | None = None
    """The model; null if there is none, or none yet."""
    parts: dict[str, PartReport] = field(default_factory=dict)
    """The parts by submodule; the root is ``""``."""
    keys: KeysReport = field(default_factory=KeysReport)
    """The outcome of every key of the model and of the files."""
    modules: list[dict[str, Any]] = field(default_factory=list)
    """``{module, count, parameters, loaded, missing, mismatched, initialised}`` of each module that holds tensors: the
    number of its keys with each outcome; ``initialised`` ones keep the model's own values, as an allowance says. Layers
    that differ in their numbers alone are one, ``layers.{0..11}.attn``, with the sums of all."""
    plan: list[dict[str, Any]] | None = None
    """Only with ``mode=plan``: ``{action, key, source, sources, rules, part, model, checkpoint}`` of every key."""
    inspection: dict[str, Any] | None = None
    """Only with ``mode=inspect``: ``{files: […]}``, the contents of each part's file."""
    written: dict[str, Any] | None = None
    """Only with ``mode=convert`` and ``mode=scaffold``: ``{path, files, bytes, …}`` of the result."""
    verification: VerificationReport = field(default_factory=VerificationReport)
    """How the loaded model was verified."""
    evaluation: EvaluationReport | None = None
    """The measurement of the verified model; null if nothing was measured."""
    replay: ReplayReport | None = None
    """Only with ``mode=replay``: the comparison with the recorded run."""
    comparison: dict[str, Any] | None = None
    """Only with ``mode=compare``: ``{only_left, only_right, tensors, modules, total}``, with the keys of one file
    alone, and ``{key, shapes, dtypes, max_abs, mean_abs, cosine, differing, note}`` of each tensor that both have: the
    largest and mean absolute difference, the number of elements that differ, and why a number is null. ``modules`` and
    ``total`` sum these up, the largest difference first. The other file is the part ``compare``."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds of each step: ``build``, ``open``, ``plan``, ``apply``, ``place``, ``verify``, ``evaluate``, ``convert``,
    ``compare``, ``total``; and of the forward pass, a part of ``verify``: ``forward``."""
    memory: dict[str, int | None] = field(default_factory=dict)
    """``{peak_rss_bytes}``: the process's largest resident memory so far; null if the system does not report it."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Versions (``python``, ``torch``, …, ``packages``), ``platform``, ``devices`` by name, ``threads``,
    ``interop_threads``, ``cpu_capability`` and ``deterministic`` settings; ``git`` is the ``{folder, commit, clean}``
    of the tree that holds the model's source, or null; ``cwd`` is the folder that the job was started in."""
    identity: dict[str, Any] | None = None
    """Only for a job of a sweep that ended well: ``{config, versions, files, sources}``, by which ``sweep.resume``
    recognizes the same job."""
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved config."""
    overrides: list[str] = field(default_factory=list)
    """The overrides as typed."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of ``report.json``; fields of other modes are left out."""
        of_modes = {"plan": self.plan, "inspection": self.inspection, "written": self.written}
        bare = dataclasses.replace(self, plan=None, inspection=None, written=None)
        content = {"schema": SCHEMA, **dataclasses.asdict(bare)} | of_modes
        for name in (*of_modes, "replay", "comparison"):
            if content[name] is None:
                del content[name]
        return content


spare(list(vars().values()))
