"""Hydra's callback: notes the jobs of a sweep before the first one starts, and helps Hydra's own launcher.

Guarantees: the jobs of a sweep are known even if none of them runs; a sweep that would lose results is refused before
it starts. Each job's config is composed once, when it is the job's turn. A job whose folder cannot be written runs all
the same, or is refused alone; the jobs after it still run. The config of a job that is over is not kept. Hydra does not
report the jobs of a sweep, nor that a sweep broke off, so `conf/config.yaml` names this callback to record them. This
module wraps private parts of Hydra: the basic launcher's `run_job`, and `Sweeper.validate_batch_is_legal`.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from hydra._internal.core_plugins import basic_launcher
from hydra.core import utils
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError
from ..schema import SweepConfig
from ..text.lines import Fix
from ..text.redaction import has_secrets, remember
from ..text.wording import safe_text

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
        """Raises a pending refusal, as this is a single run after all; refuses a secret in its folder's name."""
        if _expected.refusal is not None:
            raise Abandoned(_expected.refusal)
        _asked(_refuse_secret, config)

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
    from .expected import expected_jobs, refuse_mistyped, rewrite_params  # noqa: PLC0415
    from .folders import Claim, refuse_secret_sweep, refuse_shared  # noqa: PLC0415  # a single run has no sweep
    from .launchers import settle  # noqa: PLC0415
    from .records import BASIC_SWEEPER  # noqa: PLC0415
    from .resume import read_resumed  # noqa: PLC0415
    from .watch import Watch  # noqa: PLC0415

    settings = parse_sweep(OmegaConf.to_container(config.sweep, resolve=True) if "sweep" in config else None)
    settle(config)
    rewrite_params(config)
    jobs, composer = expected_jobs(config), GlobalHydra.instance().config_loader()
    refuse_secret_sweep(config, jobs, composer)
    refuse_mistyped(config, jobs or [], composer)
    refuse_shared(config, jobs, composer)
    if settings.dry_run:
        _list_jobs(config, jobs)
    folder = Path(config.hydra.runtime.cwd, str(config.hydra.sweep.dir))
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
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    return _expected.start.with_config(str({**content, "hydra": None}), map(str, params), multirun=multirun)


def _targets(config: DictConfig) -> tuple[Any, ...]:
    return tuple(OmegaConf.select(config, f"hydra.{plugin}._target_") for plugin in ("sweeper", "launcher"))


@contextmanager
def every_job_has_its_turn() -> Iterator[None]:
    """Keeps Hydra from ending a sweep at a job whose folder it cannot write, or whose config it cannot compose."""
    Plugins.instance()  # imports the modules of its plugins a second time
    plugin: Any = basic_launcher
    run_job, sweeper = plugin.run_job, cast("Any", Sweeper)
    validate = sweeper.validate_batch_is_legal

    spared = _spared(run_job)

    def run_lightly(**arguments: Any) -> JobReturn:
        done = spared(**arguments)
        done.cfg = done.hydra_cfg = None  # the launcher keeps what it returns until the sweep is over
        return done

    plugin.run_job, sweeper.validate_batch_is_legal = run_lightly, lambda *_: None  # `refuse_mistyped` has done it
    try:
        yield
    finally:
        plugin.run_job, sweeper.validate_batch_is_legal = run_job, validate


def spare_jobs_here(started: Origin) -> None:
    """Does the same in a process of another launcher, which has imported Hydra's function by now.

    Args:
        started: Where the sweep was started.
    """
    global _elsewhere  # a launcher's process works for one sweep
    first, _elsewhere = _elsewhere is None, started
    if first:
        run_job = utils.run_job
        spared = _spared(run_job)
        launchers = [module for name, module in [*sys.modules.items()] if name.startswith("hydra_plugins.")]
        for module in (utils, *launchers):
            if vars(module).get("run_job") is run_job:
                vars(module)["run_job"] = spared


_elsewhere: Origin | None = None


def _spared(run_job: Callable[..., JobReturn]) -> Callable[..., JobReturn]:
    """Returns Hydra's `run_job`, but for jobs whose folder has no room."""

    def run_or_refuse(*, config: DictConfig, **others: Any) -> JobReturn:
        try:
            return run_job(config=config, **others)
        except (OSError, ValueError) as error:
            if not isinstance(error, OSError) and not isinstance(error.__cause__, OSError):  # `logging` wraps it
                raise
            # No room for the config and log that Hydra keeps of a job; the job itself may need none.
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.output_subdir = None
        try:
            return run_job(config=config, **{**others, "configure_logging": False})
        except OSError as error:
            return _refused(config.hydra, error)

    return run_or_refuse


def _refused(hydra: Any, error: OSError) -> JobReturn:
    from .records import hand_over, keep, new_record  # noqa: PLC0415  # only a refusal needs them

    where = f"the job's folder {safe_text(error.filename, 400)}" if error.filename else "the job's folder"
    fault = f"{where} cannot be used: {error.strerror}"
    refusal = ConfigError(fault, Fix("hydra.sweep.dir=FOLDER", "one with free space"))
    record = new_record(hydra)
    record.refuse(refusal)
    started = origin() or _elsewhere
    if started is not None:
        keep(record, started.folder)
    done = JobReturn(status=JobStatus.COMPLETED)
    done.return_value = refusal.exit_code
    hand_over(record.job, done)
    return done
