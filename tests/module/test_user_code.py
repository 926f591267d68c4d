"""What a model's own code raises is a refusal, wherever the loader calls it."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import loader
from loader.errors import LoaderError
from loader.module.user_code import bare_arguments, own_code_refused
from tests.jobs import carry_out, save


class OddError(Exception):
    """Raises again when it is looked at."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.inner(x)
        return result


class OddConstructor(Base):
    def __init__(self) -> None:
        raise OddError


class LeavingConstructor(Base):
    def __init__(self) -> None:
        raise GeneratorExit("left")


class ExitingHook(Base):
    def _load_from_state_dict(self, *_: Any) -> None:
        sys.exit(0)


class OddHook(Base):
    def _load_from_state_dict(self, *_: Any) -> None:
        raise OddError


class ExitingPostHook(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(lambda *_: sys.exit(0))  # type: ignore[no-untyped-call]


class ExitingExtraState(Base):
    def get_extra_state(self) -> Any:
        sys.exit(0)

    def set_extra_state(self, _state: Any) -> None: ...


class ExitsOnExtraState(Base):
    def get_extra_state(self) -> Any:
        return {}

    def set_extra_state(self, _state: Any) -> None:
        sys.exit(0)


class RefusesMode(Base):
    def train(self, _mode: bool = True) -> Any:
        raise RuntimeError("no other mode")


class ExitsOnEval(Base):
    def eval(self) -> Any:
        sys.exit(3)


class OddParameters(Base):
    def named_parameters(self, *_: Any, **__: Any) -> Any:
        raise OddError


class OddModules(Base):
    def modules(self, *_: Any) -> Any:
        raise OddError


class Unhashable(Base):
    def __hash__(self) -> int:
        raise OddError


ODD = "OddError: no text: its __str__ raised RuntimeError"
CASES: list[tuple[type[Base], int, str]] = [
    (OddConstructor, 2, f"model: the constructor of tests.module.test_user_code.OddConstructor raised {ODD} ("),
    (
        LeavingConstructor,
        2,
        "the constructor of tests.module.test_user_code.LeavingConstructor raised GeneratorExit: left (",
    ),
    (ExitingHook, 4, "the load hook of ExitingHook at '' raised SystemExit: 0"),
    (OddHook, 4, f"the load hook of OddHook at '' raised {ODD}"),
    (ExitingPostHook, 4, "a load hook of ExitingPostHook raised SystemExit: 0"),
    (ExitsOnExtraState, 4, "set_extra_state of ExitsOnExtraState raised SystemExit: 0"),
    (RefusesMode, 2, "RefusesMode.train, the model's own code, raised RuntimeError: no other mode ("),
    (ExitsOnEval, 2, "ExitsOnEval.eval, the model's own code, exited: it called sys.exit(3) ("),
    (OddParameters, 2, f"OddParameters.named_parameters, the model's own code, raised {ODD} ("),
    (OddModules, 2, f"OddModules.modules, the model's own code, raised {ODD} ("),
    (Unhashable, 2, f"Unhashable.__hash__, the model's own code, raised {ODD} ("),
]


def file(tmp_path: Path) -> Path:
    extra = {"_extra_state": {"a": 1}}
    return save({"inner.weight": torch.ones(3, 2), "inner.bias": torch.ones(3), **extra}, tmp_path / "a.pt")


@pytest.mark.parametrize(("kind", "code", "message"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_whatever_a_model_does_is_a_refusal_with_its_class(
    kind: type[Base], code: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(LoaderError) as caught:
        carry_out({"_target_": f"{__name__}.{kind.__name__}"}, file(tmp_path))
    assert message in caught.value.message
    assert caught.value.exit_code == code


@pytest.mark.parametrize("kind", [ExitingHook, ExitingExtraState, OddModules, Unhashable])
def test_a_live_module_may_do_the_same(kind: type[Base], tmp_path: Path) -> None:
    with pytest.raises(LoaderError):
        loader.load_into(kind(), file(tmp_path))


def raised(what: Any, *arguments: Any) -> None:
    """Calls something as a module of the loader's would."""
    with own_code_refused():
        exec("what(*arguments)", {"__name__": "loader.job", "what": what, "arguments": arguments})


def test_a_fault_of_the_loaders_own_stays_one() -> None:
    def stands_in(_module: nn.Module) -> None:
        raise ZeroDivisionError

    for what in (stands_in, sys.exit):
        with pytest.raises((ZeroDivisionError, SystemExit)):
            raised(what, Base())
    with pytest.raises(IndexError):
        raised(nn.Sequential.__getitem__, nn.Sequential(), 3)


def test_an_interruption_passes() -> None:
    class Interrupted(Base):
        def eval(self) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        raised(Interrupted().eval)


class Parses(Base):
    """Has arguments of its own, as scripts that hold a model have."""

    def __init__(self) -> None:
        super().__init__()
        self.given = argparse.ArgumentParser().parse_args()


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    typed = ["run.py", "model._target_=x", "-m"]
    monkeypatch.setattr(sys, "argv", typed)
    yield typed
    assert sys.argv is typed


@pytest.mark.usefixtures("arguments")
def test_a_model_does_not_see_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import argparse\nargparse.ArgumentParser().parse_args()\nfrom tests.module.test_user_code import Parses\n"
    (tmp_path / "zz_parses.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    loaded = carry_out({"_target_": "zz_parses.Parses"}, file(tmp_path), allow={"unexpected": ["_extra_state"]})
    assert vars(loaded.model.given) == {}


def test_threads_that_put_the_arguments_aside_give_them_back(arguments: list[str]) -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with bare_arguments():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with bare_arguments():
        thread.start()
        inside.wait()
    assert sys.argv == ["run.py"]
    leave.set()
    thread.join()
    assert sys.argv is arguments
