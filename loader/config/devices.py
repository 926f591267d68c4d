"""``device=cuda:*``: every CUDA device there is.

Guarantees: this process imports no torch. A machine without a GPU's driver is known at once; on any other, torch itself
says in a process of its own how many devices it sees, so that CUDA_VISIBLE_DEVICES and torch's build count. Where there
is none, the value stays as it was typed, for the job to refuse.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import sys
from pathlib import Path

EVERY = "cuda:*"
"""The value that stands for every CUDA device."""

_DRIVERS = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1",)
_ROCM = Path("/dev/kfd")
_ASK = "import torch; print(torch.cuda.device_count())"
_PATIENCE = 300
"""Seconds that torch may take to be imported."""


def each_device(value: str) -> list[str]:
    """Returns the devices that a value names: itself, or every CUDA device for ``cuda:*``."""
    if value.strip() != EVERY:
        return [value]
    return [f"cuda:{index}" for index in range(cuda_devices())] or [EVERY]


@functools.cache
def cuda_devices() -> int:
    """Returns how many CUDA devices torch sees."""
    if not _has_driver():
        return 0
    # -P: a file of the user's in the working folder hides no module.
    command = [sys.executable, "-P", "-c", _ASK]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)  # noqa: S603  # this interpreter
    except (OSError, subprocess.TimeoutExpired):
        return 0
    answer = asked.stdout.split()
    return int(answer[-1]) if asked.returncode == 0 and answer else 0  # why torch fails, the job itself will say


def _has_driver() -> bool:
    for name in _DRIVERS:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return _ROCM.exists()
