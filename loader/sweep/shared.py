"""What each job of a sweep writes belongs to it alone.

Guarantees: jobs that would write one folder, or one file that they name, are refused before the first of them starts,
as far as the jobs are known by then.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError
from ..text.lines import typed
from ..text.wording import safe_text

_LONGEST = 400
_FOLDER = "hydra.sweep.subdir"
_FILES = {"convert": "convert.path", "scaffold": "scaffold.path"}
"""By mode, the key that names what a job of it writes."""
_ENDINGS = {"convert.path": ".safetensors", "scaffold.path": ".yaml"}
_NUMBERED = re.compile(r"\$\{hydra[.:]job\.(num|id)\}")
_NUMBER = "${hydra:job.num}"
_PLAIN = re.compile(r"[\w./@+${}: -]+")
"""A path, with interpolations, that stays what it is next to one more."""


def refuse_shared(config: DictConfig, jobs: Sequence[Sequence[str]] | None, composer: Any) -> None:
    """Refuses a sweep of which several jobs would write one folder or file.

    Args:
        config: The sweep's own config.
        jobs: The overrides of each job; None where only the sweeper knows them.
        composer: Hydra's config loader.

    Raises:
        ConfigError: It names the first two jobs that would.
    """
    if jobs is None:
        for key in (_FOLDER, *_files(config)):
            pattern = pattern_of(config, key)
            if pattern and "${" not in pattern:
                raise _shared(key, pattern, "every job")
        return
    changed = {override.lstrip("+").partition("=")[0] for job in jobs for override in job}
    doubtful = _doubtful(config, changed)
    if len(jobs) < 2 or not doubtful:
        return
    written: dict[tuple[str, str], int] = {}
    for number, (key, place, pattern) in _places(config, jobs, composer):
        other = written.setdefault((key, place), number)
        if other != number and key in doubtful:
            raise _shared(key, pattern, f"the jobs {other} and {number}")


def _files(config: DictConfig) -> list[str]:
    """The key of the file that a job writes, where its mode writes one."""
    return [key for mode, key in _FILES.items() if OmegaConf.select(config, "mode") == mode]


def pattern_of(config: DictConfig, key: str) -> str:
    """What a key says, with its interpolations; nothing where it is not set."""
    above, _, name = key.rpartition(".")
    node = OmegaConf.select(config, above)
    value = OmegaConf.to_container(node, resolve=False).get(name) if isinstance(node, DictConfig) else None  # type: ignore[union-attr]
    return "" if value is None else str(value)


def _doubtful(config: DictConfig, changed: set[str]) -> set[str]:
    """The keys that may be the same for two jobs, of the overrides that the jobs have."""
    modes = [key for mode, key in _FILES.items() if changed & {"mode", "experiment"} or key in _files(config)]
    return {key for key in (_FOLDER, *modes) if key in changed or not _NUMBERED.search(pattern_of(config, key))}


def _shared(key: str, pattern: str, jobs: str) -> ConfigError:
    kind = "folder" if key == _FOLDER else "file"
    told = f"{key}={safe_text(pattern, _LONGEST)} is one {kind} for {jobs}; one for each was expected"
    other = "${hydra.job.num}" if key == _FOLDER else _numbered(pattern, _ENDINGS[key])
    return ConfigError(told, typed(f"{key}={other}"))


def _numbered(pattern: str, ending: str) -> str:
    """A file's name with the number of the job in it."""
    if not _PLAIN.fullmatch(pattern):
        return f"{_NUMBER}{ending}"
    if pattern.endswith(os.sep) or os.path.isdir(pattern):  # noqa: PTH112  # False for a name that is too long
        return f"{pattern.rstrip(os.sep)}{os.sep}{_NUMBER}{ending}"
    return f"{os.path.splitext(pattern)[0]}-{_NUMBER}{ending}"  # noqa: PTH122  # the path stays as it was typed


def _places(
    config: DictConfig, jobs: Sequence[Sequence[str]], composer: Any
) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """For each job the keys that name what it writes, where that is, and what they say."""
    for number, composed in enumerate(composed_jobs(config, jobs, composer)):
        with at_hand(composed):
            sweep = composed.hydra.sweep
            place = os.path.abspath(Path(str(sweep.dir), str(sweep.subdir)))  # noqa: PTH100  # also takes out `..`
            yield number, (_FOLDER, place, pattern_of(config, _FOLDER))
            for key in _files(composed):
                with suppress(OmegaConfBaseException):  # the job itself says so
                    path = OmegaConf.select(composed, key)
                    if path is not None:
                        place = os.path.abspath(os.path.expanduser(str(path)))  # noqa: PTH100, PTH111
                        yield number, (key, place, pattern_of(composed, key))


def composed_jobs(config: DictConfig, jobs: Sequence[Sequence[str]], composer: Any) -> Iterator[DictConfig]:
    """The config of each job."""
    for number, overrides in enumerate(jobs):
        composed = composer.load_sweep_config(config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        yield composed


@contextmanager
def at_hand(config: DictConfig) -> Iterator[None]:
    """Lets `${hydra:...}` of a config lead into it."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before
