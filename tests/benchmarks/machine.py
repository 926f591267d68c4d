"""What the system tells about a process and a file; None where it does not tell.

Resident memory counts every page that is present, those shared with the page cache too. Private memory counts the
`Anonymous` pages of /proc/self/smaps_rollup alone: the heap, and mapped pages that were written to. Private_Clean would
mislead: it counts a page of the page cache as private as long as a single process maps it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

_PAGE = mmap.PAGESIZE
_PIECE = 8 << 20


def memory() -> dict[str, int | None]:
    """Bytes: resident, the peak of it since `forget_peak`, and private."""
    status, rollup = _fields("/proc/self/status"), _fields("/proc/self/smaps_rollup")
    return {
        "resident": _kibibytes(status, "VmRSS"),
        "peak": _kibibytes(status, "VmHWM"),
        "private": _kibibytes(rollup, "Anonymous"),
    }


def forget_peak() -> None:
    """Makes the peak count from here on."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def transferred() -> dict[str, int | None]:
    """Bytes that were read through system calls, and bytes that came from the disk, page faults included."""
    fields = _fields("/proc/self/io")
    return {
        "read": int(fields["rchar"]) if "rchar" in fields else None,
        "disk": int(fields["read_bytes"]) if "read_bytes" in fields else None,
    }


def files_of(path: Path) -> list[Path]:
    """A checkpoint's files."""
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def read_through(paths: Iterable[Path]) -> int:
    """Reads files from start to end into one buffer; what there is to compare a cold load with."""
    buffer = bytearray(_PIECE)
    total = 0
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total


def warm(paths: Iterable[Path]) -> float:
    """Brings files into the page cache; returns the share of them that is in it."""
    read_through(paths)
    return 1.0


def drop_from_cache(paths: Iterable[Path]) -> float | None:
    """Drops files from the page cache; returns the share that is still in it, None where that cannot be known."""
    if not hasattr(os, "posix_fadvise"):
        return None
    files = list(paths)
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return cached(files)


def cached(paths: Iterable[Path]) -> float | None:
    """The share of files that is in the page cache, None where that cannot be known."""
    counted = [_resident_pages(path) for path in paths]
    known = [pages for pages in counted if pages is not None]
    if len(known) < len(counted):
        return None
    return sum(present for _, present in known) / max(sum(pages for pages, _ in known), 1)


def describe() -> dict[str, str]:
    """The machine and the date."""
    model = _fields("/proc/cpuinfo").get("model name", "")
    total = _kibibytes(_fields("/proc/meminfo"), "MemTotal")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "system": platform.platform(),
        "processor": f"{os.cpu_count()} x {model or platform.processor() or platform.machine()}",
        "memory": f"{total / 1e9:.0f} GB" if total else "unknown",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _resident_pages(path: Path) -> tuple[int, int] | None:
    """Pages of a file, and how many of them are in the page cache."""
    size = path.stat().st_size
    count = -(-size // _PAGE)
    mincore = getattr(ctypes.CDLL(None, use_errno=True), "mincore", None)
    if mincore is None or not count:
        return None
    flags = (ctypes.c_ubyte * count)()
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapping:
        start = ctypes.c_char.from_buffer(mapping)
        failed = mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), flags)
        del start
    return None if failed else (count, sum(flag & 1 for flag in flags))


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def _fields(path: str) -> Mapping[str, str]:
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in _lines(path))}


def _kibibytes(fields: Mapping[str, str], name: str) -> int | None:
    return int(fields[name].split()[0]) * 1024 if name in fields else None
