"""Describes the machine, the process and the versions in a report.

Guarantees: imports no torch for a job that did not, and starts no process.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path

from ..runtime import peak_memory
from .data import Report


def describe(report: Report) -> None:
    """Describes the machine and the versions, and the process's peak memory."""
    report.environment = {
        "cwd": report.environment.get("cwd") or _folder(),
        "python": platform.python_version(),
        **_versions(),
        # Not `platform.platform()`, which starts a process for the processor's name.
        "platform": "-".join((platform.system(), platform.release(), platform.machine(), *platform.libc_ver())),
    }
    if "torch" in sys.modules:
        import torch  # noqa: PLC0415  # a job that did without it has nothing of it to report

        found = {"torch": str(torch.__version__), "cuda": torch.version.cuda, "threads": torch.get_num_threads()}
        report.environment |= found
    report.memory = {"peak_rss_bytes": peak_memory()}


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  # a path as text
    except OSError:
        return None  # it has been removed


_VERSION = re.compile(r"^__version__ *(?:: *str *)?= *['\"]([^'\"]+)['\"]", re.MULTILINE)


@functools.cache
def _versions() -> dict[str, str]:
    """Reads the versions once; from imported modules, since `metadata` parses a package's whole description."""
    modules = {"hydra-core": "hydra", "omegaconf": "omegaconf", "safetensors": "safetensors"}
    found = {
        package: getattr(sys.modules.get(module), "__version__", None) or metadata.version(package)
        for package, module in modules.items()
    }
    return {"torch": torch_version(), **found}


@functools.cache
def torch_version() -> str:
    """Reads torch's own version, with its build (``2.6.0+cu124``), which the package's metadata may lack."""
    spec = importlib.util.find_spec("torch")  # without importing it
    file = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin else None
    found = _VERSION.search(file.read_text(encoding="utf-8")) if file is not None and file.is_file() else None
    return found[1] if found else metadata.version("torch")
