"""Finds the object of a dotted name.

Guarantees: a name that cannot be found is refused with the part that was found and similar names; a module that fails
to import is reported with file and line, and not as missing. Nothing is judged here: `targets` asks the policy first.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from .. import examples
from ..errors import ConfigError
from ..module.user_code import bare_arguments, in_one_line
from ..runtime import NAMES, PACKAGE, own_name
from ..text.lines import line, typed
from ..text.wording import closest, did_you_mean, safe_text

EXAMPLES = frozenset(f"{name}.{home}" for name in NAMES for home in ("examples", "examples.models"))
"""The names under which a config finds the example models."""
_DOTTED_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_FOLDERS_NEARBY = ("src", "lib", "python")


def check_name(name: object, where: str) -> str:
    """Returns a target's name if it is written as one.

    Raises:
        ConfigError: It is not text, not dotted, or contains a name reserved by Python.
    """
    if not isinstance(name, str) or not _DOTTED_NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: {safe_text(repr(name))} is not the dotted name of a class or function",
            line(where, _guess(name)),
        )
    if any(part.startswith("__") and part.endswith("__") and part != "__main__" for part in name.split(".")):
        raise ConfigError(f"{where}: {safe_text(name)} contains a name reserved by Python")
    return name


def _guess(name: object) -> str:
    words = re.findall(r"[^\W\d]\w*", re.sub(r"\.py\b", "", name)) if isinstance(name, str) else []
    if len(words) == 1 and hasattr(nn, words[0]):
        return f"torch.nn.{words[0]}"
    return ".".join(words) if len(words) > 1 else f"your_module.{words[0] if words else 'YourModel'}"


@bare_arguments()
def locate(name: str, where: str) -> object:
    """Imports the module of a dotted name and returns the object.

    Raises:
        ConfigError: There is no such module, it has no such name, or importing it fails.
    """
    parts = own_name(name).split(".")
    module, depth = _import_longest(parts, where)
    found: object = module
    for position in range(depth, len(parts)):
        try:
            found = getattr(found, parts[position])
        except AttributeError:
            raise _no_such_name(found, parts, position, where) from None
        except Exception as error:  # a module's own __getattr__ may import, and so fail in any way
            raise _broken(".".join(parts[:position]), error, where) from error
    return found


def _import_longest(parts: list[str], where: str) -> tuple[ModuleType, int]:
    for depth in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:depth])
        try:
            return importlib.import_module(name), depth
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
                raise _broken(name, error, where) from error
        except (Exception, SystemExit) as error:
            raise _broken(name, error, where) from error
    raise _no_such_module(parts, where)


def _no_such_module(parts: list[str], where: str) -> ConfigError:
    top, rest = parts[0], parts[1:]
    folder = Path.cwd()
    searched = folder.resolve() in {Path(entry or ".").resolve() for entry in sys.path}
    message = (
        f"{where}: {safe_text('.'.join(parts))} cannot be found: there is no module '{safe_text(top)}' on Python's "
        f"path, which {'includes' if searched else 'does not include'} the current folder"
    )
    near = _close_module(top)
    if near:
        return ConfigError(f"{message} (did you mean '{safe_text(near)}'?)", line(where, ".".join([near, *rest])))
    home = next((place for place in (folder, *_subfolders(folder)) if _holds(place, top)), None)
    export = typed("export", f"PYTHONPATH={home or '/the/folder/of/it'}", note="adds its folder")
    return ConfigError(message, export)


def _close_module(name: str) -> str:
    """Returns the installed module whose name differs by a typo, if there is one."""
    installed = (info.name for info in pkgutil.iter_modules() if info.name not in sys.stdlib_module_names)
    near = difflib.get_close_matches(name, installed, n=1, cutoff=0.75)
    return near[0] if near else ""


def _subfolders(folder: Path) -> list[Path]:
    return [folder / name for name in _FOLDERS_NEARBY]


def _holds(folder: Path, module: str) -> bool:
    return (folder / f"{module}.py").is_file() or (folder / module).is_dir()


def _no_such_name(found: object, parts: list[str], position: int, where: str) -> ConfigError:
    missing, home = parts[position], ".".join(parts[:position])
    kind = "module" if isinstance(found, ModuleType) else "class" if inspect.isclass(found) else "object"
    known = [name for name in dir(found) if not name.startswith("_")]
    message = (
        f"{where}: {safe_text('.'.join(parts))} cannot be found: {kind} '{safe_text(home)}' has no "
        f"'{safe_text(missing)}'{did_you_mean(missing, known)}{_defined_in(found)}"
    )
    near = closest(missing, known, most=1)
    return ConfigError(message, *(line(where, ".".join([home, name, *parts[position + 1 :]])) for name in near))


def no_such_example(name: str, where: str) -> ConfigError | None:
    """Returns the refusal of a name that would be a model in the package of examples, if it has none of that name."""
    home, _, last = name.rpartition(".")
    if home not in EXAMPLES or last in examples.__all__ or not last[:1].isupper():
        return None
    error = _no_such_name(examples, name.split("."), name.count("."), where)
    return error if error.fixes else ConfigError(error.message, *(line(where, f"{home}.{m}") for m in examples.__all__))


def _defined_in(found: object) -> str:
    file = getattr(found, "__file__", None)
    return f". It was read from {safe_text(file, 200)}" if isinstance(file, str) else ""


def _broken(module: str, error: BaseException, where: str) -> ConfigError:
    message = f"{where}: the module '{safe_text(module)}' exists, but importing it fails: {in_one_line(error, module)}"
    if isinstance(error, ImportError) and str(error.name).partition(".")[0] == PACKAGE == "loader":
        return ConfigError(
            f"{message}. In this process `loader` is hydra-loader's own package, and hides a `loader` of yours",
            typed("export", "PYTHONPATH=/the/folder/of/your/loader", note="or import hydra_loader instead of loader"),
        )
    return ConfigError(message, typed("python", "-c", f"import {module}"))
