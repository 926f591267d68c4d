"""Composes the config through Hydra, from Python or for a command line.

Guarantees: the same strings mean the same as on the command line; what comes out is a plain, resolved mapping without
Hydra's own node; a Hydra application that is already running finds its state as it left it; every refusal of Hydra's
is a `ConfigError`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loader.config.argv import rewrite
from loader.config.messages import translate
from loader.errors import ConfigError
from loader.redaction import remember

CONFIG_NAME = "config"
"""The primary config."""

VERSION_BASE = "1.3"
"""The Hydra version whose defaults hold."""

_LOCK = threading.RLock()


def conf_dir() -> Path:
    """Returns the folder of configs: beside the package in a checkout, inside it in an installed copy."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / f"{CONFIG_NAME}.yaml").is_file():
            return folder
    raise ConfigError(
        f"the folder conf with {CONFIG_NAME}.yaml is neither in {package} nor beside it; this copy of the package is "
        "incomplete",
        "pip install --force-reinstall hydra-loader",
    )


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
        return plain(config)


def plain(config: DictConfig) -> dict[str, Any]:
    """Resolves a composed config into plain dicts, lists and values, without Hydra's node.

    A value that must be given and was not stays ``???``; `loader.config.parse` tells all of them.

    Raises:
        ConfigError: An interpolation leads nowhere.
    """
    try:
        resolved = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        refusal = translate(error)
        if refusal is None:
            raise
        raise refusal from error
    remember(resolved)
    resolved.pop("hydra", None)
    return resolved


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
            yield
        finally:
            GlobalHydra.instance().hydra = running
            VersionBase.instance().version_base = base
            JobRuntime.instance().conf = names
