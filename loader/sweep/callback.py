"""Hydra's callback: notes the jobs of a sweep before the first one starts.

Guarantees: the jobs of a sweep are known even if none of them runs; a sweep that would lose results is refused before
it starts; the record of a job that another process ran comes back with its result. Hydra does not report the jobs of a
sweep, nor that a sweep broke off, so `conf/config.yaml` names this callback to record them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError
from ..schema import SweepConfig
from ..text.redaction import has_secrets, remember

if TYPE_CHECKING:
    from .command import Start
    from .folders import Claim
    from .watch import Watch

_BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep: its folder, and the overrides of each job; None if the sweeper chooses jobs as it goes."""

    folder: Path
    jobs: list[list[str]] | None
    plugins: tuple[str, ...] = field(default=(), compare=False)
    """The sweeper and the launcher, unless they are Hydra's own."""
    claim: Claim | None = field(default=None, compare=False)
    start: Start | None = field(default=None, compare=False)
    """How it was started; None if no command line was read."""
    settings: SweepConfig = field(default_factory=SweepConfig, compare=False)
    watch: Watch | None = field(default=None, compare=False)
    """Prints its lines."""


class Abandoned(BaseException):
    """Leaves Hydra before a job runs; Hydra would turn an Exception of a callback into a warning.

    Args:
        refusal: The reason, which may be a bug; None if a config makes this a sweep, and the command line was read as a
            single run.
    """

    def __init__(self, refusal: Exception | None) -> None:
        super().__init__(refusal)
        self.refusal = refusal


class DryRun(BaseException):
    """Leaves Hydra after the jobs of a sweep were listed; none of them runs."""


class SweepCallback(Callback):
    """Called by Hydra in the process that starts the jobs."""

    def on_run_start(self, config: DictConfig, **_kwargs: Any) -> None:
        """Raises a pending refusal, as this is a single run after all; refuses a folder that it must not have."""
        if _expected.refusal is not None:
            raise Abandoned(_expected.refusal)
        _asked(_refuse_secret, config)
        _asked(_refuse_replacing, config)

    def on_multirun_start(self, config: DictConfig, **_kwargs: Any) -> None:
        """Notes the sweep, after checking that none of its results will be lost."""
        if not _expected.sweep:
            raise Abandoned(None)
        _asked(_begin_or_refuse, config)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_kwargs: Any) -> None:
        """Adds a job's record to what a launcher's process gives back: the disk may have no room for it."""
        if config.hydra.mode == RunMode.MULTIRUN:
            from .records import hand_over  # noqa: PLC0415  # a single run has no record

            hand_over(int(config.hydra.job.num), job_return)


def _refuse_secret(config: DictConfig) -> None:
    remember(OmegaConf.to_container(config, resolve=False))
    if has_secrets():
        from .folders import refuse_secret_run  # noqa: PLC0415  # hardly any run has a secret

        refuse_secret_run(config)


def _refuse_replacing(config: DictConfig) -> None:
    if config.get("mode") == "replay":
        from ..modes.replay.recorded import refuse_replacing  # noqa: PLC0415  # only this mode needs it
        from .folders import at_hand  # noqa: PLC0415  # likewise

        with at_hand(config):
            folder = Path(config.hydra.runtime.cwd, str(config.hydra.run.dir))
        refuse_replacing(OmegaConf.select(config, "replay.path"), folder)


def _asked(check: Callable[[DictConfig], None], config: DictConfig) -> None:
    try:
        check(config)
    except (HydraException, OmegaConfBaseException):
        return  # Hydra will raise the same error next
    except Exception as refusal:
        raise Abandoned(refusal) from refusal


@dataclass(slots=True)
class _Expected:
    sweep: bool = True
    refusal: ConfigError | None = None
    start: Start | None = None


_expected = _Expected()
_seen: list[Sweep] = []


