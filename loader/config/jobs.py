"""The config of one job of a sweep.

Guarantees: a job's config is composed when it is needed. One that cannot be composed becomes a stand-in that contains
the refusal, since no launcher goes on after an error of Hydra's: the job then fails alone, in its own folder. All of
this also holds in the processes of other launchers, which compose the configs of their jobs themselves. Jobs of other
programs are not affected. A config that is to be a test of a checkpoint chooses one, and loads it. This module wraps a
private part of Hydra: `ConfigLoaderImpl.load_sweep_config`.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from ..errors import ConfigError
from ..text.lines import MISSING, Fix, line
from ..text.wording import safe_text
from .compose import near_misses
from .layers import is_ours, users_file
from .messages import translate
from .sharing import sharing
from .zips import spread, unpacked

_REFUSAL = "refusal"
"""The key of Hydra's own node under which a stand-in contains the refusal."""
_TESTING = ("load", "convert", "replay")
"""The modes that verify what they load."""
_DEFAULT = "default"
"""The option of the group `checkpoint` that is loaded if none is chosen."""
_NUMBER = "${hydra.job.num}"
_NUMBERED = re.compile(r"\$\{hydra[.:]job\.(num|id)\}")


def is_numbered(pattern: str) -> bool:
    """Returns whether a path contains the number of the job, and so is another one for each job."""
    return _NUMBERED.search(pattern) is not None


def is_only_numbered(pattern: str) -> bool:
    """Returns whether a path differs between jobs by their number alone."""
    return "${" not in _NUMBERED.sub("", pattern)


def compose_job(loader: Any, config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Composes the config of a job.

    Args:
        loader: Hydra's config loader.
        config: The sweep's own config.
        overrides: The job's overrides, as the sweeper gives them; those of a zip may be packed.

    Raises:
        ConfigError: It cannot be composed.
    """
    try:
        return _LOAD(sharing(loader), config, spread(overrides))
    except Exception as error:
        refusal = translate(error, overrides)
        if refusal is None:
            raise
        raise refusal from error


def refuse_untested(config: DictConfig, hydra: Any, loader: Any) -> None:
    """Refuses a job that would end well although the checkpoint that it is to test was not loaded.

    Args:
        config: The job's composed config.
        hydra: Hydra's own node of it, under its key.
        loader: Hydra's config loader.

    Raises:
        ConfigError: A key resembles one of the loader's, the mode verifies nothing, or the default would be loaded.
    """
    overrides = list(map(str, hydra.hydra.overrides.task))
    notes = near_misses(config, overrides)
    if notes:
        raise ConfigError("; ".join(notes), Fix(note="in a test, rename the key or remove it"))
    mode = config.get("mode")
    if mode not in _TESTING:
        fault = f"'mode' is '{safe_text(mode)}', which verifies nothing; a test loads a checkpoint"
        raise ConfigError(fault, line("mode", _TESTING[0]))
    if mode != "replay" and not _chooses_checkpoint(hydra, loader, overrides):
        shipped = safe_text(OmegaConf.select(config, "checkpoint.path"))
        fault = f"the config chooses no checkpoint, and a test of it would load the default, {shipped}"
        raise ConfigError(fault, Fix("checkpoint.path=FILE", "the file to test, in the config"))


def _chooses_checkpoint(hydra: Any, loader: Any, overrides: Sequence[str]) -> bool:
    """Returns whether a config has a file to load without the shipped default."""
    option = OmegaConf.select(hydra, "hydra.runtime.choices.checkpoint")
    if option != _DEFAULT or users_file(f"checkpoint/{_DEFAULT}") != f"checkpoint/{_DEFAULT}":
        return True
    own = compose_job(loader, hydra, [*overrides, f"~checkpoint={_DEFAULT}"])
    places = [own.get("checkpoint"), *(own.get("parts") or {}).values()]
    return any(isinstance(place, DictConfig) and place.get("path", MISSING) not in (None, MISSING) for place in places)


def names_no_option(override: str, loader: Any) -> bool:
    """Returns whether an override of a config group is not the name of one of its options, or a list of them."""
    files, group = loader.repository, override.lstrip("+").partition("=")[0].partition("@")[0]
    if override.startswith("~") or not files.group_exists(group):
        return False
    value = OverridesParser.create().parse_override(override).value()
    if value is None or isinstance(value, dict):
        return False
    names = value if isinstance(value, list) else [value]
    return any(not isinstance(name, str) or not files.config_exists(f"{group}/{name}") for name in names)


def refusal_in(hydra: Any) -> ConfigError | None:
    """Returns why a job's config could not be composed, from Hydra's settings for the job; None if it was."""
    if _REFUSAL not in hydra:
        return None
    told = json.loads(hydra[_REFUSAL])
    return ConfigError(told["message"], *(Fix(**fix) for fix in told["fixes"]))


def _load_sweep_config(self: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
    if not is_ours(self):
        return _LOAD(self, master_config, list(sweep_overrides))
    try:
        return compose_job(self, master_config, sweep_overrides)
    except ConfigError as refusal:
        return _stand_in(master_config, sweep_overrides, refusal)


def _stand_in(config: DictConfig, overrides: Sequence[str], refusal: ConfigError) -> DictConfig:
    """Returns the sweep's own config with the overrides of a job and the reason that they could not be applied."""
    told = json.dumps({"message": refusal.message, "fixes": [dataclasses.asdict(fix) for fix in refusal.fixes]})
    made = copy.deepcopy(config)
    with read_write(made), open_dict(made.hydra):
        made.hydra.overrides.task = [one for one in unpacked(overrides) if not one.startswith("hydra.")]
        made.hydra[_REFUSAL] = told.replace("$", "\\u0024")  # it may quote an interpolation, and is not one
        subdir = OmegaConf.to_container(made.hydra.sweep, resolve=False).get("subdir")  # type: ignore[union-attr]
        if not is_numbered(str(subdir)):
            made.hydra.sweep.subdir = f"refused-{_NUMBER}"
    OmegaConf.copy_cache(from_config=config, to_config=made)
    return made


_LOAD, ConfigLoaderImpl.load_sweep_config = ConfigLoaderImpl.load_sweep_config, _load_sweep_config  # type: ignore[method-assign]
