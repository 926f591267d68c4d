"""Checkpoints as tests: ``pytest --checkpoints 'conf/experiment/*.yaml'`` loads what each config says.

Guarantees: each config is one test, in a process of its own that ends with it; a refusal is the test's failure, as its
text. Without the option and the setting `checkpoints`, nothing is collected, imported or changed. This module imports
neither the loader, whose name a project's own `loader.py` may have, nor Hydra, nor torch, and never does: only the
processes of the tests do.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

OPTION = "--checkpoints"
SETTING = "checkpoints"
MARK = "checkpoint"
"""The mark of each test, whose name is that of its config: ``conf/experiment/ddp.yaml::ddp``."""

_GROUP = "experiment"
_SUFFIX = ".yaml"
_HELP = "a config, or a glob over configs, each of which is one test: it loads, verifies and evaluates"
_DIGITS = re.compile(r"([0-9]+)")
_PLAIN = re.compile(r"[\w./-]+", re.ASCII)
_ERROR = re.compile(r"^error  ", re.MULTILINE)
_UNDONE = "the process ended with exit code 0 before the load was done: it has written no report"
_TYPED = "checkpoints_paths_typed"
_FOUND = pytest.StashKey[frozenset[Path]]()
"""All configs, resolved."""
_ADDED = pytest.StashKey[dict[Path, Path]]()
"""Those that are collected wherever they are: resolved → as named."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option and the setting."""
    group = parser.getgroup("checkpoints", "checkpoints as tests")
    group.addoption(OPTION, action="append", default=[], metavar="GLOB", help=f"{_HELP}; repeatable")
    parser.addini(SETTING, _HELP, type="linelist", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Finds the configs."""
    config.addinivalue_line("markers", f"{MARK}: a test that {OPTION} made of a config")
    typed = _matches(config.getoption(OPTION), Path(config.invocation_params.dir), OPTION)
    listed = _matches(config.getini(SETTING), config.rootpath, f"the setting '{SETTING}'")
    # Like `testpaths`, the setting holds where nothing else was typed; a config typed by its path is a test as well.
    added = typed if _paths_were_typed(config) else [*typed, *listed]
    by_path = {Path(argument.partition("::")[0]).resolve() for argument in config.args}
    config.stash[_ADDED] = {path.resolve(): path for path in added if path.resolve() not in by_path}
    config.stash[_FOUND] = frozenset(path.resolve() for path in (*typed, *listed))


def _paths_were_typed(config: pytest.Config) -> bool:
    """Returns whether the command line names what to collect; a worker of xdist gets every path as if it were typed."""
    handed = getattr(config, "workerinput", {}).get(_TYPED)
    source = getattr(config, "args_source", None)
    return bool(handed if handed is not None else source is not None and source is type(source).ARGS)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hands a worker of xdist what only the command line knows."""
    node.workerinput[_TYPED] = _paths_were_typed(node.config)


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    """Adds the configs to what the session collects, whether pytest would look into their folders or not."""
    outcome = yield
    if isinstance(collector, pytest.Session):
        added = collector.config.stash.get(_ADDED, {})
        outcome.get_result().result += [Config.from_parent(collector, path=path) for path in added.values()]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Makes a test of a config that pytest comes across, unless it has been added."""
    found = parent.config.stash.get(_FOUND, frozenset())
    if not found or file_path.resolve() not in found - parent.config.stash[_ADDED].keys():
        return None
    return Config.from_parent(parent, path=file_path)


class Config(pytest.File):
    """A config file."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yields its one test."""
        yield Checkpoint.from_parent(self, name=self.path.stem)


class Refused(Exception):  # noqa: N818  # it is the outcome of a test
    """The text of a test's failure."""


class Checkpoint(pytest.Item):
    """The load that a config describes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_marker(MARK)

    def runtest(self) -> None:
        """Loads in a process of its own, from pytest's root folder; raises `Refused` if it does not end well."""
        with tempfile.TemporaryDirectory(prefix="checkpoint-", ignore_cleanup_errors=True) as folder:
            code, out, err = _run(folder, arguments(self.path), self.config)
            refusal = _ERROR.search(err)
            notes, text = (err[: refusal.start()], err[refusal.start() :]) if refusal else (err, "")
            sys.stdout.write(out)
            sys.stderr.write(notes if text or code == 0 else "")
            if code != 0:
                raise Refused(_failure(code, _of_jobs(Path(folder)) or text.strip() or err.strip()))
            if not _ended_well(Path(folder)):
                raise Refused(f"{_UNDONE}\n{err}".strip())

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Shows a refusal as its text."""
        return str(excinfo.value) if isinstance(excinfo.value, Refused) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Names the config as the test's place."""
        return self.path, None, self.name


def arguments(path: Path) -> list[str]:
    """Returns the command line's words for a config: ``--config-dir DIR experiment=NAME``, or a config of its own."""
    above = [number for number, folder in enumerate(path.parents) if folder.name == _GROUP]
    if not above:
        return ["--config-dir", str(path.parent), "--config-name", path.stem]
    home = path.parents[above[0]]
    name = path.relative_to(home).with_suffix("").as_posix()
    return ["--config-dir", str(home.parent), f"{_GROUP}={name if _PLAIN.fullmatch(name) else _quoted(name)}"]


def _into(folder: str) -> list[str]:
    """Puts what a run and a sweep write into a folder."""
    return [f"hydra.run.dir={_quoted(folder)}", f"hydra.sweep.dir={_quoted(folder)}"]


def _quoted(text: str) -> str:
    """Writes a text in Hydra's grammar, where backslashes count before quotes alone."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + (r"\'" if found[2] else ""), text)
    return f"'{escaped}'"


def _run(folder: str, words: list[str], config: pytest.Config) -> tuple[int, str, str]:
    """Runs the command line; ends it if this process is interrupted, or ends."""
    # Python's own path is not led by the working folder, in which modules of the project may have any name.
    command = [sys.executable, "-P", "-m", "hydra_loader.apart", folder, *words, *_into(folder)]
    pipe, environment = subprocess.PIPE, {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONPATH": _python_path(config)}
    with subprocess.Popen(  # noqa: S603  # the words are those of this command
        command,
        cwd=config.rootpath,
        env=environment,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        encoding="utf-8",
        errors="replace",
    ) as process:
        holding, process.stdin = process.stdin, None  # closing it would end the process
        try:
            out, err = process.communicate()
        except BaseException:  # an interruption, or a timeout of another plugin
            process.kill()
            raise
        finally:
            if holding is not None:
                holding.close()
    return process.returncode, out, err


def _python_path(config: pytest.Config) -> str:
    """Returns the module path with the folders of pytest's setting `pythonpath`, which its own process alone has."""
    folders: Iterable[Any] = ()
    with contextlib.suppress(ValueError):  # an older pytest
        folders = config.getini("pythonpath")
    return os.pathsep.join(filter(None, [*map(str, folders), os.environ.get("PYTHONPATH", "")]))


def _failure(code: int, text: str) -> str:
    """Returns the text of a failure; a process that crashed has hardly said why."""
    if code >= 0:
        return text or f"the process ended with exit code {code} and no message"
    known = {member.value: member.name for member in signal.Signals}
    killed = f"the process was killed by {known.get(-code, f'signal {-code}')}"
    return f"{killed}\n{text}" if text else killed


def _ended_well(folder: Path) -> bool:
    """Returns whether a run or a sweep has written that it ended well: the model's own code may end the process."""
    for name, key, expected in (("report.json", "status", "ok"), ("summary.json", "failed", 0)):
        with contextlib.suppress(OSError, ValueError):
            return bool(json.loads((folder / name).read_text(encoding="utf-8")).get(key) == expected)
    return False


def _of_jobs(folder: Path) -> str:
    """Returns the refusals of the jobs of a config that makes a sweep."""
    try:
        jobs = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["jobs"]
        failed = [job for job in jobs if job["error"] is not None]
        return "\n".join(f"job {job['job']} ({' '.join(job['overrides'])}): {_of_job(job['error'])}" for job in failed)
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _of_job(error: dict[str, str]) -> str:
    hint = "".join(f"\n  try  {line}" for line in error["hint"].splitlines())
    return f"{error['message']}{hint}"


def _matches(patterns: list[str], base: Path, where: str) -> list[Path]:
    """Returns the configs that globs match, ``epoch=9`` before ``epoch=10``.

    Args:
        patterns: Paths or globs, relative to a folder.
        base: That folder.
        where: Where they come from, for messages.

    Raises:
        UsageError: A pattern matches nothing, or a match is not a config.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        names = sorted(glob.glob(str(base / os.path.expanduser(pattern)), recursive=True), key=_natural)  # noqa: PTH111, PTH207
        if not names:
            raise pytest.UsageError(f"{where}: no file matches '{pattern}' (searched from {base})")
        for name in names:
            if not name.endswith(_SUFFIX) or not os.path.isfile(name):  # noqa: PTH113
                inside = f"; for the configs in it: '{pattern.rstrip('/')}/*{_SUFFIX}'" if os.path.isdir(name) else ""  # noqa: PTH112
                raise pytest.UsageError(f"{where}: {name} is not a config, expected a {_SUFFIX} file{inside}")
            found[Path(os.path.abspath(name))] = None  # noqa: PTH100  # links stay: the test is named by this path
    return list(found)


def _natural(name: str) -> list[tuple[int, str]]:
    pieces = _DIGITS.split(name)
    return [(int(piece), "") if number % 2 else (0, piece) for number, piece in enumerate(pieces)]
