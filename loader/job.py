"""One job from a composed config to an exit code.

Guarantees: only an interruption by the user is raised; a refusal becomes one block on stderr, a bug a traceback in the
job's log; ``report.json`` is written whenever there is a folder for it.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config.parse import parse_job
from .errors import INTERRUPTED, ConfigError, FitError, LoaderError
from .modes import lines, run_without_model
from .module.user_code import own_code_refused
from .report import environment
from .report.data import REPORT, ErrorReport, Report
from .report.terminal import print_dangers, print_error, print_report
from .report.writing import write_report
from .runtime import importing
from .schema import JobConfig
from .text.lines import Fix, override, typed
from .text.wording import safe_text, text_of

if TYPE_CHECKING:
    from torch import nn

    from . import pipeline
    from .apply.target import Target
    from .parts import Part
    from .report.identity import Identity

log = logging.getLogger("loader")

_MODEL = re.compile(r"[~+]*(model|experiment)([.@:=]|$)")
_OF_OTHERS = {"replay": "repeats no run", "compare": "compares no files"}
"""The modes whose path means nothing in others, and what these do not do."""
_LONGEST = 400


def run(
    config: Mapping[str, Any],
    overrides: Sequence[str],
    output_dir: Path,
    *,
    cwd: str = "",
    quiet: bool = False,
    identity: Identity | None = None,
    unwritten: Callable[[Report, OSError], None] | None = None,
) -> int:
    """Runs one job for the command line.

    Args:
        config: The composed config, resolved and plain.
        overrides: The typed overrides, for the report.
        output_dir: The run's folder.
        cwd: The folder that the command was typed in, for the report; the current one if empty.
        quiet: Whether a successful job prints nothing.
        identity: For the report of a job that ends well.
        unwritten: Is called with a report that cannot be written, and the reason.

    Returns:
        The exit code.
    """
    report = Report(config=dict(config), overrides=list(overrides), environment={"cwd": cwd})
    try:
        execute(config, report, asked=names_model(overrides), folder=output_dir)
    except LoaderError as error:
        if (report.plan or report.replay or report.comparison) and not quiet:
            # A plan lists every key, the others what they compared; a refused one is printed too, the refusal below it.
            print_report(lines(report))
        else:
            print_dangers(report)
        print_error(error)
        log.error("%s", error)
    except Exception as error:
        _describe_bug(report, error)
        log.exception("a bug of the loader")
    except KeyboardInterrupt:
        _note_interruption(report, output_dir)
        raise
    else:
        if not quiet:
            print_report(lines(report))
        log.info("%s", _summary(report))
        report.identity = identity.complete() if identity is not None else None
    return reported(report, output_dir, unwritten, show=not quiet)


def reported(
    report: Report,
    output_dir: Path,
    unwritten: Callable[[Report, OSError], None] | None = None,
    *,
    show: bool = False,
) -> int:
    """Writes a job's report, and its page if that is asked for.

    Args:
        report: The job's.
        output_dir: The run's folder.
        unwritten: Is called with a report that cannot be written, and the reason.
        show: Whether to print where the page is.

    Returns:
        The exit code, which is not 0 if one of them cannot be written. The report of a run that was to be replayed into
        its own folder stays.
    """
    if _is_recorded(report, output_dir / REPORT):
        return report.exit_code
    try:
        written = write_report(report, output_dir)
    except OSError as error:
        message = f"{safe_text(str(output_dir), _LONGEST)}/report.json could not be written: {error.strerror}"
        refusal = ConfigError(
            message, Fix("hydra.run.dir=FOLDER", "one with free space, or hydra.sweep.dir for a sweep")
        )
        print_error(refusal)
        if unwritten is not None:
            unwritten(report, error)
        return report.exit_code or refusal.exit_code
    log.info("report: %s", written)
    unpaged = _page(report, output_dir, show=show)
    return report.exit_code or unpaged


def _page(report: Report, output_dir: Path, *, show: bool) -> int:
    """Writes a run's page if that is asked for; returns an exit code."""
    settings = report.config.get("report")
    if not isinstance(settings, Mapping) or settings.get("page") is not True:
        return 0
    from .page import RUN_PAGE, reason_against, write_run_page  # noqa: PLC0415  # few runs ask for a page

    reason = reason_against(lambda: write_run_page(output_dir, report.to_dict()))
    if reason:
        message = f"{safe_text(str(output_dir), _LONGEST)}/{RUN_PAGE} could not be written: {reason}"
        refusal = ConfigError(message, Fix("report.page=false"), Fix("hydra.run.dir=FOLDER", "one with free space"))
        print_error(refusal)
        return refusal.exit_code
    log.info("page: %s", output_dir / RUN_PAGE)
    if show:
        print_report([("page", str(output_dir / RUN_PAGE), "")])
    return 0


def _is_recorded(report: Report, path: Path) -> bool:
    with suppress(OSError):
        return report.replay is not None and path.samefile(report.replay.path)
    return False


