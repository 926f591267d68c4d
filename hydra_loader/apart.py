"""The command line as a test, in a process that ends with its starter: ``python -m hydra_loader.apart FOLDER WORD...``.

Guarantees: the arguments mean what they mean to `hydra-loader`, but a config that tests no checkpoint of its own is
refused. Standard input is a pipe that the other process holds: when that process ends, in whatever way, the pipe closes
and this process ends too, with the temporary FOLDER, which that process cannot remove any more.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading

import hydra_loader

_GONE = 130
"""The exit code of a command whose starter has gone: as if it had been interrupted."""


def _end_with_the_starter(pipe: int, folder: str) -> None:
    while os.read(pipe, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(_GONE)


if __name__ == "__main__":
    _pipe = os.dup(0)
    _nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(_nothing, 0)  # the model's own code may read its input, and must not wait for the pipe
    os.close(_nothing)
    threading.Thread(target=_end_with_the_starter, args=(_pipe, sys.argv.pop(1)), daemon=True).start()
    sys.argv[0] = "hydra-loader"
    hydra_loader.main(as_test=True)
