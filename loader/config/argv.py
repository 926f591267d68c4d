"""The command line, sorted into flags and overrides.

Guarantees: flags go to Hydra unchanged, with their values; a note behind a pasted line is ignored.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from ..text.lines import Fix, typed
from ..text.wording import safe_text

_VALUE_FLAGS = re.compile(r"--cfg|-c|--package|-p|--config-(path|name|dir)|-c[pnd]|--experimental-rerun|--schema")
_INFO_FLAGS = ("--info", "-i")
_COMPLETION_FLAGS = ("--shell-completion", "-sc")
_SHOW_FLAGS = ("--cfg", "-c", *_INFO_FLAGS, "--help", "-h", "--hydra-help", "--version", "--schema", *_COMPLETION_FLAGS)
"""Flags with which nothing runs."""
_JSON = "--json"
"""The loader's own flag; the others are Hydra's."""
_SETTING = re.compile(r"[~+]*sweep([.=@]|$)")
_LONGEST = 400
_NOTE = "#"
"""Begins the note behind a pasted line: zsh has no comments at a prompt, and passes notes on as words."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """A parsed command line."""

    flags: list[str]
    typed: list[str]
    sweep: bool
    completion: bool
    json: bool = False
    """Whether the report goes to stdout as JSON."""
    as_test: bool = False
    """Whether a job has to test a checkpoint that its config chooses."""

    @property
    def shows(self) -> bool:
        """Whether the command only shows something and runs nothing."""
        return any(flag.partition("=")[0] in _SHOW_FLAGS for flag in self.flags)

    def as_sweep(self) -> Arguments:
        """Returns the same arguments, read as those of a sweep; raises ConfigError if flags contradict that."""
        if self.json:
            instead = "summary.json in the sweep's folder names the report.json of each job"
            raise ConfigError(
                f"{_JSON} prints the report of one run, and a sweep has several",
                Fix(note=f"the same line without {_JSON}: {instead}"),
            )
        return dataclasses.replace(self, sweep=True)

    def refused_as_single_run(self) -> ConfigError | None:
        """Returns why these arguments are not valid for a single run, unless a config makes it a sweep; None if so."""
        settings = [] if self.sweep or self.shows else [one for one in self.typed if _SETTING.match(one)]
        if not settings:
            return None
        return ConfigError(
            f"'{safe_text(settings[0], _LONGEST)}' is a setting of a sweep, and this is a single run",
            typed("-m", *settings, note="a sweep, of one job or more"),
        )


def is_multirun(flag: str) -> bool:
    """Returns whether a flag is ``--multirun``, which may be cut short."""
    return flag == "-m" or (len(flag) > 3 and "--multirun".startswith(flag))


def without_note(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments before the first one that is exactly ``#``."""
    return list(itertools.takewhile(lambda argument: argument != _NOTE, arguments))


def parse_arguments(arguments: Sequence[str]) -> Arguments:
    """Separates flags, with their values, from overrides, and ignores a note behind them.

    Raises:
        ConfigError: Flags contradict each other.
    """
    arguments = without_note(arguments)
    flags: list[str] = []
    typed: list[str] = []
    queue = [argument for argument in arguments if argument != _JSON]
    json = len(queue) < len(arguments)
    while queue:
        argument = queue.pop(0)
        if not argument.startswith("-"):
            typed.append(argument)
            continue
        flags.append(argument)
        takes_next = _VALUE_FLAGS.fullmatch(argument) or (
            argument in _INFO_FLAGS and queue and not re.search("=|^-", queue[0])
        )
        if takes_next and queue:
            flags.append(queue.pop(0))
    sweep = any(map(is_multirun, flags))
    sweep = sweep or any(override.lstrip("+").lower() == "hydra.mode=multirun" for override in typed)
    parsed = Arguments(flags, typed, False, any(flag in _COMPLETION_FLAGS for flag in flags), json)
    return parsed.as_sweep() if sweep else parsed
