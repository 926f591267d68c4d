"""A user's own configs laid over the shipped ones.

Guarantees: of two configs with one name, the one in the user's folder (``--config-dir``, ``LOADER_CONFIG_DIR``,
``hydra.searchpath``) wins. A user's primary config is laid over the shipped one, so that every key of the loader
exists. Typed rules replace those of a file, and a typed model or checkpoint replaces that of a user's primary config.
Names of rules in a config file (``rules: [ddp, compile]``) mean what they mean on a command line. ``glob(...)`` over
the options of a group takes the user's own if it matches any. Other applications, with another primary folder, are not
affected. This module wraps private parts of Hydra, which has no hook for this: see the end.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.default_element import ConfigDefault, GroupDefault, InputDefault, ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins  # noqa: F401  # registers the sources
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError
from ..files.path import conf_dir
from ..schema import AUTO, JobConfig
from ..text.lines import typed
from ..text.wording import listing, safe_text
from .rewrite import CLEARED
from .sections import no_such_rules

VARIABLE = "LOADER_CONFIG_DIR"
"""Environment variable with a user's config folder, like --config-dir."""

CONFIG_NAME = "config"
"""Name of the shipped primary config."""

_BASE = "_loader_defaults_"
"""Name of the shipped primary config when a user's is laid over it."""

_LAST = "experiment"

_GLOBAL = "# @package _global_"
_JOB = tuple(field.name for field in dataclasses.fields(JobConfig))

_OUR_OWN = ("rules/", "hydra/")
"""Prefixes of configs whose rules were chosen by option, or that clear them."""

_USERS = ("command-line", "hydra.searchpath")
"""Prefixes of Hydra's provider names for a user's folders."""

_folders: list[Path] = []
"""The user's folders of the last search, for refusals."""


def replaced(choices: Iterable[tuple[str, Any]], sources: Iterable[tuple[str, str]], primary: str) -> Iterator[str]:
    """Reports which of the configs in use are the user's instead of shipped ones.

    Args:
        choices: Group → option, or list of options, as Hydra keeps them.
        sources: Path and provider of each folder that was searched.
        primary: Name of the primary config.
    """
    options = [primary, *(f"{group}/{option}" for group, chosen in choices for option in _listed(chosen))]
    folders = [Path(path) for path, provider in sources if provider.startswith(_USERS)]
    for option in options:
        name = f"{option}.yaml"
        own = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if own is not None and (conf_dir() / name).is_file():
            yield f"{own} is {'laid over' if option == primary else 'used in place of'} the shipped {name}"


def primaries(group: str) -> list[str]:
    """Lists the primary configs in the user's folders whose defaults list chooses an option of a group."""
    found = {path.stem for folder in _folders for path in sorted(folder.glob("*.yaml")) if group in _chosen_in(path)}
    return sorted(found)


def _chosen_in(path: Path) -> set[str]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return set()  # not a config to offer
    defaults = content.get("defaults") if isinstance(content, dict) else None
    entries = [entry for entry in defaults if isinstance(entry, dict)] if isinstance(defaults, list) else []
    return {str(key).rpartition(" ")[2].removeprefix("/") for entry in entries for key in entry}


def _listed(chosen: Any) -> list[Any]:
    return list(chosen) if isinstance(chosen, Iterable) and not isinstance(chosen, str) else [chosen]


def _variable() -> Path | None:
    """Returns the folder that the environment names; raises ConfigError if it is not a folder."""
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"{VARIABLE} is {named}, which is not a folder", typed("unset", VARIABLE))
    return folder


def _ours(sources: Iterable[ConfigSource]) -> ConfigSource | None:
    return next((s for s in sources if s.provider == "main" and s.path == str(conf_dir())), None)


def _is_users(source: ConfigSource) -> bool:
    return source.provider.startswith(_USERS)


def _initialize(self: ConfigRepository, config_search_path: Any) -> None:
    _INITIALIZE(self, config_search_path)
    if _ours(self.sources) is None:
        return
    folder = _variable()
    if folder is not None and not any(source.path == str(folder) for source in self.sources):
        self.sources.insert(0, FileConfigSource(_USERS[0], f"file://{folder}"))
    _folders[:] = [Path(source.path) for source in self.sources if _is_users(source)]
    # Hydra's own configs stay first: its own node must be found before any other.
    self.sources.sort(key=lambda source: 0 if source.provider == "hydra" else 1 if _is_users(source) else 2)


