"""The config of a repeated run: what the report says, without what only a command line may say.

Guarantees: permissions (`trusted_targets`, `trust`, `allow_globals`) and places to write to never come from the report.
What was typed is laid over it. Texts of the report stay texts: no interpolation in them is resolved.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...config.compose import anchored
from ...config.laid import Laid, over
from ...config.sections import names_of
from ...errors import ConfigError
from ...report.data import Report
from ...schema import CheckpointConfig, JobConfig
from ...text.lines import Fix, blank, line
from ...text.redaction import HIDDEN
from ...text.wording import listing, phrases, safe_text

_OF_THE_RUN = (
    "model",
    "checkpoint",
    "rules",
    "adapters",
    "parts",
    "allow",
    "device",
    "dtype",
    "seed",
    "verify",
    "evaluate",
)
"""The keys that come from the report; the others are permissions, or say where and what to write."""
_PERMISSIONS = ("trust", "allow_globals")
_LONGEST = 400
_OTHER = Fix("replay.path=FOLDER", "of a run of this version")


@dataclass(frozen=True, slots=True)
class Settings:
    """The config of the repeated run."""

    config: dict[str, Any]
    """Resolved and plain."""
    folder: str | None
    """Where its relative paths start; None if it is the current folder."""
    left_out: dict[str, Any]
    """The permissions of the recorded run that this one does not have."""


def settings(recorded: Report, composed: Mapping[str, Any], laid: Sequence[Laid], where: str) -> Settings:
    """Returns the config of the repeated run.

    Args:
        recorded: The recorded run's report.
        composed: The config that was composed here, of the defaults and of what was typed.
        laid: What was typed for this run.
        where: The report's path, for messages.

    Raises:
        ConfigError: The run would write outside its folder, or a recorded URL lacks its credentials.
    """
    own = recorded.config
    strange = [key for key in own if key not in names_of(JobConfig)]
    if strange:
        raise ConfigError(f"the config in {where} has keys that this version does not know: {listing(strange)}", _OTHER)
    folder = _folder(recorded)
    config = {
        **{key: value for key, value in composed.items() if key not in _OF_THE_RUN},
        **{key: own[key] for key in _OF_THE_RUN if key in own},
        "mode": "load",
        "replay": {"path": None},
    }
    _take_permissions(config)
    if isinstance(config.get("verify"), dict):
        config["verify"] = {**config["verify"], "record": False}
    config = over(anchored(config, folder) if folder else config, laid)
    _refuse_writes(config)
    _refuse_redacted(config, where)
    asked, granted = _permissions(own), _permissions(config)
    left_out = {name: value for name, value in asked.items() if granted.get(name) != value}
    return Settings(config, folder, left_out)


def _folder(recorded: Report) -> str | None:
    """Returns the folder that the run was started in, where it still exists and is not the current one."""
    folder = recorded.environment.get("cwd")
    if not isinstance(folder, str) or "\0" in folder or not os.path.isabs(folder) or not os.path.isdir(folder):  # noqa: PTH117, PTH112
        return None
    return None if os.path.realpath(folder) == os.path.realpath(".") else folder


def _checkpoints(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the settings of every checkpoint, with their place."""
    if isinstance(config.get("checkpoint"), dict):
        yield "checkpoint", config["checkpoint"]
    parts = config.get("parts")
    for name, part in parts.items() if isinstance(parts, dict) else ():
        if isinstance(part, dict):
            yield f"parts.{name}", part


def _take_permissions(config: dict[str, Any]) -> None:
    config |= {name: _copied(config[name]) for name in ("checkpoint", "parts") if name in config}
    for at, given in _checkpoints(config):
        for permission in _PERMISSIONS:
            given.pop(permission, None)
        if at == "checkpoint":
            given |= {name: getattr(CheckpointConfig(), name) for name in _PERMISSIONS}


def _copied(node: Any) -> Any:
    return {key: _copied(value) for key, value in node.items()} if isinstance(node, Mapping) else node


def _refuse_writes(config: Mapping[str, Any]) -> None:
    verify = config.get("verify")
    if isinstance(verify, Mapping) and verify.get("record"):
        raise ConfigError(
            "verify.record=true with mode=replay: a replay writes nothing outside its own folder",
            Fix("verify.record=false"),
        )


def _permissions(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the permissions that a config gives, by their place."""
    found = {f"{at}.{name}": settings.get(name) for at, settings in _checkpoints(config) for name in _PERMISSIONS}
    found["trusted_targets"] = config.get("trusted_targets")
    return {name: value for name, value in found.items() if value not in (None, False, [])}


def _refuse_redacted(config: Mapping[str, Any], where: str) -> None:
    """Refuses URLs whose credentials the report does not have."""
    hidden = [(place, text) for place, text in _texts(config, "") if HIDDEN in text and ":/" in text]
    if hidden:
        named = phrases(f"'{safe_text(place)}' is {safe_text(text, _LONGEST)}" for place, text in hidden)
        lines = [blank(place, gap="URL", note="with its credentials") for place, _ in hidden]
        raise ConfigError(f"{where} does not hold the credentials of its URLs: {named}", *lines)


def _texts(node: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield where, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, list):
        for item in node:
            yield from _texts(item, where)


def permission_lines(left_out: Mapping[str, Any]) -> list[Fix]:
    """Returns the lines that give the permissions that a recorded run had."""
    return [line(place, value, note="as the recorded run had it") for place, value in left_out.items()]
