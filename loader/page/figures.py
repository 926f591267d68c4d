"""The pictures of a sweep's page as data, each with a sentence that says the same.

Guarantees: pure functions of jobs; plain data of bounded size, with null for a number that is not known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..text.wording import counted
from .jobs import Job, Jobs
from .plain import amount, figure, in_words, seconds, without_shared_folder, word

MOST_METRICS = 24
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture."""

    kind: str
    """``metric``, ``seconds``, ``memory``, ``matrix``, ``drift``, ``coverage`` or ``steps``."""
    title: str
    sentences: list[str]
    """What it shows, in words."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What the page's script draws; nothing if it is empty."""


def rounded(value: float | None, digits: int = _DIGITS) -> float | None:
    """Returns a number with as many digits as a picture can show."""
    if value is None or not math.isfinite(value) or value == int(value):
        return value if value is None or math.isfinite(value) else None
    return float(f"{value:.{digits}g}")


def metric_pictures(found: Jobs) -> list[Picture]:
    """Returns a picture of each metric: over the step, with a line for each other value, else as bars."""
    return [picture for name in found.metrics[:MOST_METRICS] if (picture := _metric(found, name))]


def _metric(found: Jobs, name: str) -> Picture | None:
    measured = [job for job in found.every if job.metric(name)[0] is not None]
    if not measured:
        return None
    over_step = len({step for job in measured if (step := job.figure("step")) is not None}) > 1
    if over_step:
        measured = [job for job in measured if job.figure("step") is not None]
        apart, lines = lines_of(measured, found.keys)
        series = [
            {"name": label, "points": [[job.figure("step"), *_point(job, name)] for job in line]}
            for label, line in lines
        ]
    else:
        apart = []
        series = [{"name": "", "points": [[found.label(job), *_point(job, name)] for job in measured]}]
    best = found.best.get(name)
    best = best if type(best) is int else None
    data = {"name": word(name), "over": "step" if over_step else "", "series": series, "best": best}
    about = _about(found.every, measured, name, best, over_step=over_step)
    about += [f"A line for each {in_words(apart)}."] if apart else []
    return Picture("metric", word(name), about, data)


def _point(job: Job, name: str) -> list[float | None]:
    value, stderr = job.metric(name)
    return [rounded(value), rounded(stderr), job.number]


def _about(jobs: Sequence[Job], measured: Sequence[Job], name: str, best: int | None, *, over_step: bool) -> list[str]:
    def named(job: Job) -> str:
        step = f" at step {figure(job.figure('step'))}" if over_step else ""
        return f"{figure(job.metric(name)[0])}{step} (job {job.number})"

    ordered = sorted(measured, key=lambda job: job.metric(name)[0] or 0.0)
    chosen = next((job for job in measured if job.number == best), None)
    if chosen is not None:
        worst = ordered[0] if ordered[-1].metric(name)[0] == chosen.metric(name)[0] else ordered[-1]
        text = f"Best: {named(chosen)}; worst: {named(worst)}."
    else:
        text = f"From {named(ordered[0])} to {named(ordered[-1])}."
    left = len(jobs) - len(measured)
    return [text] + ([f"{counted(left, 'job')} without a value."] if left else [])


def lines_of(jobs: Sequence[Job], keys: Sequence[str]) -> tuple[list[str], list[tuple[str, list[Job]]]]:
    """Sorts jobs into lines over the step: one for each combination of the swept values that are not the step itself.

    A path is the step's own if its numbers are all that differs; its line is the path without them.

    Returns:
        The keys in which the lines differ, and each line with its values of them.
    """
    differing = [key for key in keys if len({repr(job.values.get(key)) for job in jobs}) > 1]
    found: dict[tuple[str, ...], list[Job]] = {}
    stems = [_stems([job.values.get(key) for job in jobs], [job.figure("step") for job in jobs]) for key in differing]
    for at, job in enumerate(jobs):
        found.setdefault(tuple(each[at] for each in stems), []).append(job)
    own = [at for at in range(len(differing)) if len({names[at] for names in found}) > 1]
    shown = [without_shared_folder([names[at] for names in found]) for at in own]
    apart = [word(differing[at]) for at in own]
    labels = [
        names[0] if len(own) == 1 and names[0] else " ".join(map("=".join, zip(apart, names, strict=True)))
        for names in zip(*shown, strict=True)
    ]
    merged: dict[str, list[Job]] = {}
    for label, line in zip(labels or [""] * len(found), found.values(), strict=True):
        merged.setdefault(label, []).extend(line)
    by_step = [(label, sorted(line, key=lambda job: job.figure("step") or 0.0)) for label, line in merged.items()]
    return apart, by_step


