"""What a sweep is about to do, noted before its first job starts.

Guarantees: the jobs that a sweep will have are known even if none of them gets to run. Hydra tells nobody which jobs
there are and calls nothing when a sweep breaks off, so a callback that `conf/config.yaml` names takes notes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from loader.config.argv import readable

_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep: its folder, and the overrides of each job; None where the sweeper decides as it goes."""

    folder: Path
    jobs: list[list[str]] | None


class SweepCallback(Callback):
    """Hydra calls it in the process that starts the jobs."""

    def on_multirun_start(self, config: DictConfig, **_kwargs: Any) -> None:
        """Notes the sweep, and clears away what an earlier one left in its folder."""
        from loader.sweep.records import forget  # noqa: PLC0415  # a single run keeps no records

        folder = Path(config.hydra.runtime.cwd, str(config.hydra.sweep.dir))
        forget(folder)
        _seen.append(Sweep(folder, expected_jobs(config)))
        if _targets(config) == (_BASIC_SWEEPER, _BASIC_LAUNCHER):
            compose_once(GlobalHydra.instance().config_loader())


_seen: list[Sweep] = []


def take_sweep() -> Sweep | None:
    """Returns the sweep that was started last, once."""
    return _seen.pop() if _seen else None


def compose_once(loader: Any) -> None:
    """Has a config loader keep each job's config from where the sweeper tries it out until the launcher asks for it.

    Hydra's own sweeper and launcher compose every job twice, and one composition takes longer than all else that a job
    costs beside its load. Only both together do: another sweeper tries nothing out, and draws one job several times;
    another launcher sends the config loader to other processes.
    """
    compose: Callable[..., DictConfig] = loader.load_sweep_config
    kept: dict[tuple[str, ...], DictConfig | None] = {}

    def load_sweep_config(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        job = tuple(sweep_overrides)
        known, first = kept.get(job), job not in kept
        made = compose(master_config, sweep_overrides) if known is None else known
        kept[job] = made if first else None  # handed out to be run, it will be changed
        return made

    loader.load_sweep_config = load_sweep_config


def _targets(config: DictConfig) -> tuple[Any, ...]:
    return tuple(OmegaConf.select(config, f"hydra.{plugin}._target_") for plugin in ("sweeper", "launcher"))


def expected_jobs(config: DictConfig) -> list[list[str]] | None:
    """Lists the overrides of every job of a sweep, in Hydra's order.

    Only the sweeper itself knows how it splits values into jobs; this asks Hydra's own one the way it asks itself
    (`BasicSweeper.sweep`). Any other sweeper chooses its jobs as results come in.
    """
    if _targets(config)[0] != _BASIC_SWEEPER:
        return None
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # noqa: PLC0415  # private: kept to this place

    from loader.sweep.records import typed_overrides  # noqa: PLC0415  # a single run keeps no records

    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*parameters, *typed_overrides(config.hydra)])
    batches = BasicSweeper.split_arguments(overrides, None)
    return [readable(job) for batch in batches for job in batch]
