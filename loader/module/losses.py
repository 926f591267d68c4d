"""Casts that lose more than precision.

Guarantees: a loss is refused by the names of what would lose it, unless the user admits it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..apply.place import Loss
from ..errors import FitError
from ..schema import AllowConfig
from ..text.lines import line
from ..text.wording import phrases, safe_text

_MOST_GLOBS = 3
# Signs that mean something in a glob, or that no command line may carry.
_SPECIAL = re.compile(r"[^A-Za-z0-9_./-]")


@dataclass(frozen=True, slots=True)
class Cast:
    """A tensor whose dtype was changed on the way."""

    key: str
    checkpoint: str
    model: str
    loss: Loss


def refuse_losses(casts: Iterable[Cast], allow: AllowConfig, instead: str) -> None:
    """Refuses casts that change values.

    Args:
        casts: All of them.
        allow: `allow.mismatched` admits them.
        instead: The line that does without the cast.

    Raises:
        FitError: A cast loses values.
    """
    lossy = [cast for cast in casts if cast.loss]
    refused = [cast for cast in lossy if not any(fnmatchcase(cast.key, glob) for glob in allow.mismatched)]
    if refused:
        told = [f"{safe_text(c.key)} ({c.checkpoint} → {c.model}: {c.loss})" for c in refused]
        globs = [_SPECIAL.sub("?", c.key) for c in refused] if len(refused) <= _MOST_GLOBS else ["*"]
        raise FitError(
            f"a cast would change values: {phrases(told)}",
            f"{instead}; {line('allow.mismatched', globs)} takes the loss",
        )
