"""The result of a job, as a sweeper gets it that chooses its next jobs by their results.

Guarantees: a job that did not end well is never the best one, whichever way the sweeper optimizes.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ..report.reading import read_content
from .record import GOOD, JobRecord

_OPTUNA = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"


def result_of(record: JobRecord, hydra: Any) -> float | None:
    """Returns the result of a job that has ended.

    Args:
        record: The job's.
        hydra: Hydra's settings.

    Returns:
        The metric that ``evaluate.objective`` names, or 0 if it names none. Of a job that did not end well, or has no
        report, NaN, which no comparison makes the best; None for Optuna, which marks the trial as failed then, but
        stops at NaN.
    """
    if record.status in GOOD and record.report is not None:
        with suppress(OSError, ValueError):
            report = read_content(Path(record.report))
            objective = (report.get("evaluation") or {}).get("objective")
            return 0.0 if objective is None else float(objective)
    return None if OmegaConf.select(hydra, "sweeper._target_") == _OPTUNA else math.nan