def _load(self: ConfigRepository, config_path: str) -> ConfigResult | None:
    ours = _ours(self.sources)
    if ours is None:
        return _LOAD(self, config_path)
    if config_path == _BASE:
        shipped = ours.load_config(CONFIG_NAME)
        self._extract_defaults_list(_BASE, shipped.config)  # it is spread over the user's own list
        shipped.defaults_list = []
        return shipped
    found = _LOAD(self, config_path)
    if found is not None and config_path == getattr(self, "primary", None) and found.provider != ours.provider:
        own = found.defaults_list or []
        if any(isinstance(default, ConfigDefault) and default.path == CONFIG_NAME for default in own):
            return found  # it includes the shipped one itself
        raw = self._extract_defaults_list(CONFIG_NAME, ours.load_config(CONFIG_NAME).config)
        found.defaults_list = _over_base(own, self._create_defaults_list(CONFIG_NAME, raw))
    return found


def _over_base(own: list[InputDefault], shipped: list[InputDefault]) -> list[InputDefault]:
    """Puts the shipped defaults list below a user's own; the user's choice of a group's option wins.

    An experiment comes last, as in the shipped list: it may override everything before it.
    """
    chosen = {_group(default) for default in own}
    below = [default for default in shipped if not default.is_self() and _group(default) not in chosen]
    groups = [default for default in own if not default.is_override()]
    if not any(default.is_self() for default in groups):
        groups.append(ConfigDefault(path="_self_"))
    first = [default for default in below if not default.is_override() and _group(default) != _LAST]
    last = [default for default in below if _group(default) == _LAST]
    overrides = [default for default in (*own, *below) if default.is_override()]
    return [ConfigDefault(path=_BASE), *first, *groups, *last, *overrides]


def _group(default: InputDefault) -> str | None:
    """Returns the group of which an entry in a defaults list chooses an option; None for other entries."""
    plain = isinstance(default, GroupDefault) and default.package is None
    return default.group.removeprefix("/") if plain and default.group else None  # type: ignore[attr-defined]


def is_ours(loader: ConfigLoaderImpl) -> bool:
    """Returns whether a config loader composes this project's configs, rather than another application's."""
    return _ours(loader.repository.get_sources()) is not None


def note_choices(loader: ConfigLoaderImpl, config_name: str | None, overrides: Iterable[str]) -> None:
    """Notes the primary config and the groups that are typed, which decide what is laid over what."""
    loader.repository.primary = config_name  # type: ignore[attr-defined]  # the repository does not know it otherwise
    keys = [override.partition("=")[0] for override in overrides]
    keys += ["rules" for override in overrides if re.match(r"\+hydra/clear=.*\brules\b", override)]
    loader.repository.typed = [key for key in keys if key in CLEARED]  # type: ignore[attr-defined]  # likewise


def _parse(self: ConfigLoaderImpl, config_name: str | None, overrides: list[str]) -> Any:
    note_choices(self, config_name, overrides)
    return _PARSE(self, config_name, overrides)


def _load_one(self: ConfigLoaderImpl, default: ResultDefault, repo: Any) -> ConfigResult:
    loaded = _LOAD_ONE(self, default, repo)
    path = default.config_path or ""
    is_base = path == _BASE or (path == CONFIG_NAME and loaded.provider == "main")
    if is_base or path.startswith(_OUR_OWN) or _ours(self.repository.get_sources()) is None:
        return loaded
    if path.startswith(f"{_LAST}/"):
        _refuse_elsewhere(path, default.package or "", loaded)
    primary = path == getattr(self.repository, "primary", None)
    typed = (group for group in getattr(self.repository, "typed", ()) if primary or group == "rules")
    gone = [name for group in typed if group in loaded.config for name in CLEARED[group]]
    return _with_named_rules(_without(loaded, gone) if gone else loaded, repo)


def _refuse_elsewhere(path: str, package: str, loaded: ConfigResult) -> None:
    """Refuses an experiment whose settings are below its own key, where they would have no effect."""
    below = OmegaConf.select(loaded.config, package) if package.partition(".")[0] == _LAST else None
    keys = [f"'{key}'" for key in _JOB if isinstance(below, DictConfig) and key in below]
    if keys:
        file = f"{loaded.path.removeprefix('file://')}/{path}.yaml"
        raise without_package(file, f"sets {listing(keys)} under '{safe_text(package)}', where it has no effect")


