"""What a file would have imported, told without importing anything."""

from __future__ import annotations

import sys

import pytest
import torch

from loader.formats.pickle.globals import is_plain, needed_globals
from loader.formats.pickle.records import Global
from loader.trust import is_hostile
from tests.command import REPOSITORY, run


def test_every_constant_of_torch_is_plain_data() -> None:
    kinds = (torch.dtype, torch.layout, torch.memory_format, torch.qscheme)
    names = [name for name in dir(torch) if isinstance(getattr(torch, name), kinds)]
    assert len(names) > 60
    assert [name for name in names if not is_plain(Global("torch", name))] == []


@pytest.mark.parametrize("name", ["load", "float32.__class__", "nn", "hub"])
def test_what_else_torch_has_is_not(name: str) -> None:
    assert needed_globals([Global("torch", name)]) == [f"torch.{name}"]


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "__builtin__.getattr", "subprocess.Popen", "a b.c"])
def test_names_that_only_an_attack_needs_are_known(name: str) -> None:
    assert is_hostile(name)


@pytest.mark.parametrize("name", ["torch.nn.modules.linear.Linear", "builtins.set", "my_pkg.Net"])
def test_names_that_models_need_are_none_of_them(name: str) -> None:
    assert not is_hostile(name)


def test_telling_it_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from loader.formats.pickle.globals import needed_globals\n"
        "from loader.formats.pickle.records import Global\n"
        "print(needed_globals([Global('torch', 'float32'), Global('a', 'b')]), 'torch' in sys.modules)"
    )
    assert run(sys.executable, "-c", code, cwd=REPOSITORY).stdout == "['a.b'] False\n"
