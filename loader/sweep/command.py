"""The line that runs one job of a sweep alone.

Guarantees: through a POSIX shell and the command line's own reading, the line gives the job the overrides that it had
in the sweep; nothing in them is expanded or run on the way. No line holds a secret or a control character: the row says
what must be filled in, or why there is no line.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..config.argv import Arguments, is_multirun
from ..config.layers import VARIABLE
from ..text.lines import for_shell
from ..text.redaction import HIDDEN, redacted
from ..text.wording import is_printable, safe_text
from .swept import swept_by_config, swept_in

_OF_A_SWEEP = re.compile(
    r"[~+]*(sweep|hydra\.(mode|sweep|sweeper|launcher)|hydra/(sweeper|launcher)(@[\w.]+)?)([.=].*)?", re.DOTALL
)
"""Overrides that only a sweep has."""

_NUMBER = re.compile(r"\$\{hydra[.:]job\.(num|id)\}")
"""Interpolations of the job's number, which a single run does not have."""

_CONFIG_DIR = re.compile(r"(--config-dir|-cd)(=.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Start:
    """How a sweep was started, as far as each of its jobs alone is started in the same way."""

    program: tuple[str, ...] = ("hydra-loader",)
    """The words before the arguments."""
    flags: tuple[str, ...] = ()
    """Hydra's flags, with their values, without `--multirun`."""
    settings: tuple[str, ...] = ()
    """Overrides of Hydra's own settings."""
    swept: tuple[str, ...] = ()
    """Keys that are swept even if all jobs have one value: a glob over files may match only one."""
    numbered: bool = False
    """Whether the config uses the job's number."""

    @classmethod
    def of(cls, arguments: Arguments) -> Start:
        """Describes this process's command."""
        flags = [flag for flag in arguments.flags if not is_multirun(flag)]
        folder = os.environ.get(VARIABLE)
        if folder and not any(map(_CONFIG_DIR.fullmatch, flags)):
            flags += ["--config-dir", folder]
        swept = swept_in(arguments.typed)
        return cls(_program(), tuple(flags), tuple(filter(_is_setting, arguments.typed)), tuple(swept))

    def with_config(self, config: str, params: Mapping[str, str] | None = None, *, multirun: bool) -> Start:
        """Adds what only the sweep's config says.

        Args:
            config: The unresolved config, as text.
            params: Its ``hydra.sweeper.params``, in Hydra's grammar.
            multirun: Whether the config makes it a sweep, whatever the command line is.
        """
        settings = (*self.settings, "hydra.mode=RUN") if multirun else self.settings
        swept = (*self.swept, *swept_by_config(params or {}))
        return replace(self, settings=settings, swept=swept, numbered=_NUMBER.search(config) is not None)


@dataclass(frozen=True, slots=True)
class Command:
    """A line to paste, or why there is none."""

    line: str | None
    note: str = ""
    """Why there is no line, or what to fill in; empty if it can be pasted as it is."""


def command_of(start: Start, job: int, overrides: Iterable[str]) -> Command:
    """Writes the line that runs one job alone.

    Args:
        start: How the sweep was started.
        job: The job's number.
        overrides: The job's, as typed.
    """
    own = [override for override in overrides if not _OF_A_SWEEP.fullmatch(override)]
    numbered = start.numbered or any(map(_NUMBER.search, own))
    number = [f"hydra.job.num={job}", f"hydra.job.id={job}"] if numbered else []
    words = [*start.program, *own, *start.settings, *number, *start.flags]
    unprintable = next((word for word in words if not is_printable(word)), None)
    if unprintable is not None:
        key = safe_text(unprintable.partition("=")[0])
        return Command(None, f"no command: {key} has control characters, or others that cannot be typed")
    shown = [redacted(word) for word in words]
    secret = next((new for old, new in zip(words, shown, strict=True) if new != old or _is_hidden(new)), None)
    note = f"type the credentials of the URL in {secret.partition('=')[0]} in place of {HIDDEN}" if secret else ""
    return Command(for_shell(shown), note)


def _is_hidden(word: str) -> bool:
    """Returns whether credentials were left out of a word before, as in a record that another process wrote."""
    return ":/" in word and HIDDEN in word


def _is_setting(override: str) -> bool:
    key = override.lstrip("~+")
    return key.startswith(("hydra.", "hydra/")) and not _OF_A_SWEEP.fullmatch(override)


def _program() -> tuple[str, ...]:
    """Returns the words that start this program as it was started."""
    name = sys.argv[0]
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    if module is not None and _is_same(module.origin or "", name):
        return (_interpreter(), "-m", module.name.removesuffix(".__main__"))
    if name.endswith(".py"):
        return (_interpreter(), name)
    found = shutil.which(Path(name).name)
    if found is not None and _is_same(found, name):
        return (Path(name).name,)
    return (name,) if os.access(name, os.X_OK) and os.sep in name else ("hydra-loader",)


def _interpreter() -> str:
    """Returns ``python`` if that starts this interpreter, else its path."""
    found = shutil.which("python")
    same = found is not None and _is_same(os.path.dirname(found), os.path.dirname(sys.executable))  # noqa: PTH120
    return "python" if same else sys.executable


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121  # either may be any text
    except (OSError, ValueError):
        return False
