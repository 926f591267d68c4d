"""Where the Python processes of a sweep look for modules.

Guarantees: this package and Hydra are found before the user's own `loader.py` and `hydra.py`, whichever process of a
launcher or of the loader looks for them; a job's process sees the variables that the user set.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hydra_loader import USERS_FOLDER, users_folder

_NAMES = ("PYTHONPATH", "PYTHONSAFEPATH", USERS_FOLDER)


@contextmanager
def safe_path() -> Iterator[dict[str, str | None]]:
    """Has Python processes started inside search this package first, and the working folder not at all.

    Yields:
        What the variables were before, for `restored`.
    """
    before = {name: os.environ.get(name) for name in _NAMES}
    os.environ.update(_safe(before["PYTHONPATH"]))
    try:
        yield before
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {} if value is None else {name: value}


def restored(environment: Mapping[str, str], before: Mapping[str, str | None]) -> dict[str, str]:
    """Returns an environment without what `safe_path` put into it; what else was set since stays."""
    ours = _safe(before.get("PYTHONPATH"))
    own = {name: value for name, value in environment.items() if ours.get(name) != value}
    return own | {name: value for name, value in before.items() if value is not None and name not in own}


def find_modules_in(folder: str) -> None:
    """Makes the user's own modules importable: at the end, so that no file there hides an installed package."""
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)


def _safe(python_path: str | None) -> dict[str, str]:
    here = str(Path(__file__).resolve().parents[2])
    safe = {"PYTHONSAFEPATH": "1", **({USERS_FOLDER: users_folder()} if users_folder() else {})}
    if here in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        return safe
    return {**safe, "PYTHONPATH": os.pathsep.join([here, *filter(None, [python_path])])}
