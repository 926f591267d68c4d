"""Runs, and replays of them, as the command line makes them, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loader.config.compose import compose
from loader.job import run

TWO = ("model._target_=tests.models.Two", "verify.input={shape: [3, 4]}", "device=cpu")


@dataclass(frozen=True)
class Done:
    """A run that is over."""

    folder: Path
    code: int

    @property
    def report(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return content

    @property
    def error(self) -> str:
        return str((self.report["error"] or {}).get("message", ""))

    @property
    def compared(self) -> dict[str, bool | None]:
        """What was compared → whether it is as recorded."""
        return {check["name"]: check["ok"] for check in self.report["replay"]["compared"]}

    def detail(self, name: str) -> str:
        return next(str(check["detail"]) for check in self.report["replay"]["compared"] if check["name"] == name)

    def edit(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Changes the report on disk."""
        content = self.report
        change(content)
        (self.folder / "report.json").write_text(json.dumps(content))


def made(folder: Path, *overrides: str) -> Done:
    """A run in a folder of its own."""
    folder.mkdir()
    return Done(folder, run(compose(overrides), overrides, folder))


def replayed(recorded: Path, *overrides: str, to: str = "again") -> Done:
    """A replay of a run, next to its folder."""
    folder = recorded if recorded.suffix != ".json" else recorded.parent
    return made(folder.parent / to, "mode=replay", f"replay.path={recorded}", *overrides)
