"""The report of one job as plain data.

Guarantees: holds only numbers, strings, lists and mappings of these, so that it can be written as JSON, sent between
processes and kept after the model is gone. It is filled step by step: a refused job has what was known by then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..text.lines import Fix
from ..text.redaction import spare

SCHEMA = 1
"""Version of the report's form."""


@dataclass(slots=True)
class ErrorReport:
    """A refusal."""

    type: str
    message: str
    hint: str = ""
    """The fixes as text, one per line."""
    fixes: list[dict[str, str]] = field(default_factory=list)
    """``{line, note}`` each: what to paste, and what it does; an empty line is advice in words."""

    @classmethod
    def of(cls, kind: str, message: str, fixes: Iterable[Fix] = ()) -> ErrorReport:
        """The record of a refusal with these fixes."""
        fixes = list(fixes)
        return cls(kind, message, "\n".join(map(str, fixes)), [dataclasses.asdict(fix) for fix in fixes])


@dataclass(slots=True)
class ModelReport:
    """The model as it ended."""

    target: str
    parameters: int = 0
    """Number of elements of all parameters, tied ones once."""
    bytes: int = 0
    """Their size."""
    device: str = ""
    dtypes: list[str] = field(default_factory=list)
    build: str = ""
    """``hollow``, or ``plain: why``."""
    trust: dict[str, Any] = field(default_factory=dict)
    """What limited the code that was called to build it: ``trusted_targets``; empty where nothing did."""


@dataclass(slots=True)
class PartReport:
    """One part of a job."""

    path: str
    format: str
    key: str | None
    sha256: str | None
    bytes: int
    tensors: int
    """How many tensors stand under the nested key."""
    rules: list[dict[str, Any]] = field(default_factory=list)
    """``{name, hits}`` per rule, in order."""
    note: str = ""
    """What was decided where there was a choice, as which of two sets of weights is offered."""
    other: dict[str, str] = field(default_factory=dict)
    """Entries that are no tensors: key → type."""
    beside: dict[str, str] = field(default_factory=dict)
    """What the file says beside the weights, such as ``hyper_parameters.lr``: key → value, or type."""
    applied: list[str] = field(default_factory=list)
    """The overrides that `auto` stood for; with them instead, the job is the same."""
    dangers: list[str] = field(default_factory=list)
    """What the file's pickles name that no model needs and an attack would use; nothing of it was run."""
    trust: dict[str, Any] = field(default_factory=dict)
    """Permissions that were used: ``allow_globals``, ``trust``; empty where none was."""


@dataclass(slots=True)
class KeysReport:
    """Every key that was not simply loaded, and how many were."""

    loaded: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    cast: list[dict[str, Any]] = field(default_factory=list)
    tied: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a loaded model."""

    name: str
    ok: bool | None
    """None where it was not done; the detail says why."""
    detail: str


@dataclass(slots=True)
class VerificationReport:
    """How a model was verified."""

    checks: list[Check] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    fingerprint: str | None = None


@dataclass(slots=True)
class Report:
    """What happened in one job."""

    status: str = "ok"
    """``ok``, ``failed`` (refused) or ``error`` (a bug of the loader)."""
    exit_code: int = 0
    error: ErrorReport | None = None
    mode: str = "load"
    model: ModelReport | None = None
    parts: dict[str, PartReport] = field(default_factory=dict)
    keys: KeysReport = field(default_factory=KeysReport)
    plan: list[dict[str, Any]] | None = None
    """In ``mode=plan``, what would become of every key (`loader.report.planned`)."""
    inspection: dict[str, Any] | None = None
    """In ``mode=inspect``, what is in the file (`loader.modes.inspect`)."""
    written: dict[str, Any] | None = None
    """What ``mode=convert`` or ``mode=scaffold`` wrote: ``{path, files, bytes, …}``."""
    verification: VerificationReport = field(default_factory=VerificationReport)
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds."""
    memory: dict[str, int | None] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report as ``report.json`` holds it; what only some modes have stands in it only there."""
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
