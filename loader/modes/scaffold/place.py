"""Where the config file goes, and the line that runs it.

Guarantees: the file is new, lies in a config group ``experiment``, and its name is an option that the command line
takes and that no shipped experiment has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError
from ...files.path import conf_dir, is_url
from ...text.lines import is_plain_key, line, override, program, typed
from ...text.wording import safe_text

GROUP = "experiment"
DEFAULT = f"conf/{GROUP}/"
"""Where it goes when nobody says otherwise, from the current folder."""

_ENDING = ".yaml"
_OPTION = re.compile(r"[A-Za-z_][\w-]*(/[A-Za-z_][\w-]*)*", re.ASCII)
_SUFFIXES = re.compile(r"(\.index\.json|\.safetensors|\.(pt|pth|ckpt|bin|tar|pkl|json))+$", re.IGNORECASE)
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Place:
    """A config file to be."""

    path: Path
    config_dir: str
    """The folder that holds the group, as typed."""
    option: str

    @property
    def line(self) -> str:
        """What to type to run it."""
        return f"{program()} {typed('--config-dir', self.config_dir, override(GROUP, self.option)).line}"


def choose_place(wanted: str | None, checkpoint: str) -> Place:
    """Decides where the config of a checkpoint goes.

    Args:
        wanted: What ``scaffold.path`` says: a file, or a folder that ends in ``/``.
        checkpoint: The checkpoint's path, which gives the name where none is said.

    Raises:
        ConfigError: The file exists, or no line of the command line could run it.
    """
    typed = wanted or DEFAULT
    if typed.endswith("/") or Path(typed).is_dir():
        typed = str(Path(typed) / f"{name_of(checkpoint)}{_ENDING}")
    path = Path(typed)
    parents = list(path.parents)
    at = next((at for at, parent in enumerate(parents) if parent.name == GROUP), None)
    if path.suffix != _ENDING or at is None:
        raise ConfigError(
            f"scaffold.path is '{safe_text(typed, 200)}', where the command line would not find it; a {_ENDING} file "
            f"in a folder called {GROUP} was expected",
            line("scaffold.path", f"{DEFAULT}{name_of(checkpoint)}{_ENDING}"),
        )
    option = path.relative_to(parents[at]).with_suffix("").as_posix()
    place = Place(path, str(parents[at].parent), option)
    if not _OPTION.fullmatch(option) or not is_plain_key(option):
        raise ConfigError(
            f"'{safe_text(option)}' is no name that {GROUP}=NAME takes; letters, digits, '_' and '-' were expected",
            line("scaffold.path", f"{parents[at].as_posix()}/{_tidy(option)}{_ENDING}"),
        )
    _refuse_taken(place, parents[at])
    return place


def name_of(checkpoint: str) -> str:
    """An option's name made of a checkpoint's."""
    if is_url(checkpoint):
        from ...remote.urls import parse_url  # noqa: PLC0415  # only URLs need it

        checkpoint = parse_url(checkpoint).name
    return _tidy(_SUFFIXES.sub("", checkpoint.rstrip("/").rpartition("/")[2]))


def _tidy(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:_LONGEST].strip("_-")
    if not name or not _OPTION.fullmatch(name) or not is_plain_key(name) or _shipped(name):
        name = f"my_{name}".rstrip("_")
    return name


def _shipped(option: str) -> bool:
    return (conf_dir() / GROUP / f"{option}{_ENDING}").is_file()


def _refuse_taken(place: Place, folder: Path) -> None:
    free = next(name for n in range(2, 10_000) if not (folder / (name := f"{place.option}_{n}{_ENDING}")).exists())
    hint = line("scaffold.path", (folder / free).as_posix())
    if place.path.exists() or place.path.is_symlink():
        raise ConfigError(f"{safe_text(place.path, 200)} is there already, and is not written over", hint)
    if _shipped(place.option):
        raise ConfigError(
            f"{GROUP}={place.option} is an experiment that is shipped; one of your own was expected", hint
        )
