"""The report of one job as plain data, and its form on disk.

Guarantees: contains only numbers, strings, lists and mappings of these, so that it can be written as JSON, sent between
processes and kept after the model is gone. It is filled step by step: a refused job has the fields known by then.
Writes are atomic; the JSON is valid for any reader (no NaN, no infinity), without the credentials of URLs.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..files.write import write_whole
from ..runtime import collector_paused
from ..schema import Mode
from ..text.lines import Fix
from ..text.redaction import redacted, spare

SCHEMA = 1
"""Version of the report's format."""


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
    applied: list[str] = field(default_factory=list)
    """The overrides that ``auto`` was replaced by; with them, the job is the same."""
    dangers: list[str] = field(default_factory=list)
    """Dangerous names in the file's pickles, which no model needs; none of them was called."""
    trust: dict[str, Any] = field(default_factory=dict)
    """The permissions in use, ``allow_globals`` and ``trust``; empty if there are none."""


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
    """``{name, shape, dtype, device, min, max, mean, std, finite}`` of each output."""
    fingerprint: str | None = None
    """A digest of the outputs, to compare runs on one machine."""
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
    objective: float | None = None
    """The value of the metric that ``evaluate.objective`` names."""


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
    plan: list[dict[str, Any]] | None = None
    """Only with ``mode=plan``: ``{action, key, source, part, model, checkpoint}`` of every key."""
    inspection: dict[str, Any] | None = None
    """Only with ``mode=inspect``: ``{files: […]}``, the contents of each part's file."""
    written: dict[str, Any] | None = None
    """Only with ``mode=convert`` and ``mode=scaffold``: ``{path, files, bytes, …}`` of the result."""
    verification: VerificationReport = field(default_factory=VerificationReport)
    """How the loaded model was verified."""
    evaluation: EvaluationReport | None = None
    """The measurement of the verified model; null if nothing was measured."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds of each step: ``build``, ``open``, ``plan``, ``apply``, ``place``, ``verify``, ``evaluate``, ``convert``,
    ``total``."""
    memory: dict[str, int | None] = field(default_factory=dict)
    """``{peak_rss_bytes}``: the process's largest resident memory so far; null if the system does not report it."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Versions, platform and number of threads."""
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved config."""
    overrides: list[str] = field(default_factory=list)
    """The overrides as typed."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of ``report.json``; fields of other modes are left out."""
        of_modes = {"plan": self.plan, "inspection": self.inspection, "written": self.written}
        bare = dataclasses.replace(self, plan=None, inspection=None, written=None)
        content = {"schema": SCHEMA, **dataclasses.asdict(bare)}
        for name, value in of_modes.items():
            if value is None:
                del content[name]
            else:
                content[name] = value
        return content


spare(list(vars().values()))

REPORT = "report.json"
"""The report's name in a run's folder."""


def _plain(content: Any) -> Any:
    return dict(content) if isinstance(content, Mapping) else str(content)


_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=True, default=_plain)


def write_report(report: Report, folder: Path) -> Path:
    """Writes ``report.json`` into a run's folder."""
    return write_json(folder / REPORT, report.to_dict())


@collector_paused()
def write_json(path: Path, content: Any) -> Path:
    """Writes JSON atomically; numbers that JSON does not have become null.

    A mapping takes a line for each key, a list one for each item: a report may have as many as a file has tensors.
    """
    text = _written(content, "")
    # Inside strings only: a secret next to a quote would take the quote's backslash with it.
    text = text if redacted(text) == text else _written(_redacted(content), "")
    write_whole(path, f"{text}\n".encode("ascii"))
    return path


def _redacted(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {redacted(str(key)): _redacted(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_redacted(value) for value in content]
    return redacted(content) if isinstance(content, str) else content


def _written(content: Any, margin: str) -> str:
    inner = f"{margin}  "
    if isinstance(content, Mapping) and content:
        pairs = (f"{inner}{_ENCODER.encode(str(key))}: {_written(value, inner)}" for key, value in content.items())
        return "{\n" + ",\n".join(pairs) + f"\n{margin}}}"
    if isinstance(content, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in content):
        return "[\n" + ",\n".join(f"{inner}{_item(item, inner)}" for item in content) + f"\n{margin}]"
    return _on_one_line(content)


def _item(content: Any, margin: str) -> str:
    """Writes a row on one line; an item that contains lists of rows takes more."""
    rows = isinstance(content, Mapping) and any(
        isinstance(value, list) and value and isinstance(value[0], Mapping) for value in content.values()
    )
    return _written(content, margin) if rows else _on_one_line(content)


def _on_one_line(content: Any) -> str:
    try:
        return _ENCODER.encode(content)
    except (ValueError, TypeError):
        return _ENCODER.encode(_finite(content))


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content


def write_text(path: Path, text: str) -> Path:
    """Writes text atomically as UTF-8; file names that are not valid UTF-8 are escaped."""
    write_whole(path, redacted(text).encode("utf-8", "backslashreplace"))
    return path
