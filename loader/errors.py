"""The refusals a user can meet.

Guarantees: every refusal the public API raises is a `LoaderError`; it carries a message (what was found, where, what
was expected), fixes (the lines to type) and the process's exit code. Its texts are printable and hold no credentials
of URLs, and it survives pickling, so that it can cross the processes of a sweep.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from .runtime import is_termination
from .text.lines import Fix
from .text.redaction import redacted
from .text.wording import printable, safe_text

if TYPE_CHECKING:
    from .keys.plan import Plan

INTERRUPTED = 130
"""The exit code after an interruption by the user."""


class LoaderError(Exception):
    """Base class of every refusal.

    Args:
        message: What was found, where, and what was expected.
        fixes: What to type next, or to do, best first; empty ones are left out.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *fixes: Fix) -> None:
        self.message = printable(redacted(message))
        self.fixes = tuple(dict.fromkeys(Fix(_one_line(fix.line), _one_line(fix.note)) for fix in fixes if fix))
        super().__init__(self.message, *self.fixes)

    @property
    def hint(self) -> str:
        """The fixes as text, one per line."""
        return "\n".join(map(str, self.fixes))

    def __repr__(self) -> str:
        # Hydra's `instantiate` shows what a call raised by its repr.
        return f"{type(self).__name__}: {self}"

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


def _one_line(text: str) -> str:
    return printable(redacted(text)).replace("\n", "\\n")


class ConfigError(LoaderError, ValueError):
    """The config or the command line is invalid."""

    exit_code = 2


class Problems:
    """Collects config errors, to report them in one refusal.

    Args:
        separator: Separates their messages.
    """

    def __init__(self, separator: str = "; ") -> None:
        self._separator = separator
        self._messages: list[str] = []
        self._fixes: list[Fix] = []

    def __len__(self) -> int:
        """Returns the number of problems."""
        return len(self._messages)

    def add(self, message: str, *fixes: Fix) -> None:
        """Adds one problem and what to type for it."""
        self._messages.append(message)
        self._fixes += fixes

    def add_fixes(self, *fixes: Fix) -> None:
        """Adds what to type for a problem that is already added."""
        self._fixes += fixes

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Adds a ConfigError that is raised inside, instead of passing it on."""
        try:
            yield
        except ConfigError as error:
            self.add(error.message, *error.fixes)

    def raise_any(self, *fixes: Fix) -> None:
        """Raises ConfigError with all problems, if there are any, and with further fixes for all of them."""
        if self._messages:
            raise ConfigError(self._separator.join(self._messages), *self._fixes, *fixes)


class CheckpointError(LoaderError, ValueError):
    """The checkpoint cannot be read, or is refused."""

    exit_code = 3
    another = False
    """Whether it is another file than its digest says."""
    key = ""
    """The key that was being read, until the file's name is known too."""

    def locate(self, file: str = "", key: str = "") -> None:
        """Adds the file, and the key in it, to a message that does not name the file.

        Args:
            file: The file's name in messages; empty if it is not known yet.
            key: The key; the first one given counts.
        """
        self.key = self.key or key
        path = file.partition(" under '")[0]
        folder = path.rpartition("/")[0]
        if not path or path in self.message or (folder and f"{folder}/" in self.message):
            return
        where = f"{file}, '{safe_text(self.key)}'" if self.key else file
        self.message = printable(redacted(f"{where}: {self.message}"))
        self.args = (self.message, *self.fixes)


@contextmanager
def located(file: str, key: str = "") -> Iterator[None]:
    """Adds the file and the key to refusals raised in the block by code that knows neither."""
    try:
        yield
    except CheckpointError as error:
        error.locate(file, key)
        raise


@contextmanager
def blamed(code: str, refusal: type[LoaderError], *fixes: Fix) -> Iterator[None]:
    """Turns whatever code from outside this package raises in the block, or its exit, into a refusal that names it.

    The loader's own refusals and termination signals pass; a bare LoaderError is not one of its own.

    Args:
        code: What the code is and where it comes from, for the message.
        refusal: The class of the refusal.
        fixes: What to type or to do.
    """
    try:
        yield
    except (Exception, SystemExit) as error:  # the code of others may raise anything
        if is_termination(error) or (isinstance(error, LoaderError) and type(error) is not LoaderError):
            raise
        raise refusal(f"{code} failed with {type(error).__name__}: {safe_text(error, 200)}", *fixes) from error


class FitError(LoaderError, ValueError):
    """The checkpoint does not fit the model."""

    exit_code = 4
    plan: Plan | None = None
    """What a load would have done, if the keys did not fit."""
    proposed: bool = False
    """Whether the file fits with one of the fixes."""


class VerificationError(LoaderError, RuntimeError):
    """The model was loaded, but its verification failed."""

    exit_code = 5


class DeviceError(LoaderError, RuntimeError):
    """The device is unknown or absent."""

    exit_code = 6