def names_model(overrides: Sequence[str]) -> bool:
    """Whether overrides name the model."""
    return any(_MODEL.match(override) for override in overrides)


def execute(
    config: Mapping[str, Any],
    report: Report,
    *,
    target: Target | None = None,
    prove: bool = True,
    asked: bool = True,
    given: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> nn.Module | None:
    """Parses a config and carries the job out, with the outcome in the report.

    Args:
        config: The composed config, resolved and plain.
        report: Filled on the way.
        target: The target; None for a model that is built.
        prove: False leaves verification at the structural checks.
        asked: Whether the user named the model; otherwise it is the default's.
        given: The mapping that was laid over the defaults; None if overrides were.
        folder: The run's folder, for what is kept besides the report; None for a run without one.

    Returns:
        The model, in the modes that have one.

    Raises:
        LoaderError: The job is refused; the report says so too.
    """
    try:
        job = parse_job(config)
        report.mode = job.mode
        _refuse_unused(job, report.overrides, given)
        with own_code_refused():
            if job.mode == "replay":
                return _repeated(job, config, report, given, folder)
            return _carry_out(job, report, target, prove=prove, asked=asked, folder=folder)
    except LoaderError as error:
        describe_refusal(report, error)
        raise
    finally:
        environment.describe(report, code=prove)  # a load without a verification is to take no time


def _refuse_unused(job: JobConfig, overrides: Sequence[str], given: Mapping[str, Any] | None) -> None:
    """Refuses the path of another run or file that was typed in a mode without one; a config file may have one."""
    for mode, undone in _OF_OTHERS.items():
        path = getattr(job, mode).path
        asked = any(re.match(rf"[~+]*{mode}([.=]|$)", override) for override in overrides) or mode in (given or {})
        if job.mode != mode and path and asked:
            fault = f"'{mode}.path' is {safe_text(path, _LONGEST)}, and mode={job.mode} {undone}; expected mode={mode}"
            raise ConfigError(fault, typed(f"mode={mode}", override(f"{mode}.path", path)))


def _repeated(
    job: JobConfig, composed: Mapping[str, Any], report: Report, given: Mapping[str, Any] | None, folder: Path | None
) -> nn.Module | None:
    from .config import laid  # noqa: PLC0415  # only this mode needs it
    from .modes.replay import Replay  # noqa: PLC0415  # likewise

    over = laid.from_overrides(report.overrides, composed) if given is None else list(laid.from_mapping(given))
    replay = Replay(job.replay.path, composed, over, report, folder)
    with replay.room() as room, replay.compared():
        return _carry_out(replay.job, report, None, prove=True, asked=True, folder=room)


def _carry_out(
    job: JobConfig, report: Report, target: Target | None, *, prove: bool, asked: bool, folder: Path | None
) -> nn.Module | None:
    if run_without_model(job, report):
        return None
    with importing():
        from . import pipeline  # noqa: PLC0415  # imports torch
        from .apply.target import Fresh  # noqa: PLC0415  # likewise

    target = Fresh.of(job) if target is None else target
    ending = _conversion(job) if job.mode == "convert" else None
    manner = pipeline.Manner(prove, ending, None if asked else _unasked, folder)
    return pipeline.run(job, report, target, manner)


def _conversion(job: JobConfig) -> pipeline.Ending:
    from .modes.convert import Conversion  # noqa: PLC0415  # only this mode needs it

    return Conversion(job)


def _unasked(job: JobConfig, parts: Sequence[Part], error: FitError) -> LoaderError:
    from .suggest.unnamed import unnamed  # noqa: PLC0415  # only such a refusal needs it

    return unnamed(job, parts, error)


def describe_refusal(report: Report, error: LoaderError) -> None:
    """Records a refusal in a report."""
    report.status = "failed"
    report.exit_code = error.exit_code
    report.error = ErrorReport.of(type(error).__name__, error.message, error.fixes)


def _note_interruption(report: Report, output_dir: Path) -> None:
    """Writes what a job that is interrupted knows by then."""
    report.status, report.exit_code = "failed", INTERRUPTED
    report.error = ErrorReport("Interrupted", "interrupted before the job was done")
    if not _is_recorded(report, output_dir / REPORT):
        with suppress(OSError):
            write_report(report, output_dir)


def _describe_bug(report: Report, error: Exception) -> None:
    report.status = "error"
    report.exit_code = 1
    report.error = ErrorReport(type(error).__name__, text_of(error))
    print_error(_bug(error))


def _bug(error: Exception) -> LoaderError:
    lines = "".join(traceback.format_exception(error))
    return LoaderError(f"a bug of the loader, please report it:\n{lines}")


def _summary(report: Report) -> str:
    if report.inspection is not None:
        return f"inspect ok: {sum(part.tensors for part in report.parts.values())} tensors"
    if report.comparison is not None:
        return f"compare ok: {len(report.comparison['tensors'])} tensors"
    model = report.model
    return f"{report.mode} ok: {report.keys.loaded} keys into {model.target if model else '?'}"
