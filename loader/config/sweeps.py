"""The section `sweep` of a config.

Guarantees: it means the same to the process that starts a job and to the job itself, which both read it here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import Problems
from ..schema import CompareConfig, SweepConfig
from ..text.lines import Fix
from .sections import read_section, shown


def read_sweep(raw: Any, problems: Problems) -> SweepConfig:
    """Checks the section's keys, types and limits."""
    own = {key: value for key, value in raw.items() if key != "compare"} if isinstance(raw, Mapping) else raw
    sweep = read_section(SweepConfig, own, "sweep", problems)
    compare = raw.get("compare") if isinstance(raw, Mapping) else None
    sweep.compare = read_section(CompareConfig, compare or {}, "sweep.compare", problems)
    if sweep.compare.reference < 0:
        fault = f"'sweep.compare.reference' is {shown(sweep.compare.reference)}, expected the number of a job, from 0"
        problems.add(fault, Fix("sweep.compare.reference=0"))
    if sweep.timeout is not None and not 0 < sweep.timeout < math.inf:
        expected = "expected a number of seconds above 0, or null for no limit"
        problems.add(f"'sweep.timeout' is {shown(sweep.timeout)}, {expected}", Fix("sweep.timeout=null"))
    if sweep.stop_after is not None and sweep.stop_after < 1:
        expected = "expected a number of jobs from 1, or null to start all"
        problems.add(f"'sweep.stop_after' is {shown(sweep.stop_after)}, {expected}", Fix("sweep.stop_after=1"))
    return sweep


def parse_sweep(raw: Any) -> SweepConfig:
    """Turns the section `sweep` of a resolved, plain config into a `SweepConfig`; null is an empty one.

    Raises:
        ConfigError: With all unknown keys and invalid values.
    """
    problems = Problems()
    sweep = read_sweep({} if raw is None else raw, problems)
    problems.raise_any()
    return sweep
