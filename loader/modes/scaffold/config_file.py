"""The config file of a scaffold: its place, its text, and the line that runs it.

Guarantees: the file is new, lies in a config group ``experiment``, and its name is an option that the command line
accepts and no shipped experiment has. Hydra reads back exactly the values that were written: none becomes an
interpolation, a number or a key of its own, and comments stay comments. Only settings that differ from the loader's
defaults are written; where the file fits in several equally good ways, the settings in which they differ are `auto`,
which refuses to choose.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...files.path import conf_dir, is_url
from ...keys.rules.ready import ready_names
from ...parts import Part
from ...schema import AUTO, AllowConfig, CheckpointConfig, JobConfig, Rule
from ...suggest.tensors.proposed import DOUBT
from ...text.lines import is_plain_key, line, override, program, typed, yaml_value
from ...text.wording import safe_text
from .fitting import Fitting

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
            f"'{safe_text(option)}' is not a name that {GROUP}=NAME accepts (expected letters, digits, '_' and '-')",
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
    fix = line("scaffold.path", (folder / free).as_posix())
    if place.path.exists() or place.path.is_symlink():
        raise ConfigError(f"{safe_text(place.path, 200)} already exists and is not overwritten", fix)
    if _shipped(place.option):
        raise ConfigError(f"{GROUP}={place.option} is a shipped experiment; choose another name", fix)


_LONGEST_NOTE = 200
_SHORT = 4
"""How many entries a mapping on one line may have."""


@dataclass(frozen=True, slots=True)
class Line:
    """One key of a section, and why it has its value."""

    key: str
    value: Any
    note: str = ""


def section(name: str, lines: Sequence[Line]) -> list[str]:
    """A section's lines; none where it is empty."""
    shown = [row for line in lines for row in _rows(line, "  ")]
    width = max((len(text) for text, note in shown if note), default=0)
    annotated = [f"{text:<{width}}  # {comment(note)}" if note else text for text, note in shown]
    return [f"{name}:", *annotated] if annotated else []


def _rows(line: Line, indent: str) -> Iterator[tuple[str, str]]:
    if not isinstance(line.value, Mapping) or len(line.value) <= _SHORT:
        yield f"{indent}{yaml_value(line.key)}: {yaml_value(line.value)}", line.note
        return
    yield f"{indent}{yaml_value(line.key)}:", line.note
    for key, value in line.value.items():
        yield from _rows(Line(str(key), value), f"{indent}  ")


def comment(text: str) -> str:
    """A text that stays in its comment."""
    return safe_text(text, _LONGEST_NOTE)


def page(head: Iterable[str], defaults: Mapping[str, Any], sections: Iterable[list[str]]) -> str:
    """The whole file."""
    chosen = [f"  - override /{group}: {yaml_value(option)}" for group, option in defaults.items()]
    body = [line for lines in sections for line in lines]
    return "\n".join(["# @package _global_", *(f"# {comment(h)}" for h in head), "defaults:", *chosen, *body]) + "\n"


_OWN = ("mode", "model", "checkpoint", "rules", "parts", "allow", "verify", "inspect", "convert", "scaffold")
"""Sections that are written on their own, or that do not belong to a load."""


def config_text(
    job: JobConfig, place: Place, part: Part, model: Sequence[Line], fitting: Fitting | None, forward: Sequence[Line]
) -> str:
    """The whole file.

    Args:
        job: What the user set.
        place: Where it goes.
        part: The opened checkpoint.
        model: The model's node.
        fitting: How the checkpoint goes into it; None where that could not be tried.
        forward: Remarks on the forward pass.
    """
    head = [f"Written by mode=scaffold from {safe_text(job.checkpoint.named, 150)}.", f"Run it: {place.line}"]
    ready = _ready(fitting)
    defaults: dict[str, Any] = {"model": None, "checkpoint": "file"} | ({"rules": ready} if ready else {})
    sections = [
        section("model", model),
        section("checkpoint", _checkpoint(part.config.checkpoint, job.checkpoint, fitting)),
        [] if ready or fitting is None else section("rules", _rules(fitting.rules)),
        section("allow", _differing(fitting.allow if fitting else job.allow, AllowConfig())),
        section("verify", [*_verify(job), *forward]),
    ]
    return page([*head, *_verdict(fitting)], defaults, [*sections, _others(job)])


def _ready(fitting: Fitting | None) -> list[str]:
    if fitting is None or any(way.rules != fitting.rules for way in fitting.ways):
        return [AUTO]
    if fitting.rules and _alone(fitting):  # the rules may pick the average
        return [AUTO]
    return ready_names(fitting.rules) or []


def _alone(fitting: Fitting) -> bool:
    """Whether the only way loads an average next to the weights."""
    return len(fitting.ways) == 1


def _verdict(fitting: Fitting | None) -> list[str]:
    if fitting is None:
        return ["Not tried: the model cannot be built until its arguments are set and its packages are installed."]
    if fitting.ways:
        lines = (str(typed(*way.overrides, note=DOUBT if way.doubt else "")) for way in fitting.ways)
        head = "The file fits in several ways that are equally good; choose one of these:"
        if _alone(fitting):
            head = "The file fits only with the average next to its weights; to load it, add:"
        return [head, *lines]
    return [
        f"All {fitting.loaded:,} keys of the model fit{': ' if fitting.reasons else '.'}{'; '.join(fitting.reasons)}"
    ]


def _checkpoint(settings: CheckpointConfig, typed: CheckpointConfig, fitting: Fitting | None) -> list[Line]:
    changed = _differing(dataclasses.replace(settings, path="", key=None), CheckpointConfig())
    open_key = fitting is None or _alone(fitting) or any(way.key != fitting.key for way in fitting.ways)
    key = AUTO if fitting is None or open_key else fitting.key
    return [Line("path", typed.path), *([Line("key", key)] if key is not None else []), *changed]


def _rules(rules: Mapping[str, Rule]) -> list[Line]:
    return [Line(name, rule.settings()) for name, rule in rules.items()]


def _verify(job: JobConfig) -> list[Line]:
    plain = dataclasses.asdict(job.verify)
    default = dataclasses.asdict(type(job.verify)())
    return [Line(name, value) for name, value in plain.items() if value != default[name]]


def _differing(record: Any, default: Any) -> list[Line]:
    names = [field.name for field in dataclasses.fields(record)]
    return [Line(n, getattr(record, n)) for n in names if getattr(record, n) != getattr(default, n)]


def _others(job: JobConfig) -> list[str]:
    """Settings at the top level."""
    return [f"{line.key}: {yaml_value(line.value)}" for line in _differing(job, JobConfig()) if line.key not in _OWN]
