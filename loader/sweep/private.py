"""No folder of a run or a sweep is named after a URL's secret.

Guarantees: names are compared before the folder is made, as far as the jobs are known by then; where only the sweeper
knows them, a name made of a job's overrides is refused as soon as any secret is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError
from ..text.lines import typed
from ..text.redaction import has_secrets, redacted, remember
from .shared import at_hand, composed_jobs, pattern_of

_RUN, _SWEEP, _JOB = "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"
_NAMES = {
    _RUN: "outputs/${now:%Y-%m-%d}/${now:%H-%M-%S-%f}",
    _SWEEP: "multirun/${now:%Y-%m-%d}/${now:%H-%M-%S-%f}",
    _JOB: "${hydra.job.num}",
}
"""Names without anything of the overrides, as `conf/config.yaml` has them."""
_OVERRIDES = "override_dirname"


def refuse_secret_run(config: DictConfig) -> None:
    """Refuses a single run whose folder's name holds a secret.

    Raises:
        ConfigError: It does.
    """
    _refuse(_named(config, _RUN))


def refuse_secret_sweep(config: DictConfig, jobs: Sequence[Sequence[str]] | None, composer: Any) -> None:
    """Refuses a sweep if the name of its folder, or of one of its jobs', holds a secret.

    Args:
        config: The sweep's own config.
        jobs: The overrides of each job; None where only the sweeper knows them.
        composer: Hydra's config loader.

    Raises:
        ConfigError: One does.
    """
    _refuse(_named(config, _SWEEP))
    pattern = pattern_of(config, _JOB)
    if not has_secrets() or (jobs is None and _OVERRIDES not in pattern):
        return
    if jobs is None:
        raise _secret(_JOB)
    _refuse(name for composed in composed_jobs(config, jobs, composer) for name in _named(composed, _JOB))


def _named(config: DictConfig, key: str) -> Iterator[tuple[str, str]]:
    remember(OmegaConf.to_container(config, resolve=False))
    if has_secrets():
        with at_hand(config):
            yield key, str(OmegaConf.select(config, key))


def _refuse(names: Iterator[tuple[str, str]]) -> None:
    for key, name in names:
        if redacted(name) != name:
            raise _secret(key)


def _secret(key: str) -> ConfigError:
    told = f"{key} makes a folder's name of a URL's password, token or the like; a name without it was expected"
    return ConfigError(told, typed(f"{key}={_NAMES[key]}"))
