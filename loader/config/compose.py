"""Composes the config through Hydra, from Python or for a command line.

Guarantees: the same strings mean the same as on the command line; the result is a plain, resolved mapping without
Hydra's own node. The state of a Hydra application that is already running is restored. Every refusal of Hydra's becomes
a `ConfigError`. `anchored` keeps relative paths relative to the folder where they were typed, and leaves all other
values and the model's arguments unchanged.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..files.path import conf_dir
from ..schema import JobConfig, overlay
from ..text.lines import MISSING
from ..text.redaction import remember
from ..text.wording import did_you_mean, safe_text
from .combining import with_files
from .grammar import real_key
from .judged import unimported
from .layers import CONFIG_NAME
from .messages import translate
from .rewrite import rewrite

VERSION_BASE = "1.3"
"""The Hydra version whose defaults apply."""

_OWN = frozenset(field.name for field in dataclasses.fields(JobConfig))
log = logging.getLogger(__name__)
_LOCK = threading.RLock()


def compose(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Composes the config as ``run.py OVERRIDE...`` would.

    Args:
        overrides: As on the command line, without the shell's quotes.

    Returns:
        The resolved config.

    Raises:
        ConfigError: Hydra or OmegaConf refuses it.
    """
    remember(list(overrides))
    rewritten = rewrite(overrides)
    with _own_hydra():
        try:
            with initialize_config_dir(str(conf_dir()), job_name="loader", version_base=VERSION_BASE):
                config = hydra_compose(CONFIG_NAME, overrides=rewritten)
        except Exception as error:
            refusal = translate(error, overrides)
            if refusal is None:
                raise
            raise refusal from error
        return plain(config, overrides)


def plain(config: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Resolves the loader's own nodes of a composed config into plain dicts, lists and values.

    Keys that a user's files bring for another program can be interpolated but are not resolved themselves; one that was
    only typed is kept, for `loader.config.parse` to refuse. A required value that is not set stays ``???``, and is
    refused there as well.

    Args:
        config: The config that Hydra composed.
        overrides: The overrides as typed.

    Raises:
        ConfigError: An interpolation leads nowhere, or a ``glob(...)`` in a list of files is without a match.
    """
    kept = _kept(config, overrides)
    for note in near_misses(config, overrides):
        log.warning("%s", note)
    try:
        resolved = {key: _resolved(config, key) for key in kept}
    except OmegaConfBaseException as error:
        refusal = translate(error)
        if refusal is None:
            raise
        raise refusal from error
    remember(resolved)
    if isinstance(resolved.get("parts"), dict):
        resolved["parts"] = _by_real_name(resolved["parts"])
    return with_files(resolved)


def near_misses(config: DictConfig, overrides: Sequence[str] = ()) -> list[str]:
    """Reports keys of a user's files that resemble one of the loader's and that nothing in the config refers to.

    Args:
        config: The config that Hydra composed.
        overrides: The overrides as typed; keys that were only typed are refused elsewhere.
    """
    known = (*_kept(config, overrides), "hydra")
    foreign = [(str(key), did_you_mean(str(key), _OWN)) for key in config if key not in known]
    text = OmegaConf.to_yaml(config) if any(near for _, near in foreign) else ""
    return [
        f"the config has a key '{safe_text(key)}', which the loader does not know{near}"
        for key, near in foreign
        if near and f"${{{key}" not in text
    ]


def _kept(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    return [str(key) for key in config if key in _OWN or _is_only_added(config, str(key), overrides)]


def _by_real_name(parts: dict[str, Any]) -> dict[str, Any]:
    """Merges the settings of a part that were given as a mapping and under dotted keys."""
    named: dict[str, Any] = {}
    for name, own in parts.items():
        before = named.get(real_key(name))
        named[real_key(name)] = overlay(before, own) if isinstance(before, dict) and isinstance(own, dict) else own
    return named


def _resolved(config: DictConfig, key: str) -> Any:
    if OmegaConf.is_missing(config, key):
        return MISSING
    value = config[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _is_only_added(config: DictConfig, key: str, overrides: Sequence[str]) -> bool:
    """Returns whether a key is in the config only because of a ``+`` on the command line."""
    node = config._get_node(key)  # noqa: SLF001  # unresolved: an interpolation may be dangling
    content = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else None
    added = [name for name, value in _added(overrides) if not (content and name == key and not _is_literal(value))]
    return key != "hydra" and all(
        any(leaf == name or leaf.startswith(f"{name}.") for name in added) for leaf in _leaves(content, key)
    )


def _added(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    for override in overrides:
        if override.startswith("+"):
            name, _, value = override.lstrip("+").partition("=")
            yield name, value


def _is_literal(value: str) -> bool:
    """Returns whether a value is ``{...}`` or ``[...]``, not the name of an option of a user's own group."""
    return value.lstrip()[:1] in ("{", "[")


def _leaves(node: Any, where: str) -> Iterator[str]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{where}.{key}")
    else:
        yield where


@contextmanager
def hydra_aside() -> Iterator[None]:
    """Hides a running Hydra from the code of a job, which may start one for its own configs.

    Any Hydra state that this code leaves behind is discarded at the end.
    """
    kinds: tuple[type, ...] = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)
    known = Singleton._instances  # noqa: SLF001  # the only way to set an instance's whole state aside
    running = {kind: known.pop(kind) for kind in kinds if kind in known}
    try:
        yield
    finally:
        for kind in kinds:
            known.pop(kind, None)
        known.update(running)


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Sets a running Hydra application aside and restores it; one thread at a time, since Hydra's state is global.

    Composing leaves three traces: the global object (which initialize_config_dir replaces, so the application is put
    back into whatever instance is there), the job's name, and the version whose defaults apply.
    """
    with _LOCK:
        running, base = GlobalHydra.instance().hydra, VersionBase.instance().version_base
        names = JobRuntime.instance().conf.copy()
        GlobalHydra.instance().clear()
        try:
            with unimported():
                yield
        finally:
            GlobalHydra.instance().hydra = running
            VersionBase.instance().version_base = base
            JobRuntime.instance().conf = names


_PATHS = re.compile(
    r"parts\.(.+\.)?(path|minus)|verify\.golden|verify\.input\.(.+\.)?path"
    r"|(checkpoint|compare|convert|scaffold|replay)\.path|adapters\.[^.]+\.(path|minus)"
)
_NOT_PATHS = ("", "auto", "???")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""The start of a URL, even one that lost a slash."""


def anchored(config: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Returns a config whose relative paths start at a folder, for a run in its own folder (`hydra.job.chdir`).

    Args:
        config: A resolved config.
        folder: The folder in which its paths were typed.
    """
    return {key: value if key == "model" else _anchored(value, str(key), folder) for key, value in config.items()}


def _anchored(node: Any, name: str, folder: str) -> Any:
    if isinstance(node, Mapping):
        return {key: _anchored(value, f"{name}.{key}", folder) for key, value in node.items()}
    if isinstance(node, list):
        return [_anchored(value, name, folder) for value in node]
    if isinstance(node, str) and _PATHS.fullmatch(name) and not _is_fixed(node):
        return os.path.join(folder, node)  # noqa: PTH118  # a slash at the end counts
    return node


def _is_fixed(text: str) -> bool:
    return text in _NOT_PATHS or text.startswith("~") or _SCHEME.match(text) is not None
