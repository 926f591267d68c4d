"""The jobs of a sweep, before the first one starts.

Guarantees: the overrides of each job are known, in Hydra's order, unless the sweeper chooses jobs as results come in;
`hydra.sweeper.params` of a config mean the same as on the command line. A mistyped key, option or name is refused, at
the cost of composing one job. This module wraps a private part of Hydra: `BasicSweeper.split_arguments`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from ..config.jobs import compose_job, names_no_option
from ..config.lists import refused_lists
from ..config.rewrite import rewrite
from ..config.zips import names_in, refuse_known, spread
from ..errors import ConfigError
from ..text.lines import line, without_interpolation
from .records import draws_jobs, typed_overrides


def rewrite_params(config: DictConfig) -> None:
    """Gives the parameters of a config's sweep the meaning that they have on the command line."""
    params = OmegaConf.select(config, "hydra.sweeper.params")
    if not params:
        return
    typed = [f"{key}={'null' if value is None else value}" for key, value in params.items()]
    pairs = (override.partition("=") for override in rewrite(typed, sweep=True))
    with open_dict(config.hydra):
        config.hydra.sweeper.params = {key: without_interpolation(value) for key, _, value in pairs}


def _parameters(config: DictConfig) -> list[str]:
    params = OmegaConf.select(config, "hydra.sweeper.params")
    return [f"{key}={value}" for key, value in (params or {}).items()]


def expected_jobs(config: DictConfig) -> list[list[str]] | None:
    """Lists the overrides of every job of a sweep, in Hydra's order.

    Only the sweeper itself knows how it splits values into jobs; this asks Hydra's own as `BasicSweeper.sweep` does.
    Any other sweeper chooses its jobs as results come in.

    Raises:
        ConfigError: A key has values in two places.
    """
    if draws_jobs(config.hydra):
        return None
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*_parameters(config), *typed_overrides(config.hydra)])
    batches = BasicSweeper.split_arguments(overrides, None)
    return [spread(job) for batch in batches for job in batch]


def refuse_mistyped(config: DictConfig, jobs: Sequence[Sequence[str]], composer: Any) -> None:
    """Refuses a sweep with a mistyped option or name, or of which no job's config can be composed.

    Args:
        config: The sweep's own config.
        jobs: The overrides of each job.
        composer: Hydra's config loader.

    Raises:
        ConfigError: As the first such job would be refused.
    """
    for name in names_in([*typed_overrides(config.hydra), *_parameters(config)]):
        if name in config or composer.repository.group_exists(name):
            refuse_known(name)
    first_with = {override: job for job in reversed(jobs) for override in job}
    for job in (first_with[override] for override in first_with if names_no_option(override, composer)):
        as_typed = refused_lists(typed_overrides(config.hydra))
        if as_typed is not None:
            raise as_typed
        compose_job(composer, config, job)
    first: ConfigError | None = None
    for job in jobs:
        try:
            compose_job(composer, config, job)
        except ConfigError as refusal:
            first = first or refusal
        else:
            return
    if first is not None:
        raise first


def refuse_absent_reference(reference: int, jobs: Sequence[Sequence[str]] | None) -> None:
    """Refuses a job to compare with that a sweep does not have, as far as its jobs are known.

    Args:
        reference: The value of ``sweep.compare.reference``.
        jobs: The overrides of each job; None if the sweeper chooses them as it goes.

    Raises:
        ConfigError: It is not the number of a job.
    """
    if jobs and reference >= len(jobs):
        last = len(jobs) - 1
        expected = f"the number of one of this sweep's jobs, from 0 to {last}" if last else "0, this sweep's only job"
        fault = f"'sweep.compare.reference' is {reference}, expected {expected}"
        raise ConfigError(fault, line("sweep.compare.reference", last))


def refuse_replacing(config: DictConfig, jobs: Sequence[Sequence[str]], folder: Path) -> None:
    """Refuses a sweep into a folder that holds a run that it repeats.

    Args:
        config: The sweep's own config.
        jobs: The overrides of each job, as far as they are known.
        folder: The sweep's folder.

    Raises:
        ConfigError: It holds one.
    """
    swept = {one for job in jobs for one in job if one.startswith(("mode=", "replay.path="))}
    if config.get("mode") != "replay" and "mode=replay" not in swept:
        return
    from ..modes.replay import recorded  # noqa: PLC0415  # few sweeps repeat runs

    parser = OverridesParser.create()
    values = [parser.parse_override(one).value() for one in swept if one.startswith("replay.path=")]
    for named in (OmegaConf.select(config, "replay.path"), *values):
        recorded.refuse_replacing(named, folder, swept=True)
