"""The state of the code that a model comes from: the commit of the git tree that holds its source.

Guarantees: nothing is imported; git is asked only where a `.git` lies above the source, within a second, and changes
nothing. No hook and no program that the tree's configuration names is run: no fsmonitor, no filter, no transport.
What cannot be found out is null.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

Git = dict[str, Any]
"""``folder``, which holds the source; ``commit``; ``clean``, whether the folder's tracked files are the commit's."""

_SECONDS = 1.0
_LASTS = 10.0
"""Seconds for which an answer is used again."""
_SAFE = (
    "--no-pager", "--no-optional-locks",
    # Empty rather than false, which older versions take for the name of a program.
    "-c", "core.fsmonitor=",
    "-c", f"core.hooksPath={os.devnull}",
    "-c", "submodule.recurse=false",
)  # fmt: skip
_VARIABLES = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",  # what is missing in a partial clone is not fetched
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}


def git_of(target: str | None) -> Git | None:
    """Describes the git tree that holds the source of a target; None if there is none.

    Args:
        target: A dotted name in a module that has been imported, such as ``my_pkg.models.Net``.
    """
    file = source_of(target or "")
    return None if file is None or _is_installed(file) else _described(file, int(time.monotonic() / _LASTS))


def source_of(target: str) -> Path | None:
    """Returns the file of the module that defines a target, if that module has been imported from one."""
    names = target.split(".")
    for end in range(len(names), 0, -1):
        module = sys.modules.get(".".join(names[:end]))
        if module is not None:
            found = _defining(vars(module).get(names[end]) if end < len(names) else None) or _file(module)
            return Path(found) if found else None
    return None


def _defining(found: object) -> str | None:
    """The file of the module that an object says it is from: a package may only pass it on."""
    home = getattr(found, "__module__", None) if isinstance(found, type) or callable(found) else None
    return _file(sys.modules.get(home)) if isinstance(home, str) else None


def _file(module: object) -> str | None:
    found = getattr(module, "__dict__", {}).get("__file__")
    return found if isinstance(found, str) and os.path.isabs(found) else None  # noqa: PTH117  # a path as text


_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib", "platstdlib"))


def _is_installed(file: Path) -> bool:
    """Whether a file was installed: a tree around the environment that it was installed into is not its source."""
    return any(map(file.is_relative_to, _INSTALLED)) or not {"site-packages", "dist-packages"}.isdisjoint(file.parts)


@functools.lru_cache(maxsize=16)
def _described(file: Path, _moment: int = 0) -> Git | None:
    """Asks once in a while: loads may follow each other within milliseconds, and a notebook lives for days."""
    git = shutil.which("git")
    if git is None or not Path(git).is_absolute() or not any((above / ".git").exists() for above in file.parents):
        return None
    return _Asking(git, str(file.parent)).describe(file.name)


class _Asking:
    """Asks git about a folder, all in all within a second.

    Args:
        git: The program.
        folder: The folder that holds the source.
    """

    def __init__(self, git: str, folder: str) -> None:
        self._git, self._folder = git, folder
        self._end = time.monotonic() + _SECONDS
        # A tree's own variables, and those of a git command that runs this one, are about another tree.
        variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        self._variables = variables | _VARIABLES

    def describe(self, name: str) -> Git | None:
        """Describes the tree; None if it does not hold a file of this name, or cannot be read."""
        if not self._run("ls-files", "-z", "--", name):
            return None
        commit, clean = self._run("rev-parse", "--verify", "HEAD"), None
        off = self._without_filters()
        if off is not None:
            how = ("--porcelain", "-z", "--untracked-files=no", "--ignore-submodules=all")
            changed = self._run(*off, "status", *how, "--", ".")
            clean = None if changed is None else not changed
        return {"folder": self._folder, "commit": commit and commit.strip(), "clean": clean}

    def _without_filters(self) -> list[str] | None:
        """Returns the options that turn off every filter that a configuration names; None if that is not possible."""
        settings = self._run("config", "-z", "--name-only", "--get-regexp", r"^filter\.", nothing=1)
        if settings is None:
            return None
        names = sorted({setting.rpartition(".")[0] for setting in settings.split("\0") if setting})
        if any("=" in name for name in names):
            return None  # an option ends its name there
        off = (("clean", ""), ("smudge", ""), ("process", ""), ("required", "false"))
        return [word for name in names for key, value in off for word in ("-c", f"{name}.{key}={value}")]

    def _run(self, *arguments: str, nothing: int = 0) -> str | None:
        """Returns the output of a git command; None if it fails. `nothing` is its exit code for an empty answer."""
        try:
            done = subprocess.run(  # noqa: S603  # a program found on the path, without a shell
                [self._git, *_SAFE, "-C", self._folder, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._variables,
                timeout=max(0.0, self._end - time.monotonic()),
                check=False,
            )
        except (OSError, subprocess.SubprocessError, ValueError):
            return None
        return done.stdout.decode("utf-8", "replace") if done.returncode in (0, nothing) else None
