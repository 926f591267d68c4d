"""Mutated files of every format, put before the readers.

The law: a `LoaderError`, or a load; and where the format keeps checksums and the change did not renew them, a load
gives exactly the values of the file as it was.

    python -m tests.hostile.fuzz --minutes 10 --seed 7

tells how many files of each format were tried, read and refused. What breaks the law is kept in the folder, its format
and number are told, and `--only FORMAT:NUMBER` with the same seed makes it again.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from loader.errors import LoaderError
from loader.parts.open import open_checkpoint
from tests.formats.comparing import entries_below, raw
from tests.hostile.case import WEIGHT
from tests.hostile.child import improper
from tests.hostile.mutate import blind, knowing
from tests.hostile.samples import SAMPLES, SLOW, Writer

STATE = {"weight": WEIGHT, "bias": torch.arange(6.0).reshape(2, 3), "counts": torch.arange(4)}
WITH_CHECKSUMS = frozenset({"torch-zip", "torchscript", "npz", "torch-export"})
"""Formats whose every byte that is used has a checksum."""
SECONDS, MEMORY = 30, 1 << 30
"""Processor time, and memory beyond what the process has, for one file."""


class BrokenLawError(Exception):
    """A file that was neither refused nor read as it should be."""


@dataclass
class Format:
    """One format under test."""

    name: str
    path: Path
    """What is opened."""
    files: dict[Path, bytes]
    """The honest content of each of its files."""
    values: dict[str, list[bytes]]
    """What its tensors hold."""
    counts: Counter[str] = field(default_factory=Counter)

    def mutated(self, source: random.Random) -> bool:
        """Writes one mutation; says whether checksums were renewed."""
        for path, content in self.files.items():
            path.write_bytes(content)
        victim = source.choice(sorted(self.files))
        content = self.files[victim]
        known = knowing(content)
        renewed = bool(known) and source.random() < 0.5
        victim.write_bytes((source.choice(known) if renewed else blind)(content, source))
        return renewed

    def attempt(self, source: random.Random) -> None:
        """Tries one mutation.

        Raises:
            BrokenLawError: The law does not hold.
        """
        renewed = self.mutated(source)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            found = values_of(self.path)
        except LoaderError as error:
            if faults := [*improper(error)]:
                raise BrokenLawError(f"said {error.message[:200]!r}: {faults}") from error
            self.counts["refused"] += 1
        except Exception as error:
            raise BrokenLawError(f"leaked {type(error).__name__}: {error}") from error
        else:
            self.counts["read"] += 1
            if self.name in WITH_CHECKSUMS and not renewed:
                self.compare(found)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def compare(self, found: Mapping[str, list[bytes]]) -> None:
        """Raises BrokenLawError where a tensor holds something else than the honest file's."""
        other = [key for key, value in found.items() if self.values.get(key) != value]
        if other:
            raise BrokenLawError(f"gave other values for {other}")


def values_of(path: Path) -> dict[str, list[bytes]]:
    """The bytes of every tensor, read both ways; mapped ones are those that are returned."""
    found: dict[str, list[bytes]] = {}
    with open_checkpoint(path) as checkpoint:
        entries = entries_below(checkpoint.root)
        checkpoint.verify(entries.values())
        for key, entry in entries.items():
            owned = checkpoint.read(entry, mmap=False)
            tensor = checkpoint.read(entry)
            if tensor.device.type == "cpu" and tensor.numel() <= 1 << 16:
                found[key] = raw(tensor)
                if found[key] != raw(owned):
                    raise BrokenLawError(f"'{key}' differs with and without mapping")
        checkpoint.check_unchanged()
    return found


def prepared(name: str, writer: Writer, folder: Path) -> Format:
    """Writes the honest file and reads it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = writer(folder, STATE)
    files = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return Format(name, path, files, values_of(path))


def source_of(seed: int, name: str, number: int) -> random.Random:
    """The randomness of one try, which can be had again."""
    return random.Random(f"{seed}/{name}/{number}")


def fuzz(formats: list[Format], seed: int, numbers: Iterator[int]) -> str:
    """Tries each number with each format; returns what broke the law, or nothing."""
    soft = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (soft, resource.RLIM_INFINITY))
    for number in numbers:
        for tried in formats:
            (tried.path.parent / "number").write_text(f"{tried.name}:{number}")
            try:
                tried.attempt(source_of(seed, tried.name, number))
            except BrokenLawError as broken:
                return f"{tried.name}:{number} {broken}; kept in {tried.path.parent}"
    return ""


def numbers(tries: int, minutes: float) -> Iterator[int]:
    """Counts up to a number, or for some time."""
    end = time.monotonic() + 60 * minutes
    number = 0
    while number < tries if tries else time.monotonic() < end:
        yield number
        number += 1


def main(arguments: list[str]) -> int:
    """The command; exit code 1 where the law was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--tries", type=int, default=0, help="per format, in place of a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("fuzzed"), help="is written anew")
    parser.add_argument("--formats", nargs="*", default=[*SAMPLES], choices=[*SAMPLES, *SLOW])
    parser.add_argument("--only", default="", help="FORMAT:NUMBER")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    only, _, number = given.only.partition(":")
    every = {**SAMPLES, **SLOW}
    formats = [
        prepared(name, every[name], given.folder.absolute() / name) for name in ([only] if only else given.formats)
    ]
    broken = fuzz(formats, given.seed, iter([int(number)]) if only else numbers(given.tries, given.minutes))
    for tried in formats:
        sys.stdout.write(f"{tried.name:24}{tried.counts.total():8,} tried{tried.counts['refused']:9,} refused"
                         f"{tried.counts['read']:9,} read\n")  # fmt: skip
    sys.stdout.write(f"{broken or 'the law held'}\n")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
