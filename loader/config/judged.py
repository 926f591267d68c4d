"""`trusted_targets` applied to objects that Hydra itself makes: callbacks, launchers, sweepers and log handlers.

Guarantees: none of these is imported or made before its name has passed. Hydra's own and this project's pass by their
exact names. Under `trusted_targets`, a log handler, formatter or filter is one that Hydra or this project ships,
unchanged but for its level, or its class is in `trusted_targets` by its exact name: any other file name or format
could write code or overwrite files. Without `trusted_targets`, callbacks and plugins known to be dangerous are refused.
While Hydra searches for a config, no package is imported for its location. A command that names only Hydra's own
imports no torch here. This module wraps private parts of Hydra: `Callbacks`, `Plugins`, `configure_log`, ``pkg://``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra._internal.core_plugins.basic_launcher
import hydra._internal.hydra
import hydra.conf
import hydra.core.utils
from hydra._internal.callbacks import Callbacks
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, ListConfig, OmegaConf

from ..errors import ConfigError
from ..files.path import conf_dir, package_folders
from ..runtime import OWN_NAMES
from ..text.lines import NO_FIX, line
from ..text.wording import safe_text
from ..trust import why_dangerous

_TARGET = "_target_"
_CORE = "hydra._internal.core_plugins"
_OWN = frozenset(
    (
        *(f"{_CORE}.basic_launcher.BasicLauncher", f"{_CORE}.basic_sweeper.BasicSweeper"),
        *(f"hydra.experimental.callbacks.{name}" for name in ("LogJobReturnCallback", "PickleJobInfoCallback")),
        "hydra.experimental.pickle_job_info_callback.PickleJobInfoCallback",
        *(f"{name}.{own}" for name in OWN_NAMES for own in ("sweep.callback.SweepCallback", "track.mlflow.Tracker")),
    )
)
_LOGGING = frozenset(
    (
        *(f"logging.{n}" for n in ("StreamHandler", "FileHandler", "NullHandler", "Formatter", "Filter")),
        *(f"logging.handlers.{n}" for n in ("RotatingFileHandler", "TimedRotatingFileHandler")),
        *("sys.stdout", "sys.stderr"),
        *(f"{name}.{home}.RedactingFormatter" for name in OWN_NAMES for home in ("redaction", "text.redaction")),
    )
)
"""What a log may consist of."""
_FACTORY = "()"
_IMPORTED = "ext://"
Named = tuple[str, str]
"""A place in the config, and the name it holds."""


@contextmanager
def judged() -> Iterator[None]:
    """Makes Hydra check every name in a config before it makes an object of it."""
    logs = (hydra.core.utils, hydra._internal.hydra, hydra._internal.core_plugins.basic_launcher)  # noqa: SLF001
    with ExitStack() as stack:
        stack.enter_context(unimported())
        stack.enter_context(_before(Callbacks, "__init__", _judge_callbacks))
        stack.enter_context(_before(Plugins, "_instantiate", _judge_plugin))
        for module in logs:
            stack.enter_context(_before(module, "configure_log", _judge_log))
        yield


@contextmanager
def _before(owner: Any, name: str, check: Callable[..., None]) -> Iterator[None]:
    original = getattr(owner, name)

    @functools.wraps(original)
    def checked(*args: Any, **kwargs: Any) -> Any:
        check(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(owner, name, checked)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _judge_callbacks(_self: Callbacks, config: DictConfig | None = None) -> None:
    callbacks = None if config is None else OmegaConf.select(config, "hydra.callbacks")
    if callbacks is not None:
        _judge_targets(callbacks, "hydra.callbacks")


def _judge_plugin(_self: Plugins, config: DictConfig) -> None:
    _judge_targets(config, str(config._get_full_key(None)))  # noqa: SLF001  # it has no public name


def _judge_targets(node: DictConfig, where: str) -> None:
    named = _foreign(_targets(OmegaConf.to_container(node, resolve=True), where), _OWN)
    trusted = _trusted(node)
    if trusted is not None:
        _judge(named, trusted)
        return
    refused = [f"{at}: {safe_text(name)} is refused: it {why}" for at, name in named if (why := why_dangerous(name))]
    if refused:
        raise ConfigError("\n".join(refused))


def _judge_log(log_config: DictConfig | None, *_: Any, **__: Any) -> None:
    """Checks a log under `trusted_targets`; without it, Hydra's own allow-list applies."""
    trusted = None if log_config is None else _trusted(log_config)
    if log_config is not None and trusted is not None:
        where = str(log_config._get_full_key(None))  # noqa: SLF001
        _judge(_foreign(_imports(OmegaConf.to_container(log_config, resolve=True), where), _LOGGING), trusted)
        check_log(log_config, where, trusted)


