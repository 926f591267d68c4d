"""``python -m loader`` is ``python run.py``."""

import sys
from contextlib import suppress
from pathlib import Path

with suppress(OSError):  # the working folder may have been deleted, which the command line reports
    # It may hold the user's own `hydra.py`: the command line searches it last.
    if sys.path[0] == str(Path.cwd()):
        del sys.path[0]

from .cli.main import main

if __name__ == "__main__":
    main()
