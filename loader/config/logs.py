"""Logs under `trusted_targets`: where they may write, and what.

Guarantees: a handler, formatter or filter is one that Hydra or this project ships, as it stands but for its level, or
else its class is in `trusted_targets` by its exact name: a file name and a format of one's own choosing would write
code, or over other files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra.conf
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError
from ..text.lines import line
from ..text.wording import safe_text
from ..trust.dangerous import why_dangerous
from .layers import conf_dir

_SECTIONS = {"formatters": "logging.Formatter", "filters": "logging.Filter", "handlers": "logging.Handler"}
"""Where a log says what it is made of, and what that is where no class is named."""


def check_log(log: DictConfig, where: str, trusted: Sequence[str]) -> None:
    """Refuses a log that is made of anything else.

    Args:
        log: Its config.
        where: Its place in the whole config.
        trusted: The patterns of `trusted_targets`.

    Raises:
        ConfigError: With everything in it that is refused.
    """
    refused = [(place, name) for place, name in _own(log, where) if name not in trusted]
    if not refused:
        return
    told = (
        f"{place}: {safe_text(name)} with settings of its own is refused: under trusted_targets a log of Hydra's or "
        "the loader's as it stands was expected, or this class by its exact name"
        for place, name in refused
    )
    offered = dict.fromkeys(name for _, name in refused if not why_dangerous(name))
    hint = line("trusted_targets", [*trusted, *offered]) if len(offered) == len({name for _, name in refused}) else ""
    raise ConfigError("\n".join(told), hint)


def _own(log: DictConfig, where: str) -> Iterator[tuple[str, str]]:
    """What is not as it is shipped: its place, and its class."""
    written: Any = OmegaConf.to_container(log, resolve=False)
    meant: Any = OmegaConf.to_container(log, resolve=True)
    for section, usual in _SECTIONS.items():
        before, nodes = written.get(section), meant.get(section)
        for key, node in nodes.items() if isinstance(nodes, Mapping) else ():
            raw = before.get(key) if isinstance(before, Mapping) else None
            if not (isinstance(raw, Mapping) and _without_level(raw) in _shipped()[section]):
                named = node.get("()", node.get("class", usual)) if isinstance(node, Mapping) else usual
                yield f"{where}.{section}.{key}", str(named)


@lru_cache(maxsize=1)
def _shipped() -> dict[str, list[dict[str, Any]]]:
    """The nodes of every log that Hydra or the loader brings, by section, as they are written."""
    homes = [Path(hydra.conf.__file__).parent / "hydra", conf_dir() / "hydra"]
    files = [
        file for home in homes for kind in ("job_logging", "hydra_logging") for file in home.glob(f"{kind}/*.yaml")
    ]
    logs: list[Any] = [OmegaConf.to_container(OmegaConf.load(file), resolve=False) for file in files]
    return {
        section: [_without_level(node) for log in logs for node in (log.get(section) or {}).values()]
        for section in _SECTIONS
    }


def _without_level(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key != "level"}
