"""The refusals a user can meet.

Guarantees: every refusal the public API raises is a `LoaderError`; it carries a message (what was found, where, what
was expected), a hint (the line to type, or an empty string) and the process's exit code, both texts printable and
without the credentials of URLs, and it survives pickling, so that it can cross the processes of a sweep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from loader.redaction import redacted
from loader.wording import printable

if TYPE_CHECKING:
    from loader.plan import Plan


class LoaderError(Exception):
    """Base of every refusal.

    Args:
        message: What was found, where, and what was expected.
        hint: The line to type next; empty where there is none.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = printable(redacted(message))
        self.hint = printable(redacted(hint))
        super().__init__(self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigError(LoaderError, ValueError):
    """The config or the command line is wrong."""

    exit_code = 2


class CheckpointError(LoaderError, ValueError):
    """The checkpoint cannot be read, or is refused."""

    exit_code = 3


class FitError(LoaderError, ValueError):
    """The checkpoint does not fit the model."""

    exit_code = 4
    plan: Plan | None = None
    """What a load would have done, where the keys were what did not fit."""
    proposed: bool = False
    """Whether the hint holds lines with which the file fits."""


class VerificationError(LoaderError, RuntimeError):
    """The model was loaded, and is not right."""

    exit_code = 5


class DeviceError(LoaderError, RuntimeError):
    """The device is not there."""

    exit_code = 6
