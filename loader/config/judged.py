"""`trusted_targets` over what Hydra itself makes of a config: callbacks, launchers, sweepers and log handlers.

Guarantees: none of these is imported or made before its name has passed; Hydra's own and this project's always pass,
by their exact names, and a log writes where a shipped one does (`logs`). Without `trusted_targets` callbacks and
plugins that are known to do harm are refused. A command that names none but Hydra's own imports no torch for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import hydra._internal.core_plugins.basic_launcher
import hydra._internal.hydra
import hydra.core.utils
from hydra._internal.callbacks import Callbacks
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, ListConfig, OmegaConf

from ..errors import ConfigError
from ..text.wording import safe_text
from ..trust.dangerous import why_dangerous
from .logs import check_log
from .packaged import unimported

_TARGET = "_target_"
_CORE = "hydra._internal.core_plugins"
_OWN = frozenset(
    (
        *(f"{_CORE}.basic_launcher.BasicLauncher", f"{_CORE}.basic_sweeper.BasicSweeper"),
        *(f"hydra.experimental.callbacks.{name}" for name in ("LogJobReturnCallback", "PickleJobInfoCallback")),
        *("hydra.experimental.pickle_job_info_callback.PickleJobInfoCallback", "loader.sweep.callback.SweepCallback"),
    )
)
_LOGGING = frozenset(
    (
        *(f"logging.{n}" for n in ("StreamHandler", "FileHandler", "NullHandler", "Formatter", "Filter")),
        *(f"logging.handlers.{n}" for n in ("RotatingFileHandler", "TimedRotatingFileHandler")),
        *("sys.stdout", "sys.stderr", "loader.text.redaction.RedactingFormatter"),
    )
)
"""What a log may be made of."""
_FACTORY = "()"
_IMPORTED = "ext://"
Named = tuple[str, str]
"""A place in the config, and what it names."""


@contextmanager
def judged() -> Iterator[None]:
    """Has Hydra ask, while it runs, before it makes anything that a config names."""
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
    told = [
        f"{place}: {safe_text(name)} is refused: it {reason}"
        for place, name in named
        if (reason := why_dangerous(name))
    ]
    if told:
        raise ConfigError("\n".join(told))


def _judge_log(log_config: DictConfig | None, *_: Any, **__: Any) -> None:
    """Judges a log where there are trusted names; where there are none, Hydra's own list is the rule."""
    trusted = None if log_config is None else _trusted(log_config)
    if log_config is not None and trusted is not None:
        where = str(log_config._get_full_key(None))  # noqa: SLF001
        _judge(_foreign(_imports(OmegaConf.to_container(log_config, resolve=True), where), _LOGGING), trusted)
        check_log(log_config, where, trusted)


def _trusted(node: DictConfig) -> list[str] | None:
    """The `trusted_targets` of the config that a node belongs to."""
    trusted = OmegaConf.select(node._get_root(), "trusted_targets")  # noqa: SLF001
    return trusted if trusted is None else list(trusted) if isinstance(trusted, ListConfig) else [str(trusted)]


def _foreign(named: Iterable[Named], own: frozenset[str]) -> list[Named]:
    return [(place, name) for place, name in named if name not in own]


def _judge(named: Sequence[Named], trusted: Sequence[str]) -> None:
    if named:
        from ..builder.targets import judge_names  # noqa: PLC0415  # with it comes torch

        judge_names(named, trusted)


def _targets(node: Any, where: str) -> Iterator[Named]:
    """Every `_target_`; what a lookup of Hydra's looks up is none of them, and so the lookup is harm."""
    if isinstance(node, Mapping) and node.get(_TARGET) is not None:
        yield f"{where}.{_TARGET}", str(node[_TARGET])
    for key, item in _items(node):
        yield from _targets(item, f"{where}.{key}")


def _imports(node: Any, where: str) -> Iterator[Named]:
    """Every name that a log's config has imported: classes, factories, queues, and values behind ``ext://``."""
    for key, item in _items(node):
        place = f"{where}.{key}"
        if not isinstance(item, str):
            yield from _imports(item, place)
        elif item.startswith(_IMPORTED) or key in {"class", _FACTORY} or (key in {"queue", "listener"} and "." in item):
            yield place, item.removeprefix(_IMPORTED)


def _items(node: Any) -> Iterable[tuple[object, Any]]:
    return node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
