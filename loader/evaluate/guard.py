"""Turns what a user's data, step or metric raises into a refusal that names it.

Guarantees: whatever such code raises, its exit included, becomes one `VerificationError` with the exception, its place
in the code and the batch; an interruption by the user and the end of memory pass, so that the one ends the job and the
other can be answered with smaller batches.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import VerificationError
from ..module.user_code import in_one_line
from ..runtime import is_termination
from ..text.lines import Fix
from ..text.wording import text_of

_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, HIP, XPU and MPS
    "can't allocate memory",
    "not enough memory",
    "CUDNN_STATUS_NOT_SUPPORTED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Texts of the errors by which torch's backends say that memory ran out."""


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an exception says that the memory of the machine or of a device ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in text_of(error) for text in _OUT_OF_MEMORY)


@contextmanager
def guarded(
    what: str, home: str, at: str = "", fixes: Iterable[Fix] | Callable[[BaseException], Iterable[Fix]] = ()
) -> Iterator[None]:
    """Refuses what the code in the block raises.

    Args:
        what: What the code is, with its place in the config.
        home: The dotted name of the code, to find its line.
        at: Which batch it was given.
        fixes: What to type, if need be by what was raised.

    Raises:
        VerificationError: The code raised, or called `sys.exit`.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or is_termination(error) or is_out_of_memory(error):
            raise
        verb = "exited:" if isinstance(error, SystemExit) else "raised"
        place = f", {at}" if at else ""
        chosen = fixes(error) if callable(fixes) else fixes
        refusal = VerificationError(f"{what} {verb} {in_one_line(error, home)}{place}", *chosen)
        # A context manager lets a StopIteration pass, instead of a RuntimeError that it caused.
        raise refusal from (None if isinstance(error, StopIteration) else error)


def free(device: torch.device) -> None:
    """Gives memory back that nothing uses any more."""
    gc.collect()
    module: Any = getattr(torch, device.type, None)
    if device.type != "cpu" and hasattr(module, "empty_cache"):
        module.empty_cache()
