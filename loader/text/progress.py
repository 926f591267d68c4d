"""The progress of long work, on stderr.

Guarantees: work of less than two seconds shows nothing, imports nothing and starts no thread. On a terminal, progress
is one line that is rewritten in place, never longer than the terminal is wide, and gone at the end; whatever this
process prints meanwhile, log lines and warnings included, stands whole above it. Elsewhere it is a plain line now and
then, and only if a command asked for that (`speaking`): a library writes no lines into its user's log. A stream that
cannot be written ends the display and nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from .display import Display, display_on_stderr
from .wording import safe_text, size

_SILENCE = 2.0
"""Seconds before anything is shown."""
_LONGEST = 200


class Voice(Enum):
    """Where progress is shown."""

    SILENT = "nowhere"
    TERMINAL = "on a terminal only"
    LINES = "on a terminal, and elsewhere as plain lines"


_voice = Voice.TERMINAL


@contextmanager
def speaking(voice: Voice) -> Iterator[None]:
    """Sets where this process shows progress during the block."""
    global _voice  # noqa: PLW0603  # one process, one stderr
    before, _voice = _voice, voice
    try:
        yield
    finally:
        _voice = before


class Shown:
    """Work in progress, made by `progress`.

    Args:
        what: What is done, as in ``evaluating``.
        total: How much there is to do, in units; None if unknown.
        unit: The plural of what is counted; ``B`` for bytes.
        done: How much was done before.
    """

    def __init__(self, what: str, total: float | None, unit: str, done: float) -> None:
        self.what, self.total, self.unit, self.done, self.note = what, total, unit, done, ""
        self._start = done
        self._began = time.monotonic()
        self._due = math.inf if _voice is Voice.SILENT else self._began + _SILENCE
        self._display: Display | None = None

    def advance(self, n: float = 1, note: str | None = None) -> None:
        """Counts what has been done since the last call, and shows it if it is time.

        Args:
            n: Units; 0 only lets time pass.
            note: A text at the end of the line from now on, such as ``accuracy 0.97``.
        """
        self.done += n
        if note is not None:
            self.note = note
        if time.monotonic() >= self._due:
            self._show()

    def reached(self, done: float, total: float | None) -> None:
        """Sets how much has been done in all, which may be less than before, and the total, if known by now."""
        self.total = total
        self._start = min(self._start, done)
        self.advance(done - self.done)

    def line(self) -> str:
        """Returns the progress as one line of text."""
        elapsed = time.monotonic() - self._began
        amounts = ", ".join(filter(None, (self._amount(), self._rate(elapsed), self._left(elapsed))))
        return "  ".join(safe_text(text, _LONGEST) for text in (self.what, amounts, self.note) if text)

    def _amount(self) -> str:
        if not self.total:
            return _units(self.done, self.unit) if self.done else ""
        share = f"({min(self.done / self.total, 1):.0%})"
        before = size(self.done) if self.unit == "B" else f"{self.done:,.0f}"
        return f"{before} of {_units(self.total, self.unit)} {share}"

    def _rate(self, elapsed: float) -> str:
        rate = (self.done - self._start) / max(elapsed, 1e-9)
        return f"{size(rate) if self.unit == 'B' else f'{rate:,.0f}'}/s" if rate >= 1 else ""

    def _left(self, elapsed: float) -> str:
        did = self.done - self._start
        if self.total and did > 0:
            return f"{_duration(elapsed * max(self.total - self.done, 0) / did)} left"
        return _duration(elapsed)

    def _show(self) -> None:
        if self._display is None:
            self._display = display_on_stderr(lines=_voice is Voice.LINES)
        elapsed = time.monotonic() - self._began
        pause = self._display.show(self.line(), elapsed)
        self._due = time.monotonic() + pause

    def end(self, *, well: bool) -> None:
        """Takes the line off the terminal; a plain one is followed by a last one if the work ended well."""
        if self._display is not None:
            self._display.end(self.line() if well else None)
        self._display, self._due = None, math.inf


@contextmanager
def progress(what: str, *, total: float | None = None, unit: str = "", done: float = 0) -> Iterator[Shown]:
    """Shows the progress of the block on stderr, once it takes longer than two seconds.

    Args:
        what: What is done, as in ``evaluating``.
        total: How much there is to do, in units; None if unknown.
        unit: The plural of what is counted, as in ``samples``; ``B`` for bytes.
        done: How much was done before, which does not count for the speed.

    Yields:
        What counts, by `Shown.advance`; may be used by any thread.
    """
    shown, well = Shown(what, total, unit, done), False
    try:
        yield shown
        well = True
    finally:
        shown.end(well=well)


def _units(amount: float, unit: str) -> str:
    return size(amount) if unit == "B" else f"{amount:,.0f} {unit}".rstrip()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
