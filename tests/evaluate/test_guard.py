"""What code of the user's raises, as a refusal."""

from __future__ import annotations

import asyncio

import pytest
import torch

from loader.errors import ConfigError, VerificationError
from loader.evaluate.guard import free, guarded
from loader.text.lines import Fix


class MuteError(RuntimeError):
    def __str__(self) -> str:
        raise ValueError("no words")


class OwnSignal(BaseException):
    """Not an Exception, as some libraries' own signals are."""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("bad\nvalue \x1b[31m"), "raised ValueError: bad value \\x1b[31m ("),
        (SystemExit(3), "exited: it called sys.exit(3) ("),
        (SystemExit(), "exited: it called sys.exit() ("),
        (MuteError(), "raised MuteError: no text: its __str__ raised ValueError ("),
        (
            ConfigError("a loader inside of the data refuses"),
            "raised ConfigError: a loader inside of the data refuses ",
        ),
        (OwnSignal("stop"), "raised OwnSignal: stop ("),
        (asyncio.CancelledError(), "raised CancelledError: "),
        (StopIteration(), "raised StopIteration: "),
    ],
)
def test_whatever_is_raised_becomes_one_refusal(error: BaseException, text: str) -> None:
    with pytest.raises(VerificationError) as refusal, guarded("my data", __name__, "in batch 2", [Fix("a=b")]):
        raise error
    assert refusal.value.message.startswith(f"my data {text}")
    assert refusal.value.message.endswith("test_guard.py:42), in batch 2")
    assert refusal.value.fixes == (Fix("a=b"),)
    assert refusal.value.__cause__ is (None if isinstance(error, StopIteration) else error)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_interruptions_and_the_end_of_memory_pass(error: BaseException) -> None:
    with pytest.raises(type(error)), guarded("my data", __name__):
        raise error


def test_memory_is_given_back_on_any_device() -> None:
    for device in ("cpu", "meta"):
        free(torch.device(device))