_NUMBER = re.compile(r"[0-9]+")
_FILE = re.compile(r"\.[A-Za-z]\w{1,11}$")


def _stems(values: Sequence[Any], steps: Sequence[float | None]) -> list[str]:
    """Returns the values of one key without what goes with the step: the whole number, or numbers in a path."""
    if all(type(value) in (int, float) and value == step for value, step in zip(values, steps, strict=True)):
        return [""] * len(values)
    texts = [word(value, 1000) for value in values]
    alike: dict[str, list[int]] = {}
    for at, (value, text) in enumerate(zip(values, texts, strict=True)):
        if isinstance(value, str) and ("/" in text or _FILE.search(text)):
            alike.setdefault(_NUMBER.sub("*", text), []).append(at)
    for members in alike.values():
        for at, stem in zip(
            members, _starred([texts[at] for at in members], [steps[at] for at in members]), strict=True
        ):
            texts[at] = stem
    return texts


def _starred(texts: Sequence[str], steps: Sequence[float | None]) -> list[str]:
    """Replaces the numbers that go with the step, in texts that differ in their numbers alone."""
    columns = list(zip(*map(_NUMBER.findall, texts), strict=True))
    starred = [len({*column}) > 1 and len({*zip(steps, column, strict=True)}) == len({*steps}) for column in columns]

    def stem(text: str) -> str:
        star = iter(starred)
        return _NUMBER.sub(lambda found: "*" if next(star) else found[0], text)

    return [stem(text) for text in texts]


def cost_pictures(found: Jobs) -> list[Picture]:
    """Returns the seconds and the peak memory of each job as bars."""
    jobs = found.every
    labels = [found.label(job) for job in jobs]
    pictures = []
    timed = [job for job in jobs if job.figure("seconds") is not None]
    if timed:
        steps = {
            name: [rounded(job.figure(f"{name}_seconds"), 4) for job in jobs]
            for name in ("load", "forward", "evaluate")
        }
        total = [rounded(job.figure("seconds"), 4) for job in jobs]
        data = {"jobs": [job.number for job in jobs], "labels": labels, "total": total, **steps}
        pictures.append(Picture("seconds", "Seconds", [_times(timed)], data))
    sized = [job for job in jobs if job.figure("peak_rss_bytes") is not None]
    if sized:
        data = {
            "jobs": [job.number for job in jobs],
            "labels": labels,
            "bytes": [job.figure("peak_rss_bytes") for job in jobs],
        }
        pictures.append(Picture("memory", "Peak memory", [_sizes(sized)], data))
    return pictures


def _times(jobs: Sequence[Job]) -> str:
    found = sorted((job.figure("seconds") or 0.0, job.number) for job in jobs)
    total = seconds(math.fsum(time for time, _ in found))
    if len(found) == 1:
        return f"The job took {total}."
    low, high = found[0], found[-1]
    return f"From {seconds(low[0])} (job {low[1]}) to {seconds(high[0])} (job {high[1]}); {total} in all."


def _sizes(jobs: Sequence[Job]) -> str:
    found = sorted((job.figure("peak_rss_bytes") or 0.0, job.number) for job in jobs)
    low, high = found[0], found[-1]
    if low[0] == high[0]:
        return f"{amount(high[0])} in {'each job' if len(found) > 1 else 'the job'}."
    return f"From {amount(low[0])} (job {low[1]}) to {amount(high[0])} (job {high[1]})."


def listed(title: str, numbers: Iterable[int]) -> list[str]:
    """Returns a sentence about some jobs; none if there are none."""
    found = sorted(numbers)
    return [f"{title}: job{'s' if len(found) > 1 else ''} {in_words(found)}."] if found else []
