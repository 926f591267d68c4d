"""The JSON Schemas of the config, the report and the summary on stdout: ``--schema config``.

Guarantees: the text is that of a file of the package; nothing is composed, and torch is not imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..text.lines import Fix, program
from ..text.wording import closest, did_you_mean, safe_text

FLAG = "--schema"
NAMES = ("config", "report", "summary")
"""What has a schema."""

_FOLDER = Path(__file__).resolve().parents[1] / "schemas"


def asked(flags: Sequence[str]) -> str | None:
    """Returns the name behind the last ``--schema``, empty if there is none; None without the flag."""
    name = None
    for number, flag in enumerate(flags):
        if flag == FLAG:
            name = "".join(flags[number + 1 : number + 2])
        elif flag.startswith(f"{FLAG}="):
            name = flag.removeprefix(f"{FLAG}=")
    return name


def schema(name: str) -> str:
    """Returns the text of a schema.

    Raises:
        ConfigError: There is no schema of this name.
    """
    if name not in NAMES:
        found = f"there is no schema '{safe_text(name)}'{did_you_mean(name, NAMES)}" if name else f"{FLAG} has no name"
        meant = (closest(name, NAMES, most=1) or NAMES)[0]
        fix = Fix(f"{program()} {FLAG} {meant}", "prints the JSON Schema")
        raise ConfigError(f"{found}, expected one of {', '.join(NAMES)}", fix)
    return (_FOLDER / f"{name}.json").read_text(encoding="utf-8")