@contextmanager
def expecting(*, sweep: bool, refusal: ConfigError | None = None, start: Start | None = None) -> Iterator[None]:
    """Sets how the command line was read, which a config may contradict.

    Args:
        sweep: Whether it was read as a sweep.
        refusal: Why it is not valid for a single run.
        start: How a sweep was started.
    """
    before = _expected.sweep, _expected.refusal, _expected.start
    _expected.sweep, _expected.refusal, _expected.start = sweep, refusal, start
    try:
        yield
    finally:
        _expected.sweep, _expected.refusal, _expected.start = before


def take_sweep() -> Sweep | None:
    """Returns the last sweep that was started, once."""
    return _seen.pop() if _seen else None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a sweep was started, for a launcher's process that runs one of its jobs."""

    folder: Path
    host: str


def origin() -> Origin | None:
    """Returns where this process started a sweep; None if it did not."""
    return Origin(_seen[-1].folder, platform.node()) if _seen else None


def _begin_or_refuse(config: DictConfig) -> None:
    try:
        _begin(config)
    except (HydraException, OmegaConfBaseException) as error:
        from ..config.messages import translate  # noqa: PLC0415  # only a refusal needs it

        raise translate(error) or error from error


def _begin(config: DictConfig) -> None:
    from ..config.sweeps import parse_sweep  # noqa: PLC0415  # a single run has no sweep
    from .expected import expected_jobs, refuse_absent_reference, refuse_mistyped, refuse_replacing, rewrite_params  # noqa: PLC0415
    from .folders import Claim, refuse_secret_sweep, refuse_shared  # noqa: PLC0415  # a single run has no sweep
    from .launchers import settle  # noqa: PLC0415
    from .records import BASIC_SWEEPER  # noqa: PLC0415
    from .resume import read_resumed  # noqa: PLC0415
    from .watch import Watch  # noqa: PLC0415

    settings = parse_sweep(OmegaConf.to_container(config.sweep, resolve=True) if "sweep" in config else None)
    settle(config)
    rewrite_params(config)
    # The time in a folder's name is taken once, here; each job's config has it then.
    folder = Path(config.hydra.runtime.cwd, str(config.hydra.sweep.dir))
    jobs, composer = expected_jobs(config), GlobalHydra.instance().config_loader()
    refuse_secret_sweep(config, jobs, composer)
    refuse_mistyped(config, jobs or [], composer)
    refuse_absent_reference(settings.compare.reference, jobs)
    refuse_shared(config, jobs, composer)
    refuse_replacing(config, jobs or [], folder)
    if settings.dry_run:
        _list_jobs(config, jobs)
    read_resumed(config, folder)
    targets, basic = _targets(config), (BASIC_SWEEPER, _BASIC_LAUNCHER)
    own = tuple(str(target) for target in targets if target not in basic)
    start, claim = _started(config), Claim(folder)
    watch = Watch(folder, jobs, start.swept) if start is not None else None
    _seen.append(Sweep(folder, jobs, own, claim, start, settings, watch))


def _list_jobs(config: DictConfig, jobs: Sequence[Sequence[str]] | None) -> NoReturn:
    from .command import Start  # noqa: PLC0415  # few sweeps are dry
    from .dry_run import refuse_unknown, show_jobs  # noqa: PLC0415

    if jobs is None:
        raise refuse_unknown(str(_targets(config)[0]))
    show_jobs(jobs, _started(config) or Start())
    raise DryRun


def _started(config: DictConfig) -> Start | None:
    if _expected.start is None:
        return None
    content: Any = OmegaConf.to_container(config, resolve=False)
    # Hydra adds this override itself unless a config already says it.
    multirun = "hydra.mode=MULTIRUN" not in config.hydra.overrides.hydra
    params = OmegaConf.to_container(OmegaConf.select(config, "hydra.sweeper.params") or OmegaConf.create())
    own = {str(key): str(value) for key, value in params.items()} if isinstance(params, dict) else {}
    return _expected.start.with_config(str({**content, "hydra": None}), own, multirun=multirun)


def _targets(config: DictConfig) -> tuple[Any, ...]:
    return tuple(OmegaConf.select(config, f"hydra.{plugin}._target_") for plugin in ("sweeper", "launcher"))
