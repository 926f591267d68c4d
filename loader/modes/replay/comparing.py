"""Compares a repeated run with the recorded one.

Guarantees: files count as equal by their sha256 where the report has it, else by their size; the fingerprint decides
about weights; outputs and metrics are compared with tolerance. What an override replaced is not a difference: a file
of another path, a dtype, an input. What cannot be compared is named and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ...config.laid import Laid
from ...report.combined import summary
from ...report.data import Check, Difference, KeysReport, PartReport, Report
from ...schema import JobConfig
from ...text.lines import NO_FIX, Fix, override, together, typed
from ...text.wording import counted, listing, safe_text
from .outputs import Outputs

_METRIC = "metric "
WITHIN = 1e-6
"""How far a metric may be from the recorded one, unless ``evaluate.expect`` says ``within``."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one comparison found."""

    check: Check
    difference: Difference | None = None
    fix: Fix = NO_FIX


@dataclass(frozen=True, slots=True)
class Sides:
    """The two runs."""

    recorded: Report
    found: Report
    job: JobConfig
    """The repeated job."""
    laid: Sequence[Laid]

    def laid_on(self, *path: str) -> bool:
        """Returns whether an override sets a node of the config, something in it, or what it is in."""
        return any(one.path[: len(path)] == path[: len(one.path)] for one in self.laid)


def compare(sides: Sides, outputs: Outputs | None) -> Iterator[Finding]:
    """Compares two runs, in the order of what is decided first: files, keys, fingerprint, outputs, metrics.

    Args:
        sides: The runs.
        outputs: What both kept of their forward passes; None if one of them kept nothing.
    """
    yield from files(sides)
    yield keys(sides)
    yield _fingerprint(sides)
    yield from _outputs(sides, outputs)
    yield from _metrics(sides)


def files(sides: Sides) -> Iterator[Finding]:
    """Compares the files that both runs opened."""
    for name in sorted({*sides.recorded.parts, *sides.found.parts}):
        then, now = sides.recorded.parts.get(name), sides.found.parts.get(name)
        what = f"file of {safe_text(name)}" if name else "file"
        if then is None or now is None:
            detail = f"only {'this run' if then is None else 'the recorded run'} has this part"
            other = sides.laid_on("parts")
            difference = Difference(what, then and then.path, now and now.path)
            yield Finding(Check(what, None if other else False, detail), None if other else difference)
        else:
            yield _file(what, then, now, replaced=sides.laid_on("checkpoint", "path") or sides.laid_on("parts", name))
            if then.adapters or now.adapters:
                yield _adapters(what, then, now, replaced=sides.laid_on("adapters") or sides.laid_on("parts", name))


def _file(what: str, then: PartReport, now: PartReport, *, replaced: bool) -> Finding:
    shown = safe_text(PurePath(now.path).name or now.path, 200) if now.combined is None else summary(now.combined)
    by_digest = then.sha256 is not None and now.sha256 is not None
    recorded, found = (then.sha256, now.sha256) if by_digest else (then.bytes, now.bytes)
    unit = "sha256 {}" if by_digest else "{:,} bytes"
    moved = then.mtime != now.mtime and None not in (then.mtime, now.mtime)
    if recorded == found:
        since = "; written since, which decides nothing" if moved else ""
        return Finding(Check(what, True, f"{shown}: {unit.format(found)}, as recorded{since}"))
    detail = f"{shown}: {unit.format(found)}, recorded {unit.format(recorded)}"
    if replaced:
        return Finding(Check(what, None, f"{detail}; another file was asked for, and the fingerprint decides"))
    return Finding(
        Check(what, False, detail), Difference(what, recorded, found), Fix("checkpoint.path=FILE", "the recorded file")
    )


def _adapters(what: str, then: PartReport, now: PartReport, *, replaced: bool) -> Finding:
    """Compares the files of all adapters of a part."""
    recorded, found = ([_digests(one) for one in part.adapters] for part in (then, now))
    what = f"adapters of the {what}"
    before, named = (listing(one.get("name") for one in part.adapters) or "none" for part in (then, now))
    if recorded == found:
        return Finding(Check(what, True, f"{named}: their files are as recorded"))
    detail = f"{named}: other files, or another scale, than the recorded {before}"
    if replaced:
        return Finding(Check(what, None, f"{detail}; others were asked for, and the fingerprint decides"))
    return Finding(
        Check(what, False, detail), Difference(what, recorded, found), Fix(note="restore the recorded files")
    )


def _digests(adapter: Mapping[str, Any]) -> list[Any]:
    """What was added, by its content: the digests of its files, and its factor."""
    return [adapter.get("scale"), *(file.get("sha256") for file in adapter.get("files", ()))]


def keys(sides: Sides) -> Finding:
    """Compares the outcome of every key."""
    then, now = sides.recorded.keys, sides.found.keys
    names = ["loaded", "missing", "unexpected", "mismatched", "dropped", "tied", "derived"]
    names += [] if sides.laid_on("dtype") else ["cast"]
    apart = [name for name in names if getattr(then, name) != getattr(now, name)]
    if not apart:
        return Finding(Check("keys", True, f"{counted(now.loaded, 'key')} loaded, all with the recorded outcome"))
    detail = "; ".join(_keys_apart(name, then, now) for name in apart)
    difference = Difference("keys", _of(then, apart), _of(now, apart))
    return Finding(Check("keys", False, detail), difference, Fix("checkpoint.path=FILE", "the recorded file"))


def _of(keys_report: KeysReport, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(keys_report, name) for name in names}