def _trusted(node: DictConfig) -> list[str] | None:
    """Returns the `trusted_targets` of the config that a node belongs to."""
    trusted = OmegaConf.select(node._get_root(), "trusted_targets")  # noqa: SLF001
    return trusted if trusted is None else list(trusted) if isinstance(trusted, ListConfig) else [str(trusted)]


def _foreign(named: Iterable[Named], own: frozenset[str]) -> list[Named]:
    return [(place, name) for place, name in named if name not in own]


def _judge(named: Sequence[Named], trusted: Sequence[str]) -> None:
    if named:
        from ..builder.targets import judge_names  # noqa: PLC0415  # with it comes torch

        judge_names(named, trusted)


def _targets(node: Any, where: str) -> Iterator[Named]:
    """Yields every `_target_`; names that Hydra's lookup functions take are not targets, so those are refused."""
    if isinstance(node, Mapping) and node.get(_TARGET) is not None:
        yield f"{where}.{_TARGET}", str(node[_TARGET])
    for key, item in _items(node):
        yield from _targets(item, f"{where}.{key}")


def _imports(node: Any, where: str) -> Iterator[Named]:
    """Yields every name that a log's config imports: classes, factories, queues, and values behind ``ext://``."""
    for key, item in _items(node):
        place = f"{where}.{key}"
        if not isinstance(item, str):
            yield from _imports(item, place)
        elif item.startswith(_IMPORTED) or key in {"class", _FACTORY} or (key in {"queue", "listener"} and "." in item):
            yield place, item.removeprefix(_IMPORTED)


def _items(node: Any) -> Iterable[tuple[object, Any]]:
    return node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()


_SECTIONS = {"formatters": "logging.Formatter", "filters": "logging.Filter", "handlers": "logging.Handler"}
"""The sections of a log's config, with the class of an entry that names none."""


def check_log(log: DictConfig, where: str, trusted: Sequence[str]) -> None:
    """Refuses a log with entries that are neither shipped nor trusted.

    Args:
        log: Its config.
        where: Its place in the whole config.
        trusted: The patterns of `trusted_targets`.

    Raises:
        ConfigError: With every refused entry.
    """
    refused = [(place, name) for place, name in _own(log, where) if name not in trusted]
    if not refused:
        return
    problems = (
        f"{place}: {safe_text(name)} with its own settings is refused: under trusted_targets, expected a log of "
        "Hydra or the loader, unchanged, or this class by its exact name"
        for place, name in refused
    )
    offered = dict.fromkeys(name for _, name in refused if not why_dangerous(name))
    admitted = len(offered) == len({name for _, name in refused})
    raise ConfigError("\n".join(problems), line("trusted_targets", [*trusted, *offered]) if admitted else NO_FIX)


def _own(log: DictConfig, where: str) -> Iterator[tuple[str, str]]:
    """Yields the place and class of each entry that differs from the shipped ones."""
    written: Any = OmegaConf.to_container(log, resolve=False)
    meant: Any = OmegaConf.to_container(log, resolve=True)
    for section, usual in _SECTIONS.items():
        before, nodes = written.get(section), meant.get(section)
        for key, node in nodes.items() if isinstance(nodes, Mapping) else ():
            raw = before.get(key) if isinstance(before, Mapping) else None
            if not (isinstance(raw, Mapping) and _without_level(raw) in _shipped()[section]):
                named = node.get("()", node.get("class", usual)) if isinstance(node, Mapping) else usual
                yield f"{where}.{section}.{key}", str(named)


@lru_cache(maxsize=1)
def _shipped() -> dict[str, list[dict[str, Any]]]:
    """The entries of every log that Hydra or the loader ships, by section, unresolved."""
    homes = [Path(hydra.conf.__file__).parent / "hydra", conf_dir() / "hydra"]
    files = [
        file for home in homes for kind in ("job_logging", "hydra_logging") for file in home.glob(f"{kind}/*.yaml")
    ]
    logs: list[Any] = [OmegaConf.to_container(OmegaConf.load(file), resolve=False) for file in files]
    return {
        section: [_without_level(node) for log in logs for node in (log.get(section) or {}).values()]
        for section in _SECTIONS
    }


def _without_level(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key != "level"}


@contextmanager
def unimported() -> Iterator[None]:
    """Makes Hydra read configs in packages (``hydra.searchpath=[pkg://my_pkg.conf]``) without importing those."""
    names = _names_of_the_source()
    before = names["resources"]
    names["resources"] = SimpleNamespace(files=_files)
    try:
        yield
    finally:
        names["resources"] = before


def _names_of_the_source() -> dict[str, Any]:
    """Returns the globals of the class that reads such configs; Hydra loads its module a second time, as a plugin."""
    Plugins.instance()  # registers it
    return SourcesRegistry.instance().resolve("pkg").load_config.__globals__


def _files(package: str) -> Path:
    folders = package_folders(package)
    if not folders:
        raise ModuleNotFoundError(f"No package named '{package}'")  # Hydra takes this for an unavailable source
    return folders[0]
