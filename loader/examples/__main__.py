"""`python -m loader.examples DIR`: writes the example files and lists them.

Guarantees: exit code 0 when all files are in the folder, 2 with the reason when they cannot be written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import ConfigError
from . import COMMAND, EXAMPLE_FILES

_ABOUT = """\
Writes nine real checkpoint files to try the loader on, the same bytes every time:

{files}

Then, for one of them: python run.py experiment=ddp    (its file is looked for in ./examples, or in $LOADER_EXAMPLES)
"""


def main(arguments: list[str] | None = None) -> None:
    """Writes the files and lists them."""
    files = "\n".join(f"  {name:<24} {about}" for name, about in EXAMPLE_FILES.items())
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=_ABOUT.format(files=files), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder to write them to; created if absent")
    folder: Path = parser.parse_args(arguments).folder
    from .files import write_examples  # noqa: PLC0415 (imports torch, which --help does not need)

    try:
        written = write_examples(folder)
    except (ConfigError, OSError) as error:
        parser.exit(2, f"{error}\n")
    for path in written:
        about = EXAMPLE_FILES.get(path.name, "golden record: digits and their logits")
        sys.stdout.write(f"{path!s:<52} {about}\n")


if __name__ == "__main__":
    main()