def _keys_apart(name: str, then: KeysReport, now: KeysReport) -> str:
    recorded, found = getattr(then, name), getattr(now, name)
    if name == "loaded":
        return f"{found:,} loaded, recorded {recorded:,}"
    new = [_key(row) for row in found if row not in recorded]
    gone = [_key(row) for row in recorded if row not in found]
    said = [f"{name} now: {listing(new)}"] if new else []
    return ", ".join(said + ([f"no longer {name}: {listing(gone)}"] if gone else [])) or f"{name} in another order"


def _key(row: Any) -> str:
    if isinstance(row, Mapping):
        return str(row.get("key"))
    return " = ".join(map(str, row)) if isinstance(row, list) else str(row)


def _fingerprint(sides: Sides) -> Finding:
    then, now = sides.recorded.verification.fingerprint, sides.found.verification.fingerprint
    if then is None or (now is None and sides.laid_on("device")):
        who = "the recorded run" if then is None else "this run"
        return Finding(Check("fingerprint", None, f"{who} has none"))
    if then == now:
        return Finding(Check("fingerprint", True, f"{then[:16]}…: the weights are the recorded ones"))
    detail = f"the weights are other ones: {safe_text(now and now[:16])}…, recorded {safe_text(then[:16])}…"
    difference = Difference("fingerprint", then, now)
    return Finding(Check("fingerprint", False, detail), difference, Fix("checkpoint.path=FILE", "the recorded file"))


_INPUT = (("verify",), ("model",), ("seed",), ("device",))
"""What decides about the forward pass; with another of them it need not be the same."""


def _outputs(sides: Sides, outputs: Outputs | None) -> Iterator[Finding]:
    then, now = sides.recorded.verification, sides.found.verification
    asked = any(sides.laid_on(*place) for place in _INPUT)
    dtypes = [
        name for report in (sides.recorded, sides.found) for name in (report.model.dtypes if report.model else [])
    ]
    verify = sides.job.verify
    if not then.outputs:
        return
    if not now.outputs:
        yield Finding(
            Check("outputs", None if asked else False, "this run has none"),
            None if asked else Difference("outputs", len(then.outputs), 0),
        )
        return
    if outputs is None:
        from .outputs import statistics_apart  # noqa: PLC0415  # most runs keep their outputs

        found, close = statistics_apart(then.outputs, now.outputs, dtypes, verify.rtol, verify.atol)
    else:
        inputs = outputs.inputs_apart()
        if inputs:
            detail = f"not compared, the inputs are other ones: {inputs}"
            yield Finding(
                Check("outputs", None if asked else False, detail), None if asked else Difference("inputs", None, None)
            )
            return
        found, close = outputs.apart(dtypes, verify.rtol, verify.atol)
    if not found:
        yield Finding(Check("outputs", True, close))
        return
    wider = Fix(note="set verify.rtol and verify.atol to accept larger differences")
    fix = (outputs.accepting() if outputs is not None else NO_FIX) or wider
    yield Finding(Check("outputs", False, f"{'; '.join(found)}; {close}"), Difference("outputs", None, found), fix)


def _metrics(sides: Sides) -> Iterator[Finding]:
    then, now = sides.recorded.evaluation, sides.found.evaluation
    if then is None:
        return
    for name, row in then.metrics.items():
        what, found = f"{_METRIC}{safe_text(name)}", (now.metrics.get(name) if now is not None else None)
        if found is None:
            other = sides.laid_on("evaluate")
            difference = None if other else Difference(what, row.get("value"), None)
            yield Finding(Check(what, None if other else False, "this run did not measure it"), difference)
            continue
        yield _metric(what, name, row.get("value"), found.get("value"), _within(sides.job, name))


def _within(job: JobConfig, name: str) -> float:
    expected = job.evaluate.expect.get(name) if job.evaluate is not None else None
    within = expected.get("within") if isinstance(expected, Mapping) else None
    return float(within) if isinstance(within, int | float) else WITHIN


def _metric(what: str, name: str, then: Any, now: Any, within: float) -> Finding:
    numbers = isinstance(then, int | float) and isinstance(now, int | float)
    if then == now or (numbers and abs(then - now) <= within):
        return Finding(Check(what, True, f"{now:.6g}, recorded {then:.6g} (within {within:g})" if numbers else "null"))
    detail = f"{safe_text(now)}, recorded {safe_text(then)} (within {within:g})"
    fix = _accepting(name, float(then), abs(then - now)) if numbers else NO_FIX
    return Finding(Check(what, False, detail), Difference(what, then, now), fix)


def fix_of(failed: Sequence[Finding]) -> Fix:
    """Returns the line for the first difference; where it is a metric's, for all metrics at once."""
    first, metrics = failed[0].fix, [one.fix for one in failed if one.check.name.startswith(_METRIC)]
    if len(metrics) < 2 or first is not metrics[0] or not all(metrics):
        return first
    return together(metrics, "accepts these differences")


def _accepting(name: str, value: float, gap: float) -> Fix:
    """Returns the line that accepts a difference, rounded up to one digit."""
    place, unit = f"evaluate.expect.{name}", 10.0 ** math.floor(math.log10(gap))
    words = (override(f"{place}.value", value), override(f"{place}.within", float(f"{(gap // unit + 1) * unit:.1g}")))
    return typed(*words, note="accepts this difference")


def environments(recorded: Report, found: Report) -> list[Difference]:
    """Lists what differs of the environments, key by key."""
    then, now = dict(_flat(recorded.environment, "")), dict(_flat(found.environment, ""))
    names = dict.fromkeys((*then, *now))
    return [Difference(name, then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name)]


def _flat(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _flat(value, f"{where}.{key}" if where else str(key))
    else:
        yield where, node
