"""Describes the machine, the process and the versions in a report.

Guarantees: imports no torch for a job that did not, and starts no process but git, where a tree holds the model's
source (`source`).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

from ..runtime import peak_memory
from .data import Report
from .source import git_of


def describe(report: Report, *, code: bool = True) -> None:
    """Describes the machine and the versions, and the process's peak memory.

    Args:
        report: The report to fill.
        code: Whether git is asked about the model's source.
    """
    report.environment = {
        "cwd": report.environment.get("cwd") or _folder(),
        "python": platform.python_version(),
        **_versions(),
        "packages": _packages(report),
        # Not `platform.platform()`, which starts a process for the processor's name.
        "platform": "-".join((platform.system(), platform.release(), platform.machine(), *platform.libc_ver())),
        "git": git_of(report.model.target) if code and report.model is not None else None,
    }
    if "torch" in sys.modules:
        report.environment |= _of_torch(report)
    report.memory = {"peak_rss_bytes": peak_memory()}


def _of_torch(report: Report) -> dict[str, Any]:
    """What torch knows; a job that did without it has nothing of it to report."""
    import torch  # noqa: PLC0415  # it has been imported

    return {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "devices": _devices(report),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "deterministic": {
            "algorithms": torch.are_deterministic_algorithms_enabled(),
            "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
            "cudnn": torch.backends.cudnn.deterministic,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "float32_matmul_precision": _matmul_precision(),
        },
    }


def _matmul_precision() -> str | None:
    import torch  # noqa: PLC0415  # it has been imported

    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None  # it was set in two ways, of which torch names neither


def _devices(report: Report) -> dict[str, str]:
    """Names the processor, and the accelerator that the model is on: asking for others would start them."""
    import torch  # noqa: PLC0415  # it has been imported

    found = {"cpu": _processor()}
    place = report.model.device if report.model is not None else ""
    kind = place.partition(":")[0]
    if kind in ("cuda", "xpu"):
        found[place] = str(getattr(torch, kind).get_device_name(place))
    elif kind == "mps":
        found[place] = platform.processor() or platform.machine()
    return found


@functools.cache
def _processor() -> str:
    """The processor's name as the system has it."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        for line in islice(lines, 50):
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "cpu model"):
                return value.strip()
    return platform.machine()


_NOTED = ("numpy", "accelerate", "timm", "torchmetrics", "torchvision", "transformers")
"""Packages whose versions change what a model computes, if a job has imported them."""


def _packages(report: Report) -> dict[str, str]:
    """The versions of imported packages: the loader's own, those of the config's targets, and some others."""
    own = sys.modules[__name__.partition(".")[0]]
    names = {name.partition(".")[0] for name in _targets(report.config)}
    found = {"hydra-loader": vars(own).get("__version__")}
    for name in sorted({*_NOTED, *names} - {"torch", "loader", "hydra_loader"}):
        module = sys.modules.get(name)
        found[name] = None if module is None else vars(module).get("__version__")
    return {name: version for name, version in found.items() if isinstance(version, str)}


def _targets(node: object) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)


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
