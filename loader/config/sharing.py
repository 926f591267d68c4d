"""The configs of a sweep's jobs, composed with everything that the jobs have in common done once.

Guarantees: a job's config is what Hydra alone would compose. Config files are read as they were when the first job
needed them, so that editing one changes no later job of the sweep. Most jobs differ in values only: those share the
merged config of their groups, and each gets its own copy. Nothing is shared between sweeps, or with another program.
This module wraps private parts of Hydra: `ConfigLoaderImpl` and `create_defaults_list`.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import hydra._internal.config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import DefaultsList
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from .layers import note_choices

_CLEAR = re.compile(r"\+hydra/clear=\[(.*)\]")

_Made = TypeVar("_Made")


class _Few(OrderedDict[Hashable, _Made]):
    """The results made last; a sweep over groups comes back to each of its choices after a few jobs."""

    _MOST = 16

    def known_or(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        if key not in self:
            self[key] = make()
            if len(self) > self._MOST:
                self.popitem(last=False)
        self.move_to_end(key)
        return self[key]


class _Repository(CachingConfigRepository):
    """The config files of a sweep, and the defaults lists made of them."""

    def __init__(self, files: CachingConfigRepository) -> None:
        self.delegate, self.cache = files.delegate, files.cache
        self.lists: _Few[DefaultsList] = _Few()

    def copied(self) -> CachingConfigRepository:
        """Returns a repository whose configs may be merged, which takes their nodes over."""
        made = copy.copy(self)
        made.cache = copy.deepcopy(self.cache)
        return made


class _Composer(ConfigLoaderImpl):
    """A config loader that composes the jobs of one sweep."""

    def __init__(self, origin: ConfigLoaderImpl) -> None:
        self.config_search_path = origin.config_search_path
        self.repository = origin.repository
        self._files: dict[Hashable, _Repository] = {}
        self._merged: _Few[DictConfig] = _Few()

    def _parse_overrides_and_create_caching_repo(self, config_name: str | None, overrides: list[str]) -> Any:
        overrides = _cleared_once(overrides)
        searched = (config_name, *(override for override in overrides if override.startswith("hydra.searchpath")))
        if searched not in self._files:
            _, files = super()._parse_overrides_and_create_caching_repo(config_name, overrides)
            self._files[searched] = _Repository(files)
        note_choices(self, config_name, overrides)
        return OverridesParser.create().parse_overrides(overrides=overrides), self._files[searched]

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: Any) -> DictConfig:
        typed = tuple(getattr(self.repository, "typed", ()))
        key = (id(repo), typed, *(dataclasses.astuple(default) for default in defaults))
        compose = super()._compose_config_from_defaults_list
        return copy.deepcopy(self._merged.known_or(key, lambda: compose(defaults, repo.copied())))


def _cleared_once(overrides: Sequence[str]) -> list[str]:
    """Joins the lists of what is cleared for a whole sweep and for one job: Hydra takes one choice of a group."""
    lists = [found[1].split(",") for one in overrides if (found := _CLEAR.fullmatch(one))]
    rest = [one for one in overrides if not _CLEAR.fullmatch(one)]
    names = dict.fromkeys(name for names in lists for name in names)
    return [f"+hydra/clear=[{','.join(names)}]", *rest] if len(lists) > 1 else list(overrides)


def _create_defaults_list(
    repo: Any, config_name: str | None, overrides_list: list[Override], prepend_hydra: bool, skip_missing: bool
) -> DefaultsList:
    def create() -> DefaultsList:
        made: DefaultsList = _CREATE(repo, config_name, overrides_list, prepend_hydra, skip_missing)
        return made

    if not isinstance(repo, _Repository):
        return create()
    values = [one for one in overrides_list if not one.is_sweep_override() and not _chooses(one, repo)]
    choices = (one.input_line for one in overrides_list if one not in values)
    made = repo.lists.known_or((config_name, prepend_hydra, skip_missing, *choices), create)
    return dataclasses.replace(made, config_overrides=values)


def _chooses(override: Override, repo: _Repository) -> bool:
    """Returns whether an override chooses options of a group, as Hydra decides it."""
    return repo.group_exists(override.key_or_group) and not isinstance(override.value(), dict)


_composers: WeakKeyDictionary[ConfigLoaderImpl, _Composer] = WeakKeyDictionary()


def sharing(loader: ConfigLoaderImpl) -> ConfigLoaderImpl:
    """Returns a config loader for the jobs of one sweep, which shares what they have in common.

    Args:
        loader: Hydra's own, of which there is one for each run of Hydra.
    """
    return _composers.setdefault(loader, _Composer(loader))


_module: Any = hydra._internal.config_loader_impl  # noqa: SLF001
_CREATE = _module.create_defaults_list
_module.create_defaults_list = _create_defaults_list
