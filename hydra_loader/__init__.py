"""The name of the loader that never clashes with a user's own `loader`.

Guarantees: where `import loader` finds this project's package, the names here are the same objects as there
(`hydra_loader.load is loader.load`). Where it finds the user's own `loader.py` or `loader/`, the package runs under
this name instead, and `loader` stays the user's. The decision is made once in a process, when the first name is needed;
the command line also considers the working folder, and hands its decision to the processes that it starts. The modules
of this folder itself (`pytest_plugin`) need no decision.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from loader import *  # noqa: F403

USERS_FOLDER = "HYDRA_LOADER_USERS_FOLDER"
"""Environment variable that hands the folder of the user's own `loader` to other processes."""

_NAME = "hydra_loader"
_OWN = Path(__file__).resolve().parent
_HOME = _OWN.parent
_PACKAGE = _HOME / "loader"
__path__ = [str(_PACKAGE)]
if __spec__ is not None:
    __spec__.submodule_search_locations = __path__


def main(*, as_test: bool = False) -> NoReturn:
    """Runs the command line and ends the process with its exit code; the entry point of the console script.

    Args:
        as_test: Whether a job is refused that tests no checkpoint of its own.
    """
    _Names.decide(_working_folder())
    sys.exit(importlib.import_module(f"{_NAME}.cli.main").run_command(sys.argv[1:], as_test=as_test))


def users_folder() -> str:
    """The folder of the user's own `loader`; empty if there is none, and `loader` is this project's package."""
    return _Names.users or ""


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name not in {"__all__", "__version__"}:
        raise AttributeError(f"module {_NAME!r} has no attribute {name!r}")
    if _Names.decide():
        return globals()[name] if name in globals() else globals()["__getattr__"](name)
    return getattr(importlib.import_module("loader"), name)


class _Names(MetaPathFinder):
    """Finds the package's modules under its second name, and the user's own `loader` where the package has made way."""

    users: str | None = None
    """The folder of the user's own `loader`, an empty string where there is none; None before the decision."""

    @classmethod
    def decide(cls, folder: str = "") -> bool:
        """Decides whether `loader` is the user's own; if it is, the package is loaded under this name.

        Args:
            folder: Where the user's own may be although Python's path leads to this package first.
        """
        if cls.users is None:
            cls.users = os.environ.get(USERS_FOLDER) or _found() or folder
            if cls.users:
                # Processes that the user's own code spawns get this path and environment, and no finder.
                os.environ[USERS_FOLDER] = cls.users
                sys.path.insert(0, str(Path(__file__).parent / "users"))
                SourceFileLoader(_NAME, str(_PACKAGE / "__init__.py")).exec_module(sys.modules[_NAME])
        return bool(cls.users)

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """As Python's import system asks for it."""
        if name == "loader" and self.users:
            return PathFinder.find_spec(name, [self.users])
        own = _OWN / f"{name.removeprefix(f'{_NAME}.')}.py"
        if name.startswith(f"{_NAME}.") and own.is_file():
            # The plugin of pytest, which runs before it is known whether the project has a `loader` of its own.
            return importlib.util.spec_from_file_location(name, own)
        if not name.startswith(f"{_NAME}.") or self.decide():
            return None
        first = importlib.util.find_spec(f"loader{name.removeprefix(_NAME)}")
        return first and ModuleSpec(name, _SameModule(first), origin=first.origin)


class _SameModule(InspectLoader):
    """Gives a module of `loader` its second name.

    Args:
        first: The module's description under its first name.
    """

    def __init__(self, first: ModuleSpec) -> None:
        self._first = first

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        """Returns the module itself."""
        return importlib.import_module(self._first.name)

    def exec_module(self, module: ModuleType) -> None:
        """Runs nothing, since the module has run already; restores its description."""
        module.__spec__ = self._first

    def get_code(self, _name: str) -> CodeType | None:
        """Returns the code that ``python -m`` runs."""
        loader = self._first.loader
        return loader.get_code(self._first.name) if isinstance(loader, InspectLoader) else None

    def get_source(self, _name: str) -> str | None:
        """Returns nothing: the module's first name has its source."""
        return None


def _found() -> str:
    """The folder of a `loader` that Python finds and that is not this project's; empty if there is none."""
    known = sys.modules.get("loader")
    spec = known.__spec__ if known is not None else importlib.util.find_spec("loader")
    places = list(spec.submodule_search_locations or [spec.origin or ""]) if spec is not None else []
    own = {str(_PACKAGE)}
    return next((str(Path(place).parent) for place in places if str(Path(place).resolve()) not in own), "")


def _working_folder() -> str:
    """The working folder, if it holds the user's own `loader`."""
    try:
        folder = Path.cwd()
    except OSError:  # it was deleted, which the command line reports
        return ""
    package = folder / "loader"
    theirs = (folder / "loader.py").is_file() or any((*package.glob("*.py"), *package.glob("*/*.py")))
    return str(folder) if theirs and folder.resolve() != _HOME else ""


sys.meta_path.insert(0, _Names())
