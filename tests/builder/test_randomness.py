"""The random states of the process."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from loader.builder.hollow import seeded
from tests.command import run


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def seed_all() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def test_a_seed_gives_the_same_numbers_and_the_states_are_put_back() -> None:
    seed_all()
    expected = draws()
    seed_all()
    found = []
    for seed in (7, 7, 2**40):
        with seeded(seed):
            found.append(draws())
    assert found[0] == found[1] != found[2]
    with pytest.raises(KeyError), seeded(7):
        raise KeyError
    assert draws() == expected


def test_a_process_whose_numpy_is_blocked_does_without(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["numpy"] = None
import torch
from loader.builder.hollow import seeded
with seeded(0):
    drawn = torch.rand(())
print(torch.equal(drawn, torch.rand((), generator=torch.Generator().manual_seed(0))))
"""
    assert run(sys.executable, "-W", "ignore", "-c", code, cwd=tmp_path).stdout == "True\n"
