"""What a sweep is about to do, noted before its first job starts.

Guarantees: the jobs that a sweep will have are known even if none of them gets to run; a sweep that would lose results
is refused before that; `hydra.sweeper.params` of a config mean the same as on the command line. Hydra tells nobody
which jobs there are and calls nothing when a sweep breaks off, so a callback that `conf/config.yaml` names takes notes.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ..config.rewrite import rewrite
from ..errors import ConfigError
from .private import refuse_secret_run, refuse_secret_sweep

if TYPE_CHECKING:
    from .folder import Claim

_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep: its folder, and the overrides of each job; None where the sweeper decides as it goes."""

    folder: Path
    jobs: list[list[str]] | None
    plugins: tuple[str, ...] = field(default=(), compare=False)
    """The sweeper and the launcher that are not Hydra's own."""
    claim: Claim | None = field(default=None, compare=False)


class Abandoned(BaseException):
    """Leaves Hydra before a job runs: of an Exception that a callback raises, Hydra makes a warning.

    Args:
        refusal: Why, a bug included; None where a config says that this is a sweep, and the command line was not read
            as one.
    """

    def __init__(self, refusal: Exception | None) -> None:
        super().__init__(refusal)
        self.refusal = refusal


class SweepCallback(Callback):
    """Hydra calls it in the process that starts the jobs."""

    def on_run_start(self, config: DictConfig, **_kwargs: Any) -> None:
        """Refuses what was refused before it was known that this is a single run, and a secret in its folder's name."""
        if _expected.refusal is not None:
            raise Abandoned(_expected.refusal)
        _asked(refuse_secret_run, config)

    def on_multirun_start(self, config: DictConfig, **_kwargs: Any) -> None:
        """Notes the sweep, once nothing that it writes will be lost."""
        if not _expected.sweep:
            raise Abandoned(None)
        _asked(_begin, config)


def _asked(check: Callable[[DictConfig], None], config: DictConfig) -> None:
    try:
        check(config)
    except (HydraException, OmegaConfBaseException):
        return  # Hydra meets the same next, and is heard
    except Exception as refusal:
        raise Abandoned(refusal) from refusal


@dataclass(slots=True)
class _Expected:
    sweep: bool = True
    refusal: ConfigError | None = None


_expected = _Expected()
_seen: list[Sweep] = []


@contextmanager
def expecting(*, sweep: bool, refusal: ConfigError | None = None) -> Iterator[None]:
    """Says how the command line was read, which only a config can say to be wrong.

    Args:
        sweep: Whether as a sweep's.
        refusal: Why it is none of a single run.
    """
    before = _expected.sweep, _expected.refusal
    _expected.sweep, _expected.refusal = sweep, refusal
    try:
        yield
    finally:
        _expected.sweep, _expected.refusal = before


def take_sweep() -> Sweep | None:
    """Returns the sweep that was started last, once."""
    return _seen.pop() if _seen else None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a sweep was started, for a launcher's process that runs a job of it."""

    folder: Path
    host: str


def origin() -> Origin | None:
    """Returns where the sweep that this process was started for is at home; None in any other process."""
    return Origin(_seen[-1].folder, platform.node()) if _seen else None


def _begin(config: DictConfig) -> None:
    from .basic import compose_once  # noqa: PLC0415  # a single run has no sweep
    from .folder import Claim  # noqa: PLC0415
    from .shared import refuse_shared  # noqa: PLC0415

    rewrite_params(config)
    jobs, composer = expected_jobs(config), GlobalHydra.instance().config_loader()
    refuse_secret_sweep(config, jobs, composer)
    refuse_shared(config, jobs, composer)
    folder = Path(config.hydra.runtime.cwd, str(config.hydra.sweep.dir))
    targets = _targets(config)
    own = tuple(str(target) for target in targets if target not in (_BASIC_SWEEPER, _BASIC_LAUNCHER))
    _seen.append(Sweep(folder, jobs, own, Claim(folder)))
    if targets == (_BASIC_SWEEPER, _BASIC_LAUNCHER):
        compose_once(composer)


def rewrite_params(config: DictConfig) -> None:
    """Makes what a config sweeps over mean what it would mean on the command line."""
    params = OmegaConf.select(config, "hydra.sweeper.params")
    if not params:
        return
    typed = [f"{key}={'null' if value is None else value}" for key, value in params.items()]
    pairs = (override.partition("=") for override in rewrite(typed, sweep=True))
    with open_dict(config.hydra):
        config.hydra.sweeper.params = {key: value for key, _, value in pairs}


def _targets(config: DictConfig) -> tuple[Any, ...]:
    return tuple(OmegaConf.select(config, f"hydra.{plugin}._target_") for plugin in ("sweeper", "launcher"))


def draws_jobs(hydra: Any) -> bool:
    """Says whether only the sweeper knows which jobs there are, as it learns from results."""
    return bool(OmegaConf.select(hydra, "sweeper._target_") != _BASIC_SWEEPER)


def expected_jobs(config: DictConfig) -> list[list[str]] | None:
    """Lists the overrides of every job of a sweep, in Hydra's order.

    Only the sweeper itself knows how it splits values into jobs; this asks Hydra's own one the way it asks itself
    (`BasicSweeper.sweep`). Any other sweeper chooses its jobs as results come in.
    """
    if draws_jobs(config.hydra):
        return None
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # noqa: PLC0415  # private: kept to this place

    from .records import typed_overrides  # noqa: PLC0415  # a single run keeps no records

    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*parameters, *typed_overrides(config.hydra)])
    batches = BasicSweeper.split_arguments(overrides, None)
    return [[*job] for batch in batches for job in batch]
