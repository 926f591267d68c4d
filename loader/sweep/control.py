"""Runs a job of a sweep as the section `sweep` of its config says.

Guarantees: a job that is not started, or whose device may be absent, has a record with the reason. The decisions are
taken in the process that is about to start the job, from what is on disk, so that they are the same for every launcher.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from ..config.sweeps import parse_sweep
from ..errors import DeviceError
from ..report.reading import read_content
from ..text.wording import matches
from .child import run_apart
from .record import JobRecord
from .records import count_bad
from .resume import earlier, place_of

log = logging.getLogger(__name__)

_DEVICE = re.compile(r"(cuda|mps|xpu|hpu|mtia|npu|xla|ipu|hip|maia|ve|fpga|privateuseone)(:(\d+|\*))?")
"""The names of accelerators; a mistyped one is never absent."""


def run_job(
    config: dict[str, Any],
    record: JobRecord,
    folder: Path,
    environment: Mapping[str, str],
    swept: Callable[[], bool],
) -> None:
    """Runs Hydra's current job, unless the sweep has to go on without it; notes the outcome in its record.

    Args:
        config: The job's resolved config.
        record: Has the overrides and the folder; receives the outcome.
        folder: The sweep's.
        environment: The environment variables of the job's process.
        swept: Returns whether the sweep is still running.

    Raises:
        ConfigError: The section `sweep` is invalid.
        OrphanedError: The sweep is gone; the job has been ended.
    """
    settings = parse_sweep(config.get("sweep"))
    if settings.resume is not None:
        reason = reuse(config, record)
        if reason is None:
            return
        log.info("the job runs, since %s does not have its result: %s", settings.resume, reason)
    if settings.stop_after is not None and count_bad(folder) >= settings.stop_after:
        record.stop(settings.stop_after, folder)
        return
    run_apart(config, record, folder, dict(environment), swept, settings.timeout)
    device = str(config.get("device"))
    if record.exit_code == DeviceError.exit_code and _DEVICE.fullmatch(device) and matches(device, settings.skip):
        record.skip()


def reuse(config: Mapping[str, Any], record: JobRecord) -> str | None:
    """Takes the result of Hydra's current job from the sweep that this one resumes, if it is there.

    Args:
        config: The job's resolved config.
        record: Receives the result.

    Returns:
        Why it is not there; None if it is.

    Raises:
        ConfigError: The section `sweep` is invalid, or the earlier sweep is gone.
    """
    resume = str(parse_sweep(config.get("sweep")).resume)
    found = earlier(place_of(resume, Path(HydraConfig.get().runtime.cwd))).find(config)
    if isinstance(found, str):
        return found
    try:
        report = read_content(found.report)
    except (OSError, ValueError) as error:
        return f"{found.report} cannot be read ({error})"
    record.reuse(found.report, report, found.seconds)
    return None
