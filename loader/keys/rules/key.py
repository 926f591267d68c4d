"""The kinds of rules that change or select names.

Guarantees: pure functions of a name; a name that a rule does not hit stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from ...schema import Fate, KeyRule, Step
from ...text.wording import safe_text


@dataclass(frozen=True, slots=True)
class Strip(KeyRule):
    """Removes a prefix; `anywhere`, whole segments wherever they are."""

    strip: str
    anywhere: bool = False

    def step(self) -> Step:
        """Returns the name without the prefix."""
        return _replacing(self.strip, "", anywhere=self.anywhere)


@dataclass(frozen=True, slots=True)
class Add(KeyRule):
    """Puts a prefix in front of every name."""

    add: str

    def step(self) -> Step:
        """Returns the name behind the prefix."""
        return lambda name: self.add + name


@dataclass(frozen=True, slots=True)
class Rename(KeyRule):
    """Replaces a prefix; `anywhere`, whole segments wherever they are."""

    rename: str
    to: str
    anywhere: bool = False

    def step(self) -> Step:
        """Returns the name with the new prefix."""
        return _replacing(self.rename, self.to, anywhere=self.anywhere)


@dataclass(frozen=True, slots=True)
class Regex(KeyRule):
    """`re.sub` on the whole name."""

    regex: str
    to: str
    example: ClassVar[Mapping[str, object]] = {"regex": r"^layers\.(\d+)\.", "to": r"blocks.\1."}

    def step(self) -> Step:
        """Returns the name after the substitution; raises ValueError for an invalid expression."""
        try:
            pattern = re.compile(self.regex)
            pattern.sub(self.to, "")
        except (re.error, IndexError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"the regular expression {safe_text(self.regex)!r} with to: {safe_text(self.to)!r} does not work: "
                f"{safe_text(error)}"
            ) from error
        return _substituting(pattern, self.to)


@dataclass(frozen=True, slots=True)
class Drop(KeyRule):
    """Drops the names that match a glob."""

    drop: str

    def step(self) -> Step:
        """Drops a name that matches."""
        return lambda name: Fate.DROPPED if fnmatchcase(name, self.drop) else None


@dataclass(frozen=True, slots=True)
class Keep(KeyRule):
    """Drops the names that match neither this glob nor that of another such rule."""

    keep: str
    exclusive: ClassVar[bool] = True

    def step(self) -> Step:
        """Keeps a name that matches."""
        return lambda name: Fate.KEPT if fnmatchcase(name, self.keep) else None


def _replacing(prefix: str, to: str, *, anywhere: bool) -> Step:
    if not anywhere:
        return lambda name: to + name[len(prefix) :] if name.startswith(prefix) else None
    # Whole segments only: `module.` is not the end of `my_module.`. A stripped segment takes its dot along.
    end = "" if prefix.endswith(".") else (r"(?=\.|$)" if to else r"(?:\.|$)")
    return _substituting(re.compile(rf"(?:^|(?<=\.)){re.escape(prefix)}{end}"), lambda _: to)


def _substituting(pattern: re.Pattern[str], to: object) -> Step:
    def step(name: str) -> str | None:
        following, count = pattern.subn(to, name)  # type: ignore[call-overload]  # a text or a function
        return following if count else None

    return step
