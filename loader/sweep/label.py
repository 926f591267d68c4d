"""Names of jobs for people: what differs between them, and how they ended, on one line.

Guarantees: each text is one printable line without secrets, whatever the values and messages contain.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..text.lines import value_text
from ..text.redaction import redacted
from ..text.wording import safe_text
from .record import JobRecord
from .swept import values_of

_LONGEST = 60
_LONGEST_PATH = 4_096
_LONGEST_MESSAGE = 200
_PATH = "path"


class Labels:
    """The labels of the jobs of one sweep.

    Args:
        keys: The swept keys.
        jobs: The overrides of all jobs that are known.
    """

    def __init__(self, keys: Sequence[str], jobs: Iterable[Sequence[str]]) -> None:
        self._keys = keys
        jobs, paths = list(jobs), [key for key in keys if is_path(key)]
        values = [values_of(overrides, paths) for overrides in jobs] if paths else []
        self._folders = {
            key: _common_folder([path for job in values if key in job for path in _paths(job[key])]) for key in paths
        }

    def values(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Returns the text of each value; a path is shown from where the jobs' paths differ."""
        return {key: self._text(key, value) for key, value in values.items()}

    def _text(self, key: str, value: Any) -> str:
        if key not in self._folders:
            return safe_text(redacted(value if isinstance(value, str) else value_text(value) or str(value)), _LONGEST)
        folder = redacted(self._folders[key])
        # Redacted first: what is left of a URL may not look like one.
        names = [redacted(path).removeprefix(folder) for path in _paths(value)]
        text = f"[{', '.join(names)}]" if isinstance(value, list) else names[0]
        shown = safe_text(text, _LONGEST_PATH)
        return shown if len(shown) <= _LONGEST else f"…{shown[1 - _LONGEST :]}"  # the end has the file's name

    def of(self, overrides: Sequence[str], step: float | None = None) -> str:
        """Returns a job's label, as in ``epoch=3.pt step=300 dtype=bfloat16``."""
        shown = self.values(values_of(overrides, self._keys))
        words = [text if key == "checkpoint.path" else f"{key}={text}" for key, text in shown.items()]
        if step is not None and "checkpoint.path" in shown and f"{step:g}" not in shown["checkpoint.path"]:
            words.insert(list(shown).index("checkpoint.path") + 1, f"step={step:g}")
        return " ".join(words)


def is_path(key: str) -> bool:
    """Returns whether the values of a key are paths."""
    return key.rpartition(".")[2] == _PATH


def _paths(value: Any) -> list[str]:
    """Returns the paths of a value, which may list several files."""
    listed = value if isinstance(value, list) else [value]
    return [path if isinstance(path, str) else value_text(path) or str(path) for path in listed]


def _common_folder(paths: Sequence[str]) -> str:
    """Returns how all paths or URLs begin, up to a slash."""
    common = os.path.commonprefix(paths)  # noqa: RUF071  # of texts, as URLs are not paths
    return common[: common.rfind("/") + 1]


def message_of(job: JobRecord) -> str:
    """Returns the error of a job and the first line of its message; empty if it has none."""
    if not job.error:
        return ""
    first, *_ = str(job.error.get("message")).strip().splitlines() or [""]
    return safe_text(redacted(f"{job.error.get('type')}: {first}"), _LONGEST_MESSAGE)


def metric_text(metric: Mapping[str, Any]) -> str:
    """Writes a metric's value with its standard error, as in ``0.9714 ± 0.0021``."""
    value, stderr = metric.get("value"), metric.get("stderr")
    if value is None:
        return ""
    return f"{value:.4g}" if stderr is None else f"{value:.4g} ± {stderr:.2g}"


def line_of(job: JobRecord, label: str, place: str) -> str:
    """Returns the line that is printed when a job ends.

    Args:
        job: The job.
        label: Its label.
        place: How many have ended, as in ``12/120``.
    """
    seconds = "" if job.seconds is None else f"{job.seconds:.1f} s"
    metrics = "  ".join(
        f"{safe_text(name)} {metric['value']:.4g}"
        for name, metric in job.metrics.items()
        if metric.get("value") is not None
    )
    return "  ".join(filter(None, (place, job.status, seconds, label, metrics, message_of(job))))
