"""``python -m loader`` is ``python run.py``."""

import sys
from contextlib import suppress
from pathlib import Path

with suppress(OSError):  # the working folder may have been deleted, which the command line reports
    # It may hold the user's own `hydra.py`: the command line searches it last. Before it may lie what stands in for
    # the user's own `loader`.
    if str(Path.cwd()) in sys.path[:2]:
        sys.path.remove(str(Path.cwd()))

from .cli.main import main

if __name__ == "__main__":
    main()