def without_package(file: str, fault: str) -> ConfigError:
    """Returns the refusal of an experiment without the line that makes its settings the loader's."""
    return ConfigError(
        f"{safe_text(file, 400)} {fault}; expected '{_GLOBAL}' as the first line of an experiment",
        typed("sed", "-i", f"1i {_GLOBAL}", file, note="inserts the line"),
    )


def users_file(name: str) -> str:
    """Returns the file of a user's config; its name if none of the folders has it."""
    files = (folder / f"{name}.yaml" for folder in _folders)
    return str(next((file for file in files if file.is_file()), name))


def _without(loaded: ConfigResult, paths: Iterable[str]) -> ConfigResult:
    """Removes the nodes that were typed: Hydra would merge both."""
    rest = copy.copy(loaded)
    rest.config = copy.deepcopy(loaded.config)
    for path in paths:
        above, _, name = path.rpartition(".")
        node = OmegaConf.select(rest.config, above) if above else rest.config
        if isinstance(node, DictConfig):
            node.pop(name, None)
    return rest


def _sweep(self: Override, *args: Any, **kwargs: Any) -> Any:
    repository = getattr(self.config_loader, "repository", None)
    if isinstance(self._value, Glob) and repository is not None and _ours(repository.get_sources()) is not None:
        group = self.key_or_group
        own = [s for s in repository.get_sources() if _is_users(s) and s.is_group(group)]
        names = {name for source in own for name in source.list(group, ObjectType.CONFIG)}
        found = self._value.filter(sorted(names))
        if found:
            return iter(found)
    return _SWEEP(self, *args, **kwargs)


# Hydra 1.3 has no hook for the order of its sources, nor for a config below a primary one.
_INITIALIZE, ConfigRepository.initialize_sources = ConfigRepository.initialize_sources, _initialize  # type: ignore[method-assign]
_LOAD, ConfigRepository.load_config = ConfigRepository.load_config, _load  # type: ignore[method-assign]
_PARSE = ConfigLoaderImpl._parse_overrides_and_create_caching_repo  # noqa: SLF001
ConfigLoaderImpl._parse_overrides_and_create_caching_repo = _parse  # type: ignore[method-assign]  # noqa: SLF001
_LOAD_ONE, ConfigLoaderImpl._load_single_config = ConfigLoaderImpl._load_single_config, _load_one  # type: ignore[method-assign]  # noqa: SLF001
_SWEEP, Override.sweep_iterator = Override.sweep_iterator, _sweep  # type: ignore[method-assign]


_GROUP = "rules"


def _with_named_rules(loaded: ConfigResult, repository: Any) -> ConfigResult:
    """Returns a config with rules in place of their names; raises ConfigError if a name is unknown."""
    raw = OmegaConf.to_container(loaded.config, resolve=False)
    if not isinstance(raw, dict):
        return loaded
    given = raw.get(_GROUP)
    names = [given] if isinstance(given, str) else given
    options = repository.get_group_options(_GROUP, ObjectType.CONFIG) if isinstance(names, list) else []
    if not isinstance(names, list) or (isinstance(given, str) and given not in options):
        return loaded  # a mapping; or an interpolation or other text, which is checked when it is resolved
    others = [name for name in names if name not in options or (name == AUTO and len(names) > 1)]
    if others:
        raise ConfigError(*no_such_rules(_GROUP, names, others, [name for name in options if name != AUTO]))
    rules = AUTO if names == [AUTO] else dict(pair for name in names for pair in _rules_of(name, repository))
    changed = copy.copy(loaded)
    changed.config = OmegaConf.create({**raw, _GROUP: rules}, flags=loaded.config._metadata.flags)
    return changed


def _rules_of(name: str, repository: Any) -> Iterator[tuple[Any, Any]]:
    found = repository.load_config(f"{_GROUP}/{name}")
    content = OmegaConf.to_container(found.config, resolve=False) if isinstance(found.config, DictConfig) else {}
    yield from content.items() if isinstance(content, dict) else ()
