"""The checks of a loaded model against the bytes in its files, which `rereading` reads again.

Guarantees: they run at the end, so that they detect changes made by running the model; the result says how much was
compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..report.data import Check
from ..text.lines import NO_FIX, Fix, line
from ..text.wording import listing
from .checks import Subject, register


@register(
    "read back",
    moment="end",
    applies=lambda subject: not subject.has_values or subject.prepared is not None,
    fixes=[Fix(note="the file was rewritten, or a hook of the model changes the values")],
)
def _read_back(subject: Subject) -> Iterator[Check]:
    """Compares the planned tensors with the model's own."""
    prepared, reread = subject.prepared, subject.reread
    if prepared is None or reread is None:
        without = f"not done: device={subject.device} reads no values, so the weights have no fingerprint"
        yield Check("read back", None, without)
        return
    matches, differing = len(prepared.plan.matches), reread.differing
    how = "samples of every tensor" if reread.sampled else "all bytes"
    direct, derived = reread.compared - reread.derived, reread.derived
    done = f"tensors: {direct} compared with the file, {derived} computed again" if derived else ""
    detail = f"{reread.compared} of {matches} {done or 'tensors compared with the file'}, {how}"
    computed = matches - reread.compared
    detail += f"; {computed} come out of load hooks" if computed else ""
    detail += f"; not what the file holds: {listing(differing)}" if differing else ""
    yield Check("read back", not differing, detail)


def _other_weights(subject: Subject, _failed: Sequence[str]) -> Sequence[Fix]:
    found = subject.reread.fingerprint if subject.reread is not None else None
    right = line("verify.fingerprint", found, note="if these weights are right") if found else NO_FIX
    return [Fix("checkpoint.path=FILE", "the file with the expected weights"), right]


@register(
    "fingerprint",
    moment="end",
    applies=lambda subject: subject.reread is not None and subject.job.verify.fingerprint is not None,
    fixes=_other_weights,
)
def _fingerprint(subject: Subject) -> Iterator[Check]:
    """Compares the identity of the loaded weights with the expected one."""
    expected, found = subject.job.verify.fingerprint, subject.reread.fingerprint if subject.reread else None
    other = f"the loaded weights are {found or 'no tensors of a file'}, and verify.fingerprint expects {expected}"
    yield Check("fingerprint", found == expected, other if found != expected else "the expected weights")
