"""A dry run of a sweep: the table of its jobs, each with the line that runs it alone.

Guarantees: nothing is run or written. A line is on one line of the terminal's text, however long it is, so that it can
be copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from ..config.rewrite import readable
from ..errors import ConfigError
from ..text.lines import line
from ..text.redaction import redacted
from ..text.wording import counted, safe_text
from .command import Start, command_of
from .swept import swept_values

_LONGEST = 200


def show_jobs(jobs: Sequence[Sequence[str]], start: Start) -> None:
    """Prints the jobs of a sweep: their numbers, what differs between them, and their commands.

    Args:
        jobs: The overrides of each job, for Hydra.
        start: How the sweep was started.
    """
    typed = dict(enumerate(map(readable, jobs)))
    values = swept_values(typed)
    keys = list(dict.fromkeys(key for own in values.values() for key in own))
    rows = [["job", *keys, "command"]]
    rows += [[str(job), *_cells(values[job], keys), _command(start, job, typed[job])] for job in typed]
    widths = [max(len(row[column]) for row in rows) for column in range(len(keys) + 1)]
    lines = ["  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows]
    lines.append(f"{counted(len(jobs), 'job')}; a dry run starts none")
    Console(highlight=False).print(Text("\n".join(lines)), soft_wrap=True)


def refuse_unknown(sweeper: str) -> ConfigError:
    """Returns the refusal of a dry run whose sweeper chooses the jobs as results come in."""
    name = safe_text(sweeper.rpartition(".")[2], _LONGEST)
    return ConfigError(
        f"sweep.dry_run lists the jobs before they run, and {name} chooses them as results come in",
        line("sweep.dry_run", value=False, note="runs the sweep"),
    )


def _cells(values: Mapping[str, object], keys: Sequence[str]) -> list[str]:
    shown = {key: "null" if value is None else redacted(str(value)) for key, value in values.items()}
    return [safe_text(shown.get(key, ""), _LONGEST) for key in keys]


def _command(start: Start, job: int, overrides: Sequence[str]) -> str:
    made = command_of(start, job, overrides)
    return "   # ".join(part for part in (made.line, made.note) if part)
