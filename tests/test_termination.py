from __future__ import annotations

import os
import signal

import pytest

from loader.termination import terminable
from tests.command import heeded


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_lets_everything_be_tidied_up(number: signal.Signals) -> None:
    with heeded(number):
        before = signal.getsignal(number)
        with pytest.raises(SystemExit) as ended, terminable():
            os.kill(os.getpid(), number)
        assert ended.value.code == 128 + number
        assert signal.getsignal(number) == before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
