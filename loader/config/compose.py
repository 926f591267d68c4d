"""Composes the config through Hydra, from Python or for a command line.

Guarantees: the same strings mean the same as on the command line; what comes out is a plain, resolved mapping without
Hydra's own node; a Hydra application that is already running finds its state as it left it; every refusal of Hydra's
is a `ConfigError`.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Iterator, Sequence
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

from ..schema import JobConfig, overlay
from ..text.lines import MISSING
from ..text.redaction import remember
from ..text.wording import did_you_mean, safe_text
from .argv import rewrite
from .layers import CONFIG_NAME, conf_dir
from .literals import real_key
from .messages import translate
from .packaged import unimported

VERSION_BASE = "1.3"
"""The Hydra version whose defaults hold."""

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

    Keys that a user's files bring for another program are there for interpolations, and are not resolved themselves;
    one that was only typed is kept, for `loader.config.parse` to refuse. A value that must be given and was not stays
    ``???``, and is refused there, too.

    Args:
        config: What Hydra composed.
        overrides: What was typed.

    Raises:
        ConfigError: An interpolation leads nowhere.
    """
    kept = _kept(config, overrides)
    for told in near_misses(config, overrides):
        log.warning("%s", told)
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
    return resolved


def near_misses(config: DictConfig, overrides: Sequence[str] = ()) -> list[str]:
    """Names the keys of a user's files that are close to one of the loader's, and that nothing of the config refers to.

    Args:
        config: What Hydra composed.
        overrides: What was typed; what was only typed is refused.
    """
    known = (*_kept(config, overrides), "hydra")
    foreign = [(str(key), did_you_mean(str(key), _OWN)) for key in config if key not in known]
    text = OmegaConf.to_yaml(config) if any(near for _, near in foreign) else ""
    return [
        f"the config holds a key '{safe_text(key)}', which is none of the loader's{near}"
        for key, near in foreign
        if near and f"${{{key}" not in text
    ]


def _kept(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    return [str(key) for key in config if key in _OWN or _is_only_added(config, str(key), overrides)]


def _by_real_name(parts: dict[str, Any]) -> dict[str, Any]:
    """Puts together what was set for a part as a whole and under a dotted key."""
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
    """Says whether nothing but a ``+`` on the command line has put a key into the config."""
    node = config._get_node(key)  # noqa: SLF001  # as it stands: an interpolation need not lead anywhere
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
    """Tells ``{...}`` and ``[...]`` from the name of an option of a user's own group."""
    return value.lstrip()[:1] in ("{", "[")


def _leaves(node: Any, where: str) -> Iterator[str]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{where}.{key}")
    else:
        yield where


@contextmanager
def hydra_aside() -> Iterator[None]:
    """Leaves the code of a job the state of a process in which no Hydra runs: it may start one for its own configs.

    What such code leaves behind is there for it until the end, and gone afterwards.
    """
    kinds: tuple[type, ...] = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)
    known = Singleton._instances  # noqa: SLF001  # only so an instance's whole state is put aside
    running = {kind: known.pop(kind) for kind in kinds if kind in known}
    try:
        yield
    finally:
        for kind in kinds:
            known.pop(kind, None)
        known.update(running)


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Sets a running Hydra application aside, and puts it back; one thread at a time, since Hydra's state is global.

    Composing leaves three traces: the global object (which initialize_config_dir replaces, so the application goes
    back into whatever instance is there), the job's name, and the version whose defaults hold.
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
