"""`python -m loader.examples DIR`: writes the example files and lists them.

Guarantees: exit code 0 when all files are in the folder, 2 with the reason when they cannot be written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigError
from . import COMMAND, EXAMPLE_FILES, TENSOR_FILES

_ABOUT = """\
Writes nine real checkpoint files to try the loader on, the same bytes every time:

{files}

and some whose tensors, not only their names, differ from the model's:

{tensors}

Then, for one of them: python run.py experiment=ddp    (its file is looked for in ./examples, or in $LOADER_EXAMPLES)
"""


def main(arguments: list[str] | None = None) -> None:
    """Writes the files and lists them."""
    listed = _ABOUT.format(files=_listed(EXAMPLE_FILES), tensors=_listed(TENSOR_FILES))
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=listed, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder to write them to; created if absent")
    folder: Path = parser.parse_args(arguments).folder
    from .files import write_examples  # noqa: PLC0415 (imports torch, which --help does not need)

    try:
        written = write_examples(folder)
    except (ConfigError, OSError) as error:
        parser.exit(2, f"{error}\n")
    known = {**EXAMPLE_FILES, **TENSOR_FILES}
    for path in written:
        name = path.relative_to(folder).as_posix()
        other = (
            "golden record: inputs and their outputs" if name.endswith(".safetensors") else "settings of the adapter"
        )
        sys.stdout.write(f"{path!s:<52} {known.get(name, other)}\n")


def _listed(files: Mapping[str, str]) -> str:
    width = max(map(len, files))
    return "\n".join(f"  {name:<{width}}  {about}" for name, about in files.items())


if __name__ == "__main__":
    main()
